"""The C interface of VMware's VixDiskLib, as far as reading needs it, for ctypes.

The library is not ours and not redistributable: the administrator gives its directory. It starts threads, installs signal
handlers and may abort the process, so it is loaded only in a mover. Types as published in the headers of versions 6.7 to 8.0.
"""

import ctypes
import os
import sys
import threading
from pathlib import Path

from tranship.errors import (
    AuthFailed,
    CopyFailed,
    Denied,
    NotFound,
    Refused,
    Side,
    ToolMissing,
    TranshipError,
    Unreachable,
)
from tranship.transfer.library import DISTRIBUTION, folders

OK, INVALID_ARGUMENT, FILE_NOT_FOUND, NOT_SUPPORTED, ASYNC = 0, 3, 4, 6, 25000
NO_PERMISSION, VM_NOT_FOUND, SNAPSHOT_NOT_FOUND, NO_CONNECTION = 3014, 4000, 13003, 18000
MISSING = {FILE_NOT_FOUND: "disk", VM_NOT_FOUND: "VM of disk", SNAPSHOT_NOT_FOUND: "snapshot of disk"}
READ_ONLY = 4
SECTOR = 512
LEAST_CHUNK = 128  # sectors that one answer of QueryAllocatedBlocks stands for, at least
LIBRARIES = ("libvixDiskLib.so.9", "libvixDiskLib.so.8", "libvixDiskLib.so.7", "libvixDiskLib.so.6")
VERSIONS = ((8, 0), (7, 0), (6, 7), (6, 5))

Handle = ctypes.c_void_p
VixError = ctypes.c_uint64
Completion = ctypes.CFUNCTYPE(None, ctypes.c_void_p, VixError)
LogFunction = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p)


class UserPassword(ctypes.Structure):
    _fields_ = [("user", ctypes.c_char_p), ("password", ctypes.c_char_p)]


class SessionId(ctypes.Structure):
    _fields_ = [("cookie", ctypes.c_char_p), ("user", ctypes.c_char_p), ("key", ctypes.c_char_p)]


class Credentials(ctypes.Union):
    _fields_ = [("uid", UserPassword), ("session", SessionId), ("reserved", ctypes.c_void_p)]


class ConnectParams(ctypes.Structure):
    _fields_ = [
        ("vmx_spec", ctypes.c_char_p),
        ("server", ctypes.c_char_p),
        ("thumbprint", ctypes.c_char_p),
        ("reserved1", ctypes.c_long),
        ("credential_type", ctypes.c_int),
        ("credentials", Credentials),
        ("port", ctypes.c_uint32),
        ("nfc_port", ctypes.c_uint32),
        ("reserved3", ctypes.c_char_p),
        ("reserved4", ctypes.c_char * 8),
        ("reserved5", ctypes.c_void_p),
        ("storage_object", ctypes.c_char_p * 3),
        ("spec_type", ctypes.c_int),
    ]


class Geometry(ctypes.Structure):
    _fields_ = [("cylinders", ctypes.c_uint32), ("heads", ctypes.c_uint32), ("sectors", ctypes.c_uint32)]


class Info(ctypes.Structure):
    """Only ever read through a pointer that the library gives: later versions have more fields behind."""

    _fields_ = [
        ("bios", Geometry),
        ("physical", Geometry),
        ("capacity", ctypes.c_uint64),
        ("adapter", ctypes.c_int),
        ("links", ctypes.c_int),
        ("parent", ctypes.c_char_p),
        ("uuid", ctypes.c_char_p),
    ]


class Block(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class BlockList(ctypes.Structure):
    _fields_ = [("count", ctypes.c_uint32), ("blocks", Block * 1)]


_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "InitEx": (
        VixError,
        (
            ctypes.c_uint32,
            ctypes.c_uint32,
            LogFunction,
            LogFunction,
            LogFunction,
            ctypes.c_char_p,
            ctypes.c_char_p,
        ),
    ),
    "Exit": (None, ()),
    "GetErrorText": (ctypes.c_void_p, (VixError, ctypes.c_char_p)),
    "FreeErrorText": (None, (ctypes.c_void_p,)),
    "AllocateConnectParams": (ctypes.POINTER(ConnectParams), ()),
    "FreeConnectParams": (None, (ctypes.POINTER(ConnectParams),)),
    "ConnectEx": (
        VixError,
        (
            ctypes.POINTER(ConnectParams),
            ctypes.c_char,
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.POINTER(Handle),
        ),
    ),
    "Disconnect": (VixError, (Handle,)),
    "Open": (VixError, (Handle, ctypes.c_char_p, ctypes.c_uint32, ctypes.POINTER(Handle))),
    "Close": (VixError, (Handle,)),
    "GetInfo": (VixError, (Handle, ctypes.POINTER(ctypes.POINTER(Info)))),
    "FreeInfo": (None, (ctypes.POINTER(Info),)),
    "ReadAsync": (VixError, (Handle, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p, Completion, ctypes.c_void_p)),
    "Wait": (VixError, (Handle,)),
    "QueryAllocatedBlocks": (
        VixError,
        (Handle, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.POINTER(ctypes.POINTER(BlockList))),
    ),
    "FreeBlockList": (VixError, (ctypes.POINTER(BlockList),)),
}
_OPTIONAL = ("AllocateConnectParams", "FreeConnectParams", "QueryAllocatedBlocks", "FreeBlockList")


class Library:
    """The loaded library. `call` wraps what returns an error. One per directory, initialised once in a process."""

    _opened: dict[str, "Library"] = {}
    _lock = threading.Lock()

    @classmethod
    def open(cls, directory: str) -> "Library":
        """Raises ToolMissing that says what was looked for, or what the loader said."""
        with cls._lock:
            library = cls._opened.get(directory)
            if library is None:
                library = cls._opened[directory] = cls(directory)
            library.users += 1
            return library

    def __init__(self, directory: str) -> None:
        self.users = 0
        self.directory = directory
        path = _required(directory)
        self._home = str(path.parent.parent if path.parent.name == "lib64" else path.parent)
        self._c = _load(path, directory)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._c, f"VixDiskLib_{name}", None)
            if function is None and name not in _OPTIONAL:
                raise ToolMissing(f"it has no VixDiskLib_{name}", tool=f"VixDiskLib in {directory}")
            if function is not None:
                function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self._silent = LogFunction(_ignore)
        self._warn = LogFunction(_warn)
        self._init()

    def _init(self) -> None:
        code = INVALID_ARGUMENT
        for major, minor in VERSIONS:
            code = self.InitEx(  # type: ignore[attr-defined]
                major, minor, self._silent, self._warn, self._warn, self._home.encode(), None
            )
            if code == OK:
                return
        raise ToolMissing(f"InitEx: {self.text(code)}", tool=f"VixDiskLib in {self.directory}")

    def release(self) -> None:
        with self._lock:
            self.users -= 1
            if not self.users:
                del self._opened[self.directory]
                self.Exit()  # type: ignore[attr-defined]

    def has(self, name: str) -> bool:
        return getattr(self, name, None) is not None

    def call(self, name: str, *arguments: object) -> int:
        """The plain result of VixDiskLib_NAME."""
        return int(getattr(self, name)(*arguments) or 0)

    def check(self, name: str, *arguments: object, disk: str, user: str = "") -> None:
        """Raises what the library's error means."""
        code = self.call(name, *arguments)
        if code != OK:
            raise self.error(name, code, disk, user)

    def error(self, name: str, code: int, disk: str, user: str = "") -> TranshipError:
        text, what, number = self.text(code), f"VixDiskLib_{name}", code & 0xFFFF
        if number == NO_PERMISSION and name == "ConnectEx":
            return AuthFailed(f"{what}: {text}", side=Side.SOURCE, address=disk, user=user)
        if number == NO_PERMISSION:
            return Denied(text, side=Side.SOURCE, what=f"{what} of {disk}")
        if number in MISSING:
            return NotFound(f" ({what}: {text})", side=Side.SOURCE, what=MISSING[number], name=disk)
        if number == NO_CONNECTION:
            return Unreachable(f"{what}: {text}", side=Side.SOURCE, address=f"the host of {disk}")
        if number in (INVALID_ARGUMENT, NOT_SUPPORTED):
            return Refused(text, side=Side.SOURCE, what=what, fault=f"VIX {code}")
        return CopyFailed(f"{what}: {text} (VIX {code})", side=Side.SOURCE, disk=disk)

    def text(self, code: int) -> str:
        pointer = self.call("GetErrorText", code, None)
        if not pointer:
            return f"error {code}"
        try:
            return (ctypes.cast(pointer, ctypes.c_char_p).value or b"").decode(errors="replace")[:300]
        finally:
            self.call("FreeErrorText", pointer)


def find(directory: str) -> Path | None:
    """The library file within a directory of any of the known forms."""
    return next((f / name for f in folders(directory) for name in LIBRARIES if (f / name).exists()), None)


def _required(directory: str) -> Path:
    path = find(directory)
    if path is None:
        detail = f"no {LIBRARIES[1]} (nor .9, .7, .6) in it, in its lib64 or in its {DISTRIBUTION}/lib64"
        raise ToolMissing(
            detail, tool=f"VixDiskLib in {directory!r}", remedy="Name the directory of the unpacked VDDK."
        )
    return path


def _load(path: Path, directory: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    except OSError as error:
        raise ToolMissing(str(error), tool=f"VixDiskLib in {directory!r}") from error


def _ignore(text: bytes, arguments: int) -> None:
    """The library's chatter: it would fill the log, and it may name sessions."""


def _warn(text: bytes, arguments: int) -> None:
    """Only the message's form: what it would be filled with may be secret."""
    sys.stderr.write(f"vixdisklib: {(text or b'').decode(errors='replace').strip()[:200]}\n")
