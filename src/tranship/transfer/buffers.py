"""Memory that payload lives in, and the two things that are asked of it: is it zero, and what is its digest.

A buffer is allocated once (anonymous mmap: page-aligned, given back on close) and used for leaf after leaf; sockets
and files read straight into its memoryview and write straight out of it.

Numbers behind the zero test (GB/s): `memoryview == bytes` 0.4, memcmp 16. So a few words are looked at first, which
costs nothing on real data, and only what looks like zeros is compared as a whole.
"""

import ctypes
import mmap
from collections.abc import Iterator
from types import TracebackType

from blake3 import blake3

GRANULE = 64 << 10  # the smallest run of zeros that is worth a hole
ZEROS = bytes(1 << 20)

# PyDLL keeps the interpreter lock: giving it up and fighting for it again costs more than comparing 64 KiB.
_memcmp = ctypes.PyDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memset = ctypes.CDLL(None).memset
_memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
_memset.restype = ctypes.c_void_p
_ZEROS_ADDRESS = ctypes.cast(ctypes.c_char_p(ZEROS), ctypes.c_void_p).value or 0


class Buffer:
    """size: a multiple of the page size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(-1, size)
        self._anchor = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)
        self.view = memoryview(self._map)
        self._words = self.view.cast("Q")

    def is_zero(self, start: int, length: int) -> bool:
        """start and length are best multiples of 8; anything is right."""
        if length >= 64 and not start % 8:
            words, first, last = self._words, start >> 3, ((start + length) >> 3) - 1
            if words[first] or words[last] or words[(first + last) >> 1]:
                return False
        address = self.address + start
        for at in range(0, length, len(ZEROS)):
            if _memcmp(address + at, _ZEROS_ADDRESS, min(len(ZEROS), length - at)):
                return False
        return True

    def runs(self, start: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """(start, length, zero) of the runs of data and of zeros, looked at by GRANULE."""
        end, begin, kind = start + length, start, False
        at = start
        while at < end:
            stop = min(end, (at // GRANULE + 1) * GRANULE)
            zero = self.is_zero(at, stop - at)
            if at > begin and zero is not kind:
                yield begin, at - begin, kind
                begin = at
            kind, at = zero, stop
        if begin < end:
            yield begin, end - begin, kind

    def clear(self, start: int, length: int) -> None:
        _memset(self.address + start, 0, length)

    def digest(self, length: int) -> bytes:
        return blake3(self.view[:length]).digest()

    def close(self) -> None:
        """A view that a caller still holds keeps the memory until it is gone."""
        self._words.release()
        self.view.release()
        del self._anchor

    def __enter__(self) -> "Buffer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
