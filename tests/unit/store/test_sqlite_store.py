"""What only the file store promises: durability, one owner, closed doors, sealed secrets."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tranship.errors import Broken, Busy, Expired, Invalid, NoSpace, NotFound
from tranship.resources.meta import PLAN, SECRET
from tranship.store.base import Object
from tranship.store.sqlite import SqliteStore
from tranship.store.table import Keep


def plan(name: str, **spec: Any) -> Object:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


WRITER = """
import asyncio, sys
from pathlib import Path
from tranship.resources.meta import PLAN
from tranship.store.sqlite import SqliteStore

async def write_for_ever():
    store = await SqliteStore.open(Path(sys.argv[1]))
    async def write(name):
        await store.create(PLAN, {"metadata": {"name": name, "namespace": "default"}, "spec": {"n": 0}})
        n = 0
        while True:
            n += 1
            await store.patch(PLAN, "default", name, {"spec": {"n": n}})
            print(name, n, flush=True)
    await asyncio.gather(*(write(f"p{i}") for i in range(5)))

asyncio.run(write_for_ever())
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(300)]

    async def story() -> None:
        with pytest.raises(Busy, match=f"process {writer.pid} has it open"):
            await SqliteStore.open(path)
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate(timeout=10)
        acknowledged: dict[str, int] = {}
        for line in [*lines, *rest.splitlines(keepends=True)]:
            if line.endswith("\n"):
                name, number = line.split()
                acknowledged[name] = int(number)
        store = await SqliteStore.open(path)
        for name, last in acknowledged.items():
            assert (await store.get(PLAN, "default", name))["spec"]["n"] >= last
        await store.close()

    run(story())


def test_a_second_store_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    async def story() -> None:
        first = await SqliteStore.open(tmp_path / "store.db")
        with pytest.raises(Busy, match=str(os.getpid())):
            await SqliteStore.open(tmp_path / "store.db")
        await first.close()
        await first.close()
        await (await SqliteStore.open(tmp_path / "store.db")).close()

    run(story())


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    async def story() -> None:
        store = await SqliteStore.open(tmp_path / "made" / "store.db")
        await store.create(PLAN, plan("p"))
        files = sorted((tmp_path / "made").iterdir())
        assert [file.name for file in files] == [
            "store.db",
            *(f"store.db{end}" for end in ("-shm", "-wal", ".key", ".lock")),
        ]
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700
        await store.close()

    old = os.umask(0)
    try:
        run(story())
    finally:
        os.umask(old)


def test_a_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Invalid, match="other users may write"):
        asyncio.run(SqliteStore.open(tmp_path / "store.db"))


def test_secrets_are_sealed_in_every_file(tmp_path: Path) -> None:
    async def story() -> None:
        store = await SqliteStore.open(tmp_path / "store.db")
        secret = {"metadata": {"name": "s", "namespace": "default"}, "stringData": {"password": "hunter2-secret"}}
        made = await store.create(SECRET, secret)
        for file in tmp_path.iterdir():
            content = file.read_bytes()
            assert b"hunter2" not in content and made["data"]["password"].encode() not in content
        await store.close()
        (tmp_path / "store.db.key").unlink()
        with pytest.raises(Invalid, match=r"this key does not open.*"):
            await SqliteStore.open(tmp_path / "store.db")

    run(story())


def test_a_failed_commit_is_told_and_leaves_no_trace(tmp_path: Path) -> None:
    async def story() -> None:
        store = await SqliteStore.open(tmp_path / "store.db")
        before = await store.create(PLAN, plan("before"))
        limit = store._file._db.execute  # SQLite itself plays the full disk
        await store._run(lambda: limit("PRAGMA max_page_count = 1").close())
        outcomes = await asyncio.gather(
            store.create(PLAN, plan("big", text="x" * 500_000)),
            store.patch(PLAN, "default", "before", {"spec": {"text": "y" * 500_000}}),
            store.delete(PLAN, "default", "missing"),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [NoSpace, NoSpace, NotFound]
        assert await store.get(PLAN, "default", "before") == before
        await store._run(lambda: limit("PRAGMA max_page_count = 1000000").close())
        after = await store.create(PLAN, plan("big"))
        assert int(after["metadata"]["resourceVersion"]) == int(before["metadata"]["resourceVersion"]) + 1
        await store.close()
        store = await SqliteStore.open(tmp_path / "store.db")
        assert (await store.list(PLAN)).items == [before, after]
        await store.close()

    run(story())


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(Invalid, match="newer tranship"):
        asyncio.run(SqliteStore.open(tmp_path / "store.db"))


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(Broken, match="not a database"):
        asyncio.run(SqliteStore.open(tmp_path / "store.db"))


def test_old_changes_are_forgotten_by_age(tmp_path: Path) -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC)

    async def story() -> None:
        nonlocal now
        keep = Keep(age=timedelta(minutes=5))
        store = await SqliteStore.open(tmp_path / "store.db", keep=keep, clock=lambda: now)
        for number in range(3):
            made = await store.create(PLAN, plan(f"p{number}"))
            now += timedelta(minutes=2)
        await store.create(PLAN, plan("p3"))  # the first, 6 minutes old, goes
        await store.patch(PLAN, "default", "p3", {"spec": {"n": 1}})  # the file follows with the next write
        await store.close()
        store = await SqliteStore.open(tmp_path / "store.db", keep=keep, clock=lambda: now)
        with pytest.raises(Expired):
            await anext(store.watch(PLAN, since="0"))
        event = await anext(store.watch(PLAN, since="1"))
        assert event.object["metadata"]["name"] == "p1"
        assert made["metadata"]["creationTimestamp"] == "2026-11-01T00:04:00Z"
        await store.close()

    run(story())


def test_a_cancelled_writer_leaves_the_others_alone(tmp_path: Path) -> None:
    async def story() -> None:
        store = await SqliteStore.open(tmp_path / "store.db")
        writers = [asyncio.create_task(store.create(PLAN, plan(f"p{number}"))) for number in range(20)]
        await asyncio.sleep(0)
        writers[0].cancel()
        outcomes = await asyncio.gather(*writers, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert all(isinstance(outcome, dict) for outcome in outcomes[1:])
        await store.close()

    run(story())


def test_a_watch_ends_when_the_store_closes(tmp_path: Path) -> None:
    async def story() -> None:
        store = await SqliteStore.open(tmp_path / "store.db", bookmarks=timedelta(milliseconds=20))
        watch = store.watch(PLAN, since="0")
        await store.create(SECRET, {"metadata": {"name": "s", "namespace": "default"}})
        bookmark = await anext(watch)  # quiet for this kind, yet told how far it has come
        assert (bookmark.type.name, bookmark.resource_version) == ("BOOKMARK", "1")
        waiting = asyncio.create_task(anext(watch, None))
        await store.create(PLAN, plan("p"))
        event = await waiting
        assert event is not None and event.type.name == "ADDED"
        waiting = asyncio.create_task(anext(watch, None))
        await store.close()
        assert await asyncio.wait_for(waiting, 5) is None

    run(story())
