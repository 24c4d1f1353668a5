"""The store of a single host: the memory store, made durable by a SQLite file.

Called by the application. Writes that come while a commit is running wait and share the next one (group commit), so that
fsync does not set the pace. A write returns, and others see it, only when it is on disk; when a commit fails, all its
writers are told and nothing of it is seen. All SQL runs in one thread; all rules run in the event loop.

Files: `PATH` (0600, with SQLite's -wal and -shm), `PATH.key` (opens the Secrets), `PATH.lock` (held while open).
"""

import asyncio
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from tranship.errors import Broken, Busy, Invalid, NoSpace, TranshipError
from tranship.resources.meta import SECRET
from tranship.store.base import EventType, Object
from tranship.store.memory import Clock, MemoryStore, Verb, utc_now
from tranship.store.seal import Seal
from tranship.store.table import KEEP, Change, Keep, Log, Row, Table, Transaction, table_key

_MIGRATIONS = (
    """
    CREATE TABLE objects (
        kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (kind, namespace, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE log (
        version INTEGER PRIMARY KEY, type TEXT NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL
    ) STRICT;
    CREATE TABLE counter (floor INTEGER NOT NULL, version INTEGER NOT NULL) STRICT;
    INSERT INTO counter VALUES (0, 0);
    """,
)
"""One script per PRAGMA user_version, in order; never changed once released."""

_ROOM = 64 << 20  # what a store wants to find free: its log's limit


@dataclass(frozen=True, slots=True)
class _Loaded:
    floor: int
    version: int
    rows: Sequence[Row]
    changes: Sequence[Change]


class _File:
    """The SQLite file. Everything here blocks and runs in the store's one thread."""

    def __init__(self, path: Path) -> None:
        _make_directory(path.parent)
        self._lock = _lock(path)
        try:
            self._seal = Seal(path.with_name(path.name + ".key"))
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # -wal and -shm take over its mode
            path.chmod(0o600)
            self._db = _open(path)
        except BaseException:
            self._lock.close()
            raise
        self._path = path

    def load(self) -> _Loaded:
        try:
            floor, version = self._db.execute("SELECT floor, version FROM counter").fetchone()
            rows = [
                Row.of(kind, self._unseal(kind, body))
                for kind, body in self._db.execute("SELECT kind, body FROM objects")
            ]
            changes = [
                Change(EventType(type), Row.of(kind, self._unseal(kind, body)), at)
                for type, kind, at, body in self._db.execute("SELECT type, kind, at, body FROM log ORDER BY version")
            ]
        except sqlite3.Error as error:
            raise _broken(self._path, error) from error
        if len(changes) != version - floor:
            raise Broken(f"the change log of {self._path} has {len(changes)} rows, not {version - floor}")
        return _Loaded(floor, version, rows, changes)

    def append(self, changes: Sequence[Change], floor: int) -> None:
        """All or nothing, and on disk when it returns. Changes up to `floor` are forgotten."""
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for change in changes:
                    self._note(change)
                self._db.execute("DELETE FROM log WHERE version <= ?", (floor,))
                self._db.execute("UPDATE counter SET floor = ?, version = ?", (floor, changes[-1].row.version))
        except sqlite3.Error as error:
            raise _broken(self._path, error) from error

    def close(self) -> None:
        self._db.close()
        self._lock.close()

    def _note(self, change: Change) -> None:
        row = change.row
        body = self._seal.close(row.body) if row.table == table_key(SECRET) else row.body
        self._db.execute(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?)", (row.version, change.type.value, row.table, change.at, body)
        )
        if change.type is EventType.DELETED:
            self._db.execute(
                "DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?",
                (row.table, row.namespace, row.name),
            )
        else:
            self._db.execute(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (row.table, row.namespace, row.name, body)
            )

    def _unseal(self, kind: str, body: bytes) -> bytes:
        return self._seal.open(body) if kind == table_key(SECRET) else body


class SqliteStore(MemoryStore):
    """Made by `SqliteStore.open`. Only one process, and one store in it, has a file open."""

    def __init__(
        self, file: _File, loaded: _Loaded, thread: ThreadPoolExecutor, keep: Keep, bookmarks: timedelta, clock: Clock
    ) -> None:
        super().__init__(keep=keep, bookmarks=bookmarks, clock=clock)
        self._file = file
        self._thread = thread
        self._seen = Table(loaded.version)
        for row in loaded.rows:
            self._seen.put(row)
        self._log = Log(loaded.floor, keep)
        for change in loaded.changes:
            self._log.append(change)
        self._head = self._seen.copy()
        self._waiting: list[tuple[Verb, asyncio.Future[Object]]] = []
        self._committer: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        keep: Keep = KEEP,
        bookmarks: timedelta = timedelta(minutes=1),
        clock: Clock = utc_now,
    ) -> "SqliteStore":
        """Makes file and directory where they are missing. Raises Busy when another process has it open, Invalid."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        loop = asyncio.get_running_loop()
        try:
            file = await loop.run_in_executor(thread, _File, path)
            try:
                loaded = await loop.run_in_executor(thread, file.load)
            except BaseException:
                await loop.run_in_executor(thread, file.close)
                raise
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(file, loaded, thread, keep, bookmarks, clock)

    async def close(self) -> None:
        """Writes that were begun are finished."""
        if self._closed:
            return
        await super().close()
        if self._committer is not None:
            await asyncio.wait([self._committer])
        await self._run(self._file.close)
        self._thread.shutdown()

    async def _write(self, verb: Verb) -> Object:
        if self._closed:
            raise Broken("the store is closed")
        written: asyncio.Future[Object] = asyncio.get_running_loop().create_future()
        self._waiting.append((verb, written))
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit_all())
        return await written

    async def _commit_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await self._commit(batch)

    async def _commit(self, batch: Sequence[tuple[Verb, asyncio.Future[Object]]]) -> None:
        transaction = Transaction(self._head, self._clock())
        done: list[tuple[Row, asyncio.Future[Object]]] = []
        for verb, written in batch:
            try:
                done.append((verb(transaction), written))
            except Exception as error:
                _fail(written, error)
        if transaction.changes:
            try:
                await self._run(lambda: self._file.append(transaction.changes, self._log.floor))
            except Exception as error:
                self._head = self._seen.copy()
                for _, written in done:
                    _fail(written, error)
                return
            for change in transaction.changes:
                self._seen.apply(change)
            self._publish(transaction.changes)
        for row, written in done:
            if not written.done():
                written.set_result(row.object())

    async def _run(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _fail(written: asyncio.Future[Object], error: Exception) -> None:
    if not written.done():
        written.set_exception(error)


def _make_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o022:
        raise Invalid("other users may write to this directory", field=str(path), remedy=f"Close it: chmod 700 {path}")


def _lock(path: Path) -> BinaryIO:
    """A file of its own: closing a descriptor of the database itself would drop SQLite's own locks."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    file = open(descriptor, "r+b", buffering=0)  # noqa: SIM115 held as long as the store is open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = file.read(20).decode(errors="replace").strip() or "unknown"
        file.close()
        raise Busy(
            f"process {holder} has it open",
            what=f"the store {path}",
            fault="in use",
            remedy="Stop that process, or use another data directory.",
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    return file


def _open(path: Path) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(path, isolation_level=None, timeout=10)
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                db.execute(f"PRAGMA {pragma}")
            _migrate(db, path)
        except BaseException:
            db.close()
            raise
    except sqlite3.Error as error:
        raise _broken(path, error) from error
    return db


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(_MIGRATIONS):
        raise Invalid(
            f"was written by a newer tranship (format {version}, known is {len(_MIGRATIONS)})",
            field=str(path),
            remedy="Use the newer tranship.",
        )
    for number, script in enumerate(_MIGRATIONS[version:], version + 1):
        db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")


def _broken(path: Path, error: sqlite3.Error) -> TranshipError:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return NoSpace(f": {error}", path=str(path), needed=_ROOM, free=shutil.disk_usage(path.parent).free)
    return Broken(
        f"{path}: {error}",
        remedy="Check permissions and disk; if the file is damaged, restore it from a backup.",
    )
