"""What the engine asks of a target. Every method may be called from several threads at once."""

from typing import Protocol


class Writer(Protocol):
    """Offsets and lengths in bytes. Failures are `tranship.errors` of the target's side: NoSpace, CopyFailed."""

    @property
    def identity(self) -> str:
        """Names the very object that is written to: a file that was deleted and made again has another identity."""

    @property
    def created(self) -> bool:
        """It did not exist before: it reads as zeros."""

    def write(self, offset: int, data: memoryview) -> None: ...

    def zero(self, offset: int, length: int) -> None:
        """Make it read as zeros, as a hole where that can be."""

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer."""

    def data_from(self, offset: int) -> int:
        """The first byte at or after offset that is not in a hole. `offset` itself where holes are not known."""

    def flush(self) -> None:
        """Everything written so far is durable when this returns."""

    def drop_cache(self) -> None:
        """Flush, and have later reads come from the storage itself."""

    def forget(self, offset: int, length: int) -> None:
        """This part will not be read again soon."""

    def close(self) -> None: ...
