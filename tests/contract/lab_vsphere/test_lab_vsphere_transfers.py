"""Export leases and the datastore folder: real VMDKs decoded by qemu-img, ranges, refusals, timeouts."""

import base64
import hashlib
import http.client
import random
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pyVmomi import vim

from tranship.lab.vsphere import VCenter

MIB = 1 << 20
FLAT = "/folder/a/a-flat.vmdk?dcPath=Datacenter&dsName=datastore1"


def http_get(client: Any, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPSConnection("localhost", client.center.port, context=client.context, timeout=20)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def ready(client: Any, lease: Any) -> Any:
    """The lease's info, once it is ready."""
    center = client.center
    with center.world.changed:
        assert center.world.changed.wait_for(lambda: center.world.find(lease._moId).state != "initializing", 10)
    assert lease.state == "ready"
    return lease.info


def decode(tmp_path: Path, data: bytes) -> bytes:
    vmdk, raw = tmp_path / "got.vmdk", tmp_path / "got.raw"
    vmdk.write_bytes(data)
    info = subprocess.run(["qemu-img", "info", vmdk], capture_output=True, text=True, timeout=30, check=True).stdout
    assert "streamOptimized" in info
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk, raw], timeout=60, check=True)
    return raw.read_bytes()


def picture(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size // 2) + bytes(size // 2)


def test_export_of_a_stopped_vm(center: VCenter, client: Any, tmp_path: Path) -> None:
    contents = [picture(1, 4 * MIB), picture(2, 2 * MIB)]
    vm = center.add_vm("a", contents)
    lease = client.vm(vm).ExportVm()
    info = ready(client, lease)
    assert info.leaseTimeout == 300 and info.totalDiskCapacityInKB == 6 * 1024 and info.entity._moId == vm.moref
    assert [url.targetId for url in info.deviceUrl] == ["disk-0.vmdk", "disk-1.vmdk"]
    assert [url.key.rpartition(":")[2] for url in info.deviceUrl] == ["0", "1"]
    for url, content in zip(info.deviceUrl, contents, strict=True):
        parts = urlsplit(url.url)
        assert parts.hostname == "*" and url.disk and url.sslThumbprint == center.thumbprint
        status, headers, data = http_get(client, parts.path)
        assert status == 200 and headers["Transfer-Encoding"] == "chunked" and "Content-Length" not in headers
        assert decode(tmp_path, data) == content
        lease.HttpNfcLeaseProgress(50)
        manifest = lease.HttpNfcLeaseGetManifest()[-1]
        assert manifest.sha1 == hashlib.sha1(data).hexdigest() and manifest.size == len(data)
    assert lease.transferProgress == 50
    lease.HttpNfcLeaseComplete()
    assert lease.state == "done"
    assert http_get(client, urlsplit(info.deviceUrl[0].url).path)[0] == 404
    with pytest.raises(vim.fault.InvalidState):
        lease.HttpNfcLeaseComplete()
    assert not list(center.directory.glob("exports/*/*"))


def test_export_of_a_snapshot_while_the_vm_writes(center: VCenter, client: Any, tmp_path: Path) -> None:
    content = picture(3, 4 * MIB)
    vm = center.add_vm("a", [content], running=True, cbt=True)
    with pytest.raises(vim.fault.InvalidPowerState):
        client.vm(vm).ExportVm()
    client.snapshot(vm, "one")
    vm.write(MIB, b"later" * 1000)
    frozen = vm.read()
    two = client.snapshot(vm, "two")
    vm.write(2 * MIB, b"still later" * 1000)
    lease = two.ExportSnapshot()
    path = urlsplit(ready(client, lease).deviceUrl[0].url).path
    assert decode(tmp_path, http_get(client, path)[2]) == frozen
    with pytest.raises(vim.fault.InvalidState):
        two.ExportSnapshot()
    with pytest.raises(vim.fault.InvalidState):
        client.wait(two.RemoveSnapshot_Task(False))
    lease.HttpNfcLeaseAbort()
    assert lease.state == "error"
    client.wait(two.RemoveSnapshot_Task(False))


def test_silent_lease_dies_and_its_download_with_it(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [random.Random(4).randbytes(8 * MIB)])
    lease = client.vm(vm).ExportVm()
    path = urlsplit(ready(client, lease).deviceUrl[0].url).path
    with pytest.raises(vim.fault.InvalidState):
        client.wait(client.vm(vm).PowerOnVM_Task())
    connection = http.client.HTTPSConnection("localhost", center.port, context=client.context, timeout=20)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read(1000)
    center.lease_timeout = 0.05
    lease.HttpNfcLeaseProgress(1)
    with center.world.changed:
        assert center.world.changed.wait_for(lambda: center.world.find(lease._moId).state == "error", 10)
    with pytest.raises((http.client.IncompleteRead, ConnectionError, OSError)):
        answer.read()
    connection.close()
    with pytest.raises(vim.fault.Timedout):
        lease.HttpNfcLeaseProgress(2)
    client.wait(client.vm(vm).PowerOnVM_Task())


def test_broken_download(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [picture(5, 4 * MIB)])
    path = urlsplit(ready(client, client.vm(vm).ExportVm()).deviceUrl[0].url).path
    center.faults.add("GET /nfc", drop_after=100_000)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        http_get(client, path)
    assert http_get(client, path)[0] == 200


def test_folder_ranges(center: VCenter, client: Any) -> None:
    content = picture(6, 3 * MIB)
    center.add_vm("a", [content])
    own = {"Cookie": client.cookie}
    status, headers, data = http_get(client, FLAT, "HEAD", **own)
    assert (status, headers["Content-Length"], data) == (200, str(3 * MIB), b"")
    assert http_get(client, FLAT, **own)[2] == content
    for wanted, start, end in (("0-511", 0, 512), ("1000000-", 1000000, 3 * MIB), ("-7", 3 * MIB - 7, 3 * MIB)):
        status, headers, data = http_get(client, FLAT, Range=f"bytes={wanted}", **own)
        assert (status, data) == (206, content[start:end])
        assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{3 * MIB}"
    status, headers, _ = http_get(client, FLAT, Range=f"bytes={3 * MIB}-", **own)
    assert (status, headers["Content-Range"]) == (416, f"bytes */{3 * MIB}")
    assert b"a-flat.vmdk" in http_get(client, FLAT.replace("-flat", ""), **own)[2]
    assert http_get(client, FLAT.replace("datastore1", "datastore2"), **own)[0] == 404


def test_folder_asks_who_comes(center: VCenter, client: Any) -> None:
    center.add_vm("a", [MIB])
    assert http_get(client, FLAT)[0] == 401
    assert http_get(client, FLAT, Cookie='vmware_soap_session="no"')[0] == 401
    for password, status in ((center.password, 200), ("wrong", 401)):
        token = base64.b64encode(f"{center.user}:{password}".encode()).decode()
        assert http_get(client, FLAT, "HEAD", Authorization=f"Basic {token}")[0] == status
    center.missing_privileges.add("Datastore.FileManagement")
    assert http_get(client, FLAT, Cookie=client.cookie)[0] == 403


def test_folder_refuses_a_running_vm_and_a_chain(center: VCenter, client: Any) -> None:
    vm = center.add_vm("a", [MIB], running=True)
    assert http_get(client, FLAT, Cookie=client.cookie)[0] == 500
    snapshot = client.snapshot(vm, "s")
    client.wait(client.vm(vm).PowerOffVM_Task())
    assert http_get(client, FLAT, Cookie=client.cookie)[0] == 403
    client.wait(snapshot.RemoveSnapshot_Task(False))
    assert http_get(client, FLAT, Cookie=client.cookie)[0] == 200
    center.faults.add("GET /folder", drop_after=1000, vm="a")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        http_get(client, FLAT, Cookie=client.cookie)
    center.faults.add("GET /folder", status=503)
    assert http_get(client, FLAT, Cookie=client.cookie)[0] == 503
