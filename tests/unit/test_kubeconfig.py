"""Kubeconfigs as people have them: what is taken, what is refused, and in which words."""

import base64
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tranship.cluster.kubeconfig import from_kubeconfig, in_cluster
from tranship.errors import Invalid, ToolFailed, ToolMissing
from tranship.lab.certificates import make_identity

URL = "https://api.example.com:6443"


def write(folder: Path, user: dict[str, Any], **cluster: Any) -> Path:
    path = folder / "config"
    contexts = [
        {"name": "a", "context": {"cluster": "c", "user": "u", "namespace": "web"}},
        {"name": "b", "context": {"cluster": "c", "user": "u"}},
    ]
    told = {
        "current-context": "a",
        "contexts": contexts,
        "clusters": [{"name": "c", "cluster": {"server": URL, **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(told))
    return path


def header(auth: httpx2.Auth) -> str:
    return next(auth.auth_flow(httpx2.Request("GET", URL))).headers.get("Authorization", "")


def test_a_token_and_the_contexts_namespace(tmp_path: Path) -> None:
    access = from_kubeconfig(write(tmp_path, {"token": "t"}))
    assert (access.url, access.namespace, header(access.auth)) == (URL, "web", "Bearer t")
    assert from_kubeconfig(tmp_path / "config", "b").namespace == "default"
    assert "Bearer" not in repr(access)


def test_a_token_file_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    access = from_kubeconfig(write(tmp_path, {"tokenFile": "token"}))
    assert header(access.auth) == "Bearer one"
    (tmp_path / "token").write_text("two\n")
    assert header(access.auth) == "Bearer two"


def test_an_own_authority_and_a_client_certificate(tmp_path: Path) -> None:
    identity = make_identity(tmp_path / "pki")
    data = {name: (tmp_path / "pki" / name).read_bytes() for name in ("server.pem", "server.key")}
    user = {"client-certificate": "pki/server.pem", "client-key-data": base64.b64encode(data["server.key"]).decode()}
    access = from_kubeconfig(write(tmp_path, user, **{"certificate-authority": "pki/ca.pem"}))
    assert access.trust.get_ca_certs()
    assert identity.ca_pem
    broken = {"client-certificate": "pki/ca.pem", "client-key": "pki/server.key"}
    with pytest.raises(Invalid, match="do not fit"):
        from_kubeconfig(write(tmp_path, broken))


@pytest.mark.parametrize(
    ("user", "cluster", "words"),
    [
        ({"username": "u", "password": "p"}, {}, "username"),
        ({"auth-provider": {"name": "gcp"}}, {}, "auth-provider"),
        ({}, {"proxy-url": "http://p"}, "proxy-url"),
        ({}, {"server": "http://plain"}, "no https address"),
        ({}, {"certificate-authority": "missing.pem"}, "missing.pem"),
        ({"exec": {"apiVersion": "v0", "command": "x"}}, {}, "v0"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, user: Any, cluster: Any, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        from_kubeconfig(write(tmp_path, user, **cluster))


def test_an_unknown_context_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="has no 'x'; there are: a, b"):
        from_kubeconfig(write(tmp_path, {}), "x")
    with pytest.raises(Invalid, match="cannot be read"):
        from_kubeconfig(tmp_path / "nothing")


def plugin(folder: Path, text: str) -> dict[str, Any]:
    """One that prints what text says; it counts its calls in a file."""
    path = folder / "plugin"
    path.write_text(f'#!/bin/sh\necho called >>{folder}/calls\necho "$KUBERNETES_EXEC_INFO" >{folder}/info\n{text}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "args": ["x"]}}


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text().splitlines())


def test_a_plugin_is_asked_again_when_its_token_ends_or_is_refused(tmp_path: Path) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {"token": "t", "expirationTimestamp": soon}
    auth = from_kubeconfig(write(tmp_path, plugin(tmp_path, f"echo '{json.dumps({'status': status})}'"))).auth
    assert json.loads((tmp_path / "info").read_text())["kind"] == "ExecCredential"
    assert calls(tmp_path) == 1
    assert header(auth) == "Bearer t"
    assert calls(tmp_path) == 2
    late = {"status": {"token": "new"}}
    plugin(tmp_path, f"echo '{json.dumps(late)}'")
    assert header(auth) == "Bearer new"
    flow = auth.auth_flow(httpx2.Request("GET", URL))
    next(flow)
    again = flow.send(httpx2.Response(401))
    assert again.headers["Authorization"] == "Bearer new"
    assert calls(tmp_path) == 4


def test_a_plugin_that_fails_or_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match="no login"):
        from_kubeconfig(write(tmp_path, plugin(tmp_path, "echo no login >&2; exit 3")))
    user = plugin(tmp_path, "")
    user["exec"] |= {"command": "./missing", "installHint": "get it there"}
    with pytest.raises(ToolMissing, match="get it there"):
        from_kubeconfig(write(tmp_path, user))


def test_in_a_pod(tmp_path: Path) -> None:
    make_identity(tmp_path)
    (tmp_path / "ca.pem").rename(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("pod\n")
    (tmp_path / "namespace").write_text("tranship\n")
    access = in_cluster(tmp_path, {"KUBERNETES_SERVICE_HOST": "fd00::1"})
    assert (access.url, access.namespace, header(access.auth)) == ("https://[fd00::1]:443", "tranship", "Bearer pod")
    with pytest.raises(Invalid, match="no pod"):
        in_cluster(tmp_path / "nowhere", {})
