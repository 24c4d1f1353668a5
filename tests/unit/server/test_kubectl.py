"""The genuine kubectl works with the embedded server, over TLS with the server's own certificate."""

import asyncio
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tranship.resources.meta import parse
from tranship.server.app import make_app
from tranship.server.serve import serve
from tranship.server.tls import own_certificate
from tranship.store.memory import MemoryStore

KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")

MANIFEST = """
apiVersion: v1
kind: Secret
metadata: {name: vc, namespace: moves}
stringData: {user: admin, password: PASSWORD}
---
apiVersion: forklift.konveyor.io/v1beta1
kind: Provider
metadata: {name: vc, namespace: moves}
spec: {type: TYPE, url: "https://vc.example/sdk", secret: {name: vc, namespace: moves}}
"""


def check(obj: dict[str, Any]) -> Mapping[str, Any]:
    parse(obj)
    return obj


def test_kubectl(tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "t",
        "users": [{"name": "t", "user": {"token": "test-token"}}],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t", "namespace": "moves"}}],
    }

    async def kubectl(*words: str, stdin: str = "", code: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            str(KUBECTL),
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"KUBECONFIG": str(tmp_path / "config"), "HOME": str(tmp_path)},
        )
        async with asyncio.timeout(30):
            output, _ = await process.communicate(stdin.encode())
        assert process.returncode == code, output.decode()
        return output.decode()

    async def story() -> None:
        store = MemoryStore()
        app = make_app(store, token="test-token", inventory=lambda uid: None, validate=check, version="0.0.0")
        files = await asyncio.to_thread(own_certificate, tmp_path)
        async with serve(app, certificate=files.certificate, key=files.key) as serving:
            cluster = {"server": serving.url, "certificate-authority": str(files.ca)}
            (tmp_path / "config").write_text(json.dumps(config | {"clusters": [{"name": "t", "cluster": cluster}]}))
            manifest = MANIFEST.replace("TYPE", "vsphere")
            assert "created" in await kubectl("apply", "-f", "-", stdin=manifest.replace("PASSWORD", "one"))
            again = await kubectl("apply", "-f", "-", stdin=manifest.replace("PASSWORD", "two"))
            assert "secret/vc configured" in again and "vc unchanged" in again
            assert "dHdv" in await kubectl("get", "secret", "vc", "-o", "jsonpath={.data.password}")
            refused = await kubectl("apply", "-f", "-", stdin=MANIFEST.replace("TYPE", "[1]"), code=1)
            assert "spec.type" in refused
            table = await kubectl("get", "providers", "--all-namespaces")
            assert table.split()[:4] == ["NAMESPACE", "NAME", "TYPE", "STATUS"] and "https://vc.example/sdk" in table
            await kubectl("patch", "provider", "vc", "--type=merge", "-p", '{"spec":{"settings":{"a":"b"}}}')
            await kubectl("label", "provider", "vc", "wave=1")
            assert "vc" in await kubectl("get", "prov", "-l", "wave in (1)", "-o", "name")
            await kubectl("wait", "provider/vc", "--for=jsonpath={.spec.type}=vsphere", "--timeout=10s")
            assert "settings" in await kubectl("explain", "provider.spec")
            assert "deleted" in await kubectl("delete", "provider,secret", "vc")
            assert "NotFound" in await kubectl("get", "provider", "vc", code=1)

    asyncio.run(story())
