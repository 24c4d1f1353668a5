"""What the engine asks of a source.

A reader says what it can by properties. One with `random_access` is read through channels: each belongs to one thread,
takes several requests at a time and fills the buffers that it was given. One without is a stream that is read once from
start to end. `Sequential` makes a channel of anything that can only answer one request after the other.
"""

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from tranship.errors import Unsupported
from tranship.transfer.address import Extent


class Channel(Protocol):
    """tag: chosen by the caller. Failures are `tranship.errors` of the source's side."""

    def submit(self, offset: int, buffer: memoryview, tag: int) -> None:
        """Ask for the bytes that fill the buffer. Returns at once."""

    def finish(self) -> int:
        """Wait until a request is answered, and return its tag. Any order."""

    def abort(self) -> None:
        """From another thread: whoever waits in `finish` gets an error soon."""

    def close(self) -> None: ...


class Piece(Protocol):
    """A part of a stream. Ascending, never across a leaf's border; what no piece covers reads as zeros."""

    @property
    def start(self) -> int: ...
    @property
    def length(self) -> int: ...
    def decode(self, buffer: memoryview) -> None:
        """Put the bytes into the buffer of `length` bytes. Called in any thread."""


class Reader(Protocol):
    """size and block_size in bytes: every request's offset and length is a multiple of block_size. request_size: the best
    length of one request. max_connections: useful channels at a time. cheap_extents: `extents` may be asked for many
    small areas. tracks_changes: `changed` tells the areas changed since the last round."""

    @property
    def size(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def request_size(self) -> int: ...
    @property
    def max_connections(self) -> int: ...
    @property
    def random_access(self) -> bool: ...
    @property
    def cheap_extents(self) -> bool: ...
    @property
    def tracks_changes(self) -> bool: ...

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        """What reads as zeros within this range, ascending. What it does not name is data."""

    def changed(self) -> Iterator[Extent]: ...

    def open_channel(self) -> Channel: ...

    def stream(self) -> Iterator[Piece]: ...

    def close(self) -> None: ...


class Plain:
    """Answers of a reader that has random access and nothing to say of zeros or changes."""

    size = 0
    block_size = 1
    request_size = 1 << 20
    max_connections = 2
    random_access = True
    cheap_extents = True
    tracks_changes = False

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        yield Extent(start, length)

    def changed(self) -> Iterator[Extent]:
        raise Unsupported("the source does not track them here", what="reading changed areas")

    def open_channel(self) -> Channel:
        raise Unsupported("it is a stream", what="random access")

    def stream(self) -> Iterator[Piece]:
        raise Unsupported("it has random access", what="streaming")

    def close(self) -> None: ...


class Sequential:
    """A channel that answers in order, by `_fill`."""

    def __init__(self) -> None:
        self._asked: deque[tuple[int, memoryview, int]] = deque()

    def _fill(self, offset: int, buffer: memoryview) -> None:
        raise NotImplementedError

    def submit(self, offset: int, buffer: memoryview, tag: int) -> None:
        self._asked.append((offset, buffer, tag))

    def finish(self) -> int:
        offset, buffer, tag = self._asked.popleft()
        self._fill(offset, buffer)
        return tag

    def abort(self) -> None: ...

    def close(self) -> None: ...
