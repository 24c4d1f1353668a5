"""The lab's libvixDiskLib, called by ctypes in a process of its own, against the block service."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tranship.errors import Busy, NotFound
from tranship.lab.storage import GRAIN, Volume
from tranship.lab.vddk import BlockService, Trouble, build_library

Run = Callable[..., list[str]]

PROGRAM = """
import ctypes as C, hashlib, os, sys, threading
from ctypes import byref, c_char_p, c_int, c_long, c_uint32, c_uint64, c_void_p

class Uid(C.Structure): _fields_ = [("user", c_char_p), ("password", c_char_p)]
class Session(C.Structure): _fields_ = [("cookie", c_char_p), ("user", c_char_p), ("key", c_char_p)]
class Creds(C.Union): _fields_ = [("uid", Uid), ("session", Session)]
class Params(C.Structure):
    _fields_ = [("vmx", c_char_p), ("server", c_char_p), ("thumb", c_char_p), ("private", c_long), ("kind", c_int),
        ("creds", Creds), ("port", c_uint32), ("nfc", c_uint32), ("api", c_char_p), ("reserved", C.c_char * 8),
        ("state", c_void_p), ("spec", c_char_p * 3), ("spec_type", c_int)]
class Info(C.Structure):
    _fields_ = [("geometry", c_uint32 * 6), ("capacity", c_uint64), ("adapter", c_int), ("links", c_int),
        ("parent", c_char_p), ("uuid", c_char_p)]
class Block(C.Structure): _fields_ = [("offset", c_uint64), ("length", c_uint64)]
class List(C.Structure): _fields_ = [("count", c_uint32), ("blocks", Block * 1)]
DONE = C.CFUNCTYPE(None, c_void_p, c_uint64)

v = C.CDLL(sys.argv[1] + "/lib64/libvixDiskLib.so.8")
for name in "InitEx ConnectEx Open GetInfo Read ReadAsync Wait QueryAllocatedBlocks Close Disconnect".split():
    getattr(v, "VixDiskLib_" + name).restype = c_uint64
v.VixDiskLib_GetErrorText.restype = c_void_p
v.VixDiskLib_GetErrorText.argtypes = [c_uint64, c_char_p]
v.VixDiskLib_FreeErrorText.argtypes = [c_void_p]
v.VixDiskLib_AllocateConnectParams.restype = C.POINTER(Params)
v.VixDiskLib_GetTransportMode.restype = v.VixDiskLib_ListTransportModes.restype = c_char_p
u64 = c_uint64

def connect(
    snapshot=b"snapshot-7", user=b"root", password=b"secret", vmx=b"moref=vm-42", modes=b"nbdssl:nbd", cookie=None, key=b"k"
):
    params = v.VixDiskLib_AllocateConnectParams()
    p = params.contents
    p.vmx, p.server, p.thumb, p.port, p.kind = vmx, b"127.0.0.1", b"AA:BB", 443, 2 if cookie else 1
    if cookie:
        p.creds.session.cookie, p.creds.session.user, p.creds.session.key = cookie, user, key
    else:
        p.creds.uid.user, p.creds.uid.password = user, password
    connection = c_void_p()
    code = v.VixDiskLib_ConnectEx(params, 1, snapshot, modes, byref(connection))
    v.VixDiskLib_FreeConnectParams(params)
    return code, connection

def disk(path=b"[ds] vm/vm.vmdk", flags=4, **options):
    code, connection = connect(**options)
    assert code == 0, code
    handle = c_void_p()
    return v.VixDiskLib_Open(connection, path, flags, byref(handle)), connection, handle

def read(handle, start, count):
    buffer = C.create_string_buffer(count * 512)
    return v.VixDiskLib_Read(handle, u64(start), u64(count), buffer), buffer.raw

def sha(data):
    return hashlib.sha256(data).hexdigest()

def start():
    assert v.VixDiskLib_InitEx(8, 0, None, None, None, sys.argv[1].encode(), None) == 0
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("vddk"), "unix:/nowhere")


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    volume = Volume(tmp_path / "disk", 32 * GRAIN)
    for grain in (0, 1, 9, 31):
        volume.write(grain * GRAIN, bytes([grain + 1]) * GRAIN)
    volume.snapshot("snapshot-7")
    volume.write(0, b"later" * 1000)
    return volume


@pytest.fixture
def service(volume: Volume) -> Iterator[BlockService]:
    def find(moref: str, snapshot: str, path: str) -> tuple[Volume, str | None]:
        if moref != "vm-42":
            raise NotFound(what="vm", name=moref)
        if not snapshot:
            raise Busy(what="open", fault="FileLocked")
        if snapshot not in volume.snapshots:
            raise NotFound(what="snapshot", name=snapshot)
        if path != "[ds] vm/vm.vmdk":
            raise NotFound(what="disk", name=path)
        return volume, snapshot

    service = BlockService(
        lambda user, password: (user, password) == ("root", "secret"),
        find,
        session=lambda *told: told == ("c00kie", "root", "k"),
    )
    service.start()
    yield service
    service.close()


@pytest.fixture
def run(library: Path, service: BlockService) -> Run:
    """Run a few lines with the library loaded; the lines they print."""
    build_library(library, service.address)

    def run(lines: str) -> list[str]:
        argv = [sys.executable, "-c", PROGRAM + lines, str(library)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_the_layout_is_the_distributions(library: Path) -> None:
    lib = library / "lib64"
    assert (lib / "libvixDiskLib.so").resolve() == (lib / "libvixDiskLib.so.8").resolve()
    assert (lib / "libvixDiskLib.so.8").resolve().name.startswith("libvixDiskLib.so.8.0.")


def test_a_snapshot_is_read_as_it_was(run: Run, volume: Volume) -> None:
    import hashlib

    lines = run("""
start()
code, connection, handle = disk()
info = C.POINTER(Info)()
assert v.VixDiskLib_GetInfo(handle, byref(info)) == 0
print(info.contents.capacity, info.contents.links, v.VixDiskLib_GetTransportMode(handle), v.VixDiskLib_ListTransportModes())
v.VixDiskLib_FreeInfo(info)
print(sha(read(handle, 0, 32 * 128)[1]))
assert v.VixDiskLib_Flush(handle) == 0
assert v.VixDiskLib_Close(handle) == 0
assert v.VixDiskLib_Disconnect(connection) == 0
v.VixDiskLib_Exit()
""")
    assert lines[0] == f"{32 * 128} 1 b'nbdssl' b'file:nbdssl:nbd'"
    assert lines[1] == hashlib.sha256(volume.read(0, volume.capacity, "snapshot-7")).hexdigest()


def test_many_reads_in_flight_on_several_handles(run: Run, service: BlockService, volume: Volume) -> None:
    import hashlib

    service.faults.latency = 0.05
    began = time.monotonic()
    lines = run("""
start()
def work(out, at):
    code, connection, handle = disk()
    buffer = C.create_string_buffer(32 * 65536)
    seen, main = [], threading.get_ident()
    def done(data, result):
        seen.append((data or 0, result, threading.get_ident() != main))
    callback = DONE(done)
    for grain in range(32):
        where = C.cast(C.addressof(buffer) + grain * 65536, c_void_p)
        assert v.VixDiskLib_ReadAsync(handle, u64(grain * 128), u64(128), where, callback, c_void_p(grain)) == 25000
    assert v.VixDiskLib_Wait(handle) == 0
    assert sorted(seen) == [(grain, 0, True) for grain in range(32)]
    out[at] = sha(buffer.raw)
    assert v.VixDiskLib_Close(handle) == 0
out = {}
threads = [threading.Thread(target=work, args=(out, at)) for at in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*set(out.values()), len(out))
""")
    assert lines == [hashlib.sha256(volume.read(0, volume.capacity, "snapshot-7")).hexdigest() + " 4"]
    assert service.reads == 128
    assert time.monotonic() - began < 128 * 0.05, "the delays of reads in flight must overlap"


def test_allocated_chunks(run: Run) -> None:
    lines = run("""
start()
code, connection, handle = disk()
def query(start, count, chunk):
    found = C.POINTER(List)()
    code = v.VixDiskLib_QueryAllocatedBlocks(handle, u64(start), u64(count), u64(chunk), byref(found))
    if code:
        return code
    blocks = C.cast(byref(found.contents, List.blocks.offset), C.POINTER(Block))
    pairs = [(blocks[i].offset, blocks[i].length) for i in range(found.contents.count)]
    v.VixDiskLib_FreeBlockList(found)
    return pairs
print(query(0, 4096, 128))
print(query(1024, 1024, 256))
print(query(0, 4096, 64), query(1, 128, 128), query(4096, 128, 128))
""")
    assert lines == ["[(0, 256), (1152, 128), (3968, 128)]", "[(1024, 256)]", "3 3 16007"]


def test_refusals_carry_the_genuine_codes(run: Run) -> None:
    lines = run("""
print(connect()[0])
start()
print(connect(password=b"wrong")[0], connect(user=b"who")[0], connect(cookie=b"old")[0], connect(cookie=b"c00kie")[0])
print(connect(modes=b"san:hotadd")[0], connect(vmx=b"[ds] vm/vm.vmx")[0])
print(disk(path=b"[ds] other.vmdk")[0], disk(snapshot=b"snapshot-8")[0], disk(snapshot=None)[0], disk(vmx=b"moref=vm-1")[0])
print(disk(flags=0)[0])
code, connection, handle = disk()
print(read(handle, 4096, 1)[0], read(handle, 4095, 2)[0], read(handle, 0, 0)[0], read(None, 0, 1)[0])
for code in (3014, 4, 4711):
    text = v.VixDiskLib_GetErrorText(code, None)
    print(C.string_at(text).decode())
    v.VixDiskLib_FreeErrorText(text)
""")
    assert lines[:6] == ["16001", "3014 3014 3014 0", "6 3", "4 13003 13 4000", "11", "16007 16007 3 3"]
    assert lines[6:] == [
        "Insufficient permissions in the host operating system",
        "A file was not found",
        "Unknown error",
    ]


def test_a_failed_read_and_a_lost_connection(run: Run, service: BlockService) -> None:
    service.faults.reads = {2: Trouble.FAIL, 4: Trouble.DROP}
    lines = run("""
start()
code, connection, handle = disk()
print(*[read(handle, 0, 8)[0] for _ in range(5)])
results = []
callback = DONE(lambda data, result: results.append(result))
print(v.VixDiskLib_ReadAsync(handle, u64(0), u64(1), C.create_string_buffer(512), callback, None))
print(v.VixDiskLib_Close(handle), disk()[0])
""")
    assert lines == ["0 7 0 14011 14011", "14011", "0 0"]


def test_reads_in_flight_are_all_told_of_a_lost_connection(run: Run, service: BlockService) -> None:
    service.faults.reads = {3: Trouble.DROP}
    lines = run("""
start()
code, connection, handle = disk()
results = []
callback = DONE(lambda data, result: results.append(result))
buffers = [C.create_string_buffer(512) for _ in range(8)]
codes = [v.VixDiskLib_ReadAsync(handle, u64(i), u64(1), buffers[i], callback, None) for i in range(8)]
v.VixDiskLib_Wait(handle)
print(len(results) == codes.count(25000), results[:3], set(results[2:]) | set(codes) <= {14011, 25000})
""")
    assert lines == ["True [0, 0, 14011] True"]


def test_a_hanging_read_ends_when_the_service_does(library: Path, service: BlockService) -> None:
    service.faults.reads = {2: Trouble.HANG}
    build_library(library, service.address)
    lines = "start()\nhandle = disk()[2]\nread(handle, 0, 1)\nprint('hangs', flush=True)\nprint(read(handle, 0, 1)[0])"
    argv = [sys.executable, "-c", PROGRAM + lines, str(library)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "hangs\n"
    service.close()
    output, _ = child.communicate(timeout=10)
    assert output == "14011\n"
    service.close()


def test_a_unix_socket_and_a_missing_service(library: Path, tmp_path: Path, volume: Volume) -> None:
    service = BlockService(
        lambda *_: True, lambda *_: (volume, None), listen=tmp_path / "blocks.sock", thumbprint="aabb"
    )
    service.start()
    build_library(library, service.address)
    argv = [sys.executable, "-c", PROGRAM + "start()\nprint(read(disk(b'any')[2], 0, 1)[1][:5])", str(library)]
    assert subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout == "b'later'\n"
    service.close()
    argv[2] = PROGRAM + "start()\nprint(connect()[0])"
    assert subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout == "18000\n"
