"""A real server over a store in memory, and the command line as a user runs it."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tranship.cli import main
from tranship.inventory.estate import Estate, Network, Thing
from tranship.inventory.vm import VM, Disk, Power
from tranship.resources.meta import ALL_KINDS, Kind, parse
from tranship.server.app import make_app
from tranship.server.serve import serve
from tranship.server.tls import Certificate, own_certificate
from tranship.store.memory import MemoryStore

TOKEN = "a-token-of-tests"
DISK = Disk(key="2000", label="Hard disk 1", path="[ds] web/web.vmdk", datastore="ds-1", capacity=1 << 30, bus="scsi")
ESTATE = Estate(
    vms={"vm-1": VM(id="vm-1", name="web", power=Power.ON, cpus=2, memory=1 << 32, disks=(DISK,))},
    networks={"net-1": Network(id="net-1", name="VM Network")},
    others={
        "storageclasses": {
            "fast": Thing(
                id="fast", name="fast", path="fast", facts={"default": True, "profile": ["RWX/Block", "RWO/Block"]}
            )
        }
    },
)


class Said(NamedTuple):
    code: int
    out: str
    err: str


class House:
    """The server, in a thread of its own. Tests play the controllers: they write status."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.certificate = certificate
        self.estates: dict[str, Estate] = {}
        self.loop = asyncio.new_event_loop()
        self.url = ""
        self._up = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._serve(),), daemon=True)

    async def _serve(self) -> None:
        self.store = MemoryStore()
        app = make_app(
            self.store, token=TOKEN, inventory=self.estates.get, validate=lambda obj: parse(obj) and obj, version="test"
        )
        files = self.certificate
        tls = {"certificate": files.certificate, "key": files.key} if files else {}
        async with serve(app, **tls) as serving:
            self.url = serving.url
            self._up.set()
            await self._stop.wait()

    def __enter__(self) -> "House":
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def get(self, kind: Kind, name: str) -> dict[str, Any]:
        return self.do(self.store.get(kind, "default", name))

    def load_inventory(self, uid: str) -> None:
        self.estates[uid] = ESTATE

    def set_status(self, kind: Kind, name: str, **status: Any) -> None:
        self.do(self.store.patch(kind, "default", name, {"status": status}, subresource="status"))


@pytest.fixture(scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Path]]:
    with House() as house:
        home = tmp_path_factory.mktemp("home")
        (home / "server").write_text(house.url + "\n")
        (home / "token").write_text(TOKEN + "\n")
        yield house, home


@pytest.fixture
def house(_home: tuple[House, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """Empty at the start of each test."""
    house, directory = _home
    for name in ("SERVER", "TOKEN_FILE", "CA_FILE", "NAMESPACE"):
        monkeypatch.delenv(f"TRANSHIP_{name}", raising=False)
    monkeypatch.setenv("TRANSHIP_HOME", str(directory))
    yield house
    for kind in ALL_KINDS:
        for item in house.do(house.store.list(kind)).items:
            house.do(house.store.delete(kind, item["metadata"]["namespace"], item["metadata"]["name"]))


@pytest.fixture
def tranship(house: House, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """tranship("get", "plans") -> Said. All of main, in this process."""

    def run(*words: str) -> Said:
        monkeypatch.setattr("sys.argv", ["tranship", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        code = ended.value.code
        assert isinstance(code, int)
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def secure_home(tmp_path: Path) -> Iterator[Path]:
    """The data directory of a server with TLS and a certificate of its own."""
    with House(own_certificate(tmp_path)) as house:
        (tmp_path / "server").write_text(house.url)
        (tmp_path / "token").write_text(TOKEN)
        yield tmp_path
