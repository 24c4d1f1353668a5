"""Storage pools: the directories that hold disks, their free space, and whether an order fits.

`default` is the target's own directory. Others are its sub-directories named `pool.NAME`, and the paths that the
provider's settings `pool.NAME` give. A pool is never made by us: a path that is missing is more likely not mounted.
Used by target.py.

Disks are sparse: a disk that is there may still grow to its full size. Free space is therefore what the file system
has left, less what the disks that are there already have been promised. The setting `overcommit` = "true" drops the check.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tranship.errors import Invalid, NoSpace, NotFound, Side
from tranship.inventory.estate import Datastore
from tranship.providers.local.home import file_errors

DEFAULT = "default"
PREFIX = "pool."
DISK_SUFFIX = ".raw"


@dataclass(frozen=True, slots=True)
class Pool:
    name: str
    path: Path

    def disks(self) -> Iterator[Path]:
        """The disk files of all machines in it."""
        for path in self.path.glob(f"*/*/*{DISK_SUFFIX}"):
            if not path.is_symlink() and not path.parts[len(self.path.parts)].startswith(PREFIX):
                yield path


def find_pools(directory: Path, settings: Mapping[str, str]) -> dict[str, Pool]:
    """By name. Raises Invalid for a path in the settings that is not absolute."""
    pools = {DEFAULT: Pool(DEFAULT, directory)}
    for path in sorted(directory.glob(f"{PREFIX}*")):
        if path.is_dir():
            pools[path.name.removeprefix(PREFIX)] = Pool(path.name.removeprefix(PREFIX), path)
    for key, value in settings.items():
        if key.startswith(PREFIX):
            if not Path(value).is_absolute():
                raise Invalid(f"{value!r} is not an absolute path", field=f"spec.settings.{key}", side=Side.TARGET)
            pools[key.removeprefix(PREFIX)] = Pool(key.removeprefix(PREFIX), Path(value))
    return pools


def find_pool(pools: Mapping[str, Pool], name: str) -> Pool:
    """By name, or by the path of one of them; "" is the default."""
    pool = pools.get(name or DEFAULT) or next((pool for pool in pools.values() if str(pool.path) == name), None)
    if pool is not None and (pool.name == DEFAULT or pool.path.is_dir()):
        return pool
    raise NotFound(
        f": {pool.path} is not a directory" if pool else "",
        what="storage pool",
        name=name,
        side=Side.TARGET,
        remedy=f"Pools here are {', '.join(sorted(pools))}; another is added by the provider's setting {PREFIX}NAME.",
    )


def datastores(pools: Mapping[str, Pool]) -> dict[str, Datastore]:
    """The pools as destinations that a storage map may name."""
    found = {}
    for pool in pools.values():
        if pool.path.is_dir():
            with file_errors(f"measure {pool.path}"):
                space = os.statvfs(pool.path)
            found[pool.name] = Datastore(
                id=pool.name,
                name=pool.name,
                path=str(pool.path),
                kind="directory",
                capacity=space.f_blocks * space.f_frsize,
                free=space.f_bavail * space.f_frsize,
            )
    return found


def _promised(path: Path) -> int:
    """Bytes that a sparse file may still take."""
    try:
        stat = path.stat()
    except FileNotFoundError:  # removed since it was listed
        return 0
    return max(0, stat.st_size - stat.st_blocks * 512)


def check_space(pools: Mapping[str, Pool], order: Iterable[tuple[Pool, Path, int]]) -> None:
    """Whether the disks of an order (pool, file, full size) fit with all that is promised already. Raises NoSpace."""
    wanted: dict[int, list[tuple[Pool, Path, int]]] = {}
    for item in order:
        wanted.setdefault(item[0].path.stat().st_dev, []).append(item)
    for device, items in wanted.items():
        own = {path for _, path, _ in items}
        needed = sum(_promised(path) if path.exists() else size for _, path, size in items)
        neighbours = [pool for pool in pools.values() if pool.path.is_dir() and pool.path.stat().st_dev == device]
        others = {path for pool in neighbours for path in pool.disks()} - own
        promised = sum(_promised(path) for path in others)
        root = items[0][0].path
        space = os.statvfs(root)
        free = max(0, space.f_bavail * space.f_frsize - promised)
        if needed > free:
            held = f" ({promised} bytes more are kept for disks that are there and may still grow)" if promised else ""
            raise NoSpace(held, path=str(root), needed=needed, free=free, side=Side.TARGET)
