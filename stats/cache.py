"""Measures kept beside the cube, each under a hash of what it was made of: what is there is never stale.

Every save is a new file, written whole; so a run that is stopped loses little, and two at once do no harm.
"""

import hashlib
import os
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset.caches import user_folder
from ..dataset.place import Place

SUFFIX = ".stats-cache"
# What an empty, cut or foreign file may raise; none of it is worth more than measuring again.
DAMAGED = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, zipfile.BadZipFile)
MANY = 8  # files, from which they are put into one

Records = dict[str, dict[str, Any]]


def folder(place: Place) -> Path:
    """Where the measures of a cube are kept: beside it, or in the user's cache folder for a URL."""
    if place.path is not None and os.access(place.path.parent, os.W_OK):
        return place.path.with_name(place.path.name + SUFFIX)
    return user_folder() / "measures" / hashlib.sha256(place.url.encode()).hexdigest()[:32]


def load(where: Path, kind: str, keys: Iterable[str]) -> Records:
    """The records of a kind that are kept under these keys; a file that cannot be read counts for nothing."""
    wanted, found = set(keys), {}
    for file in sorted(where.glob(f"{kind}-*.npz")):
        found.update({key: record for key, record in _read(file).items() if key in wanted})
    return found


def save(where: Path, kind: str, records: Mapping[str, Mapping[str, Any]]) -> bool:
    """Keep records, all of the same fields and shapes; False where the folder cannot be written to."""
    if not records:
        return True
    first = next(iter(records.values()))
    fields: dict[str, Any] = {"key": np.array(list(records))}
    fields |= {f"of_{name}": np.stack([np.asarray(r[name]) for r in records.values()]) for name in first}
    part = where / f".{uuid.uuid4().hex}.part"
    try:
        where.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, **fields)
        os.replace(part, where / f"{kind}-{uuid.uuid4().hex}.npz")
    except OSError:  # read-only or full: the next call measures again
        with suppress(OSError):
            part.unlink()
        return False
    return True


def tidy(where: Path, kind: str) -> None:
    """Put many files of a kind into one."""
    files = sorted(where.glob(f"{kind}-*.npz"))
    if len(files) < MANY:
        return
    together: Records = {}
    for file in files:
        together.update(_read(file))
    if save(where, kind, together):
        for file in files:
            file.unlink(missing_ok=True)


def _read(file: Path) -> Records:
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        keys = arrays.pop("key").tolist()
        plain = {name[3:]: v.tolist() if v.ndim == 1 else v for name, v in arrays.items()}
        if {len(values) for values in plain.values()} != {len(keys)}:
            return {}
    except DAMAGED:
        return {}
    return {key: {name: values[i] for name, values in plain.items()} for i, key in enumerate(keys)}
