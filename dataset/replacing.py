"""--overwrite: whatever happens in between, the old cube is there or the new one, or it says what is not."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import CubeError
from . import lease as leases
from .grid import SWEPT
from .lease import Lease
from .place import Place
from .schema import COORDINATES, DATA, INDEX, MARK, REPLACING, ROOT, VOCABULARY

Build = Callable[[Place, Lease], None]


def occupied(place: Place) -> bool:
    """Whether a cube, or a replacement that was not finished, is there."""
    return place.get(ROOT) is not None


def refuse_strangers(place: Place) -> None:
    """Only an empty place, a cube of ours or what is left of making one may be written to."""
    data = place.get(ROOT)
    if _ours(data) or place.list(leases.FOLDER):
        return
    if data is not None:
        raise CubeError(f"{place} has a zarr.json, but is not a tempocube cube; it is left alone")
    if place.exists():
        raise CubeError(f"{place} holds files that are not a cube; give the name of a new or empty folder")


def _ours(data: bytes | None) -> bool:
    try:
        attrs = json.loads(data or b"")["attributes"]
        return MARK in attrs or REPLACING in attrs
    except (ValueError, KeyError, TypeError):
        return False


def replace(place: Place, lease: Lease, build: Build) -> None:
    """A new cube in place of the old one, under the same lease; nothing but a cube is removed."""
    known = {
        ROOT,
        *(variable.name for variable in (*INDEX, *DATA.values())),
        *COORDINATES,
        *SWEPT,
        VOCABULARY,
    }
    there = {stored.key.split("/")[0] for stored in place.list()}
    if strangers := {name for name in there - known if not name.startswith(".")}:
        raise CubeError(
            f"{place} holds {', '.join(sorted(strangers)[:3])}, no part of a cube; move it away first"
        )
    (_rewrite if place.path is None else _swap)(place, lease, build)


def _swap(place: Place, lease: Lease, build: Build) -> None:
    """Build beside, then two renames; a crash between them is finished by `finish_swap`."""
    new, old = _beside(place)
    beside = Place.at(new)
    lease.copy(beside)
    build(beside, lease)
    lease.check()
    with lease.paused():
        Path(place.url).rename(old)
        if not Path(place.url).exists():  # else another process that opened it in between has finished for us
            new.rename(place.url)
    shutil.rmtree(old, ignore_errors=True)


def clear(place: Place) -> None:
    """Remove what an overwrite that died has left beside the cube; whoever holds the lease may."""
    if place.path is not None:
        for left in _beside(place):
            shutil.rmtree(left, ignore_errors=True)


def finish_swap(place: Place) -> None:
    """The second rename of an overwrite that died after the first."""
    if place.path is None or place.path.exists():
        return
    new, _ = _beside(place)
    if (new / ROOT).exists():
        with suppress(FileNotFoundError):  # another process was faster
            new.rename(place.path)


def _beside(place: Place) -> tuple[Path, Path]:
    path = Path(place.url)
    return path.with_name(f".{path.name}.tempocube-new"), path.with_name(f".{path.name}.tempocube-old")


def _rewrite(place: Place, lease: Lease, build: Build) -> None:
    """Without renames: mark the root, remove all but the lease, build; the new root takes the mark away."""
    mark = {REPLACING: True, "started": lease.number}
    place.put(ROOT, json.dumps({"zarr_format": 3, "node_type": "group", "attributes": mark}).encode())
    place.delete(s.key for s in place.list() if s.key != ROOT and not s.key.startswith(f"{leases.FOLDER}/"))
    build(place, lease)
