"""A folder of files of which each is whole: what an older report left goes, what others put there stays."""

import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ...errors import BadInput

__all__ = ["must_be_free", "replace"]

LIST = ".report-files.json"  # what reports have put into the folder
OURS = re.compile(r"(tables/[\w-]+\.csv|figures/[\w-]+\.(svg|png)|report\.json|index\.html|grid\d*\.yaml)")


def replace(folder: Path, files: Mapping[str, bytes], last: str) -> None:
    """Put files, by path in the folder, there in one step each; `last` is away until the others are there."""
    must_be_free(folder, files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = _listed(folder)
        _put(folder, LIST, json.dumps(sorted({*before, *files})).encode())
        (folder / last).unlink(missing_ok=True)
        for name in before - set(files):
            (folder / name).unlink(missing_ok=True)
        for name in sorted(files, key=lambda name: name == last):
            _put(folder, name, files[name])
        _put(folder, LIST, json.dumps(sorted(files)).encode())
        _without_empty_folders(folder, before)
    except OSError as error:
        raise BadInput(f"{folder}: the report cannot be written there ({error.strerror})") from error


def must_be_free(folder: Path, names: Iterable[str] = ()) -> None:
    """Refuse a folder that cannot be written, is in a cube, or has such files that are of no report."""
    whole = folder.absolute()
    if cube := next((each for each in (whole, *whole.parents) if (each / "zarr.json").exists()), None):
        raise BadInput(f"{folder}: is a cube, or in one ({cube.name}); choose another folder for the report")
    others = [name for name in names if os.path.lexists(folder / name)]
    if odd := sorted(set(others) - _listed(folder)):
        told = f"{odd[0]}{f' and {len(odd) - 1} more' * (len(odd) > 1)}"
        raise BadInput(
            f"{folder}: holds {told}, which no report has put there; choose another folder or move it away"
        )
    try:
        _try(whole)
    except OSError as error:
        raise BadInput(f"{folder}: the report cannot be written there ({error.strerror})") from error


def _try(folder: Path) -> None:
    """Write a file there, and leave nothing behind."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{uuid.uuid4().hex}.part"
        part.touch()
        part.unlink()
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()


def _listed(folder: Path) -> set[str]:
    """Files of older reports; whatever else the list says is none of ours."""
    try:
        names = json.loads((folder / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    listed = names if isinstance(names, list) else []
    return {name for name in listed if isinstance(name, str) and OURS.fullmatch(name)}


def _put(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _without_empty_folders(folder: Path, names: set[str]) -> None:
    for name in {name.partition("/")[0] for name in names if "/" in name}:
        with suppress(OSError):  # it is not empty
            (folder / name).rmdir()
