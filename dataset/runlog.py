"""Who ran what when: one small record a run, kept in the cube beside its receipts."""

import json
import os
import platform
import socket
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .place import Place

FOLDER = "status/run/log"  # inside an array's folder, where no Zarr reader lists


class RunLog:
    """The record of one run: written when it begins, now and then, and when it ends."""

    def __init__(self, place: Place, token: str, **about: Any) -> None:
        self._place = place
        self.record: dict[str, Any] = {
            "run": token,
            "state": "running",
            "began": now(),
            "ended": None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "versions": versions("tempocube", "mlx", "mlx-lm", "dask", "numpy", "zarr"),
            "command": sys.argv,
            **about,
        }
        self._key = f"{FOLDER}/{self.record['began'].replace(':', '')}-{token[:8]}.json"

    def write(self, **values: Any) -> None:
        """Put the record, with these values in it."""
        self.record |= values
        self._place.put(self._key, json.dumps(self.record, indent=1, default=str).encode())


def runs(where: Any) -> list[Mapping[str, Any]]:
    """The records of a cube's runs, oldest first; one that cannot be read is left out."""
    place = Place.at(where)
    found: list[Mapping[str, Any]] = []
    for stored in sorted(place.list(FOLDER), key=lambda stored: stored.key):
        try:
            record = json.loads(place.get(stored.key) or b"")
        except ValueError:
            continue
        if isinstance(record, dict) and "run" in record:
            found.append(record)
    return found


def now() -> str:
    """This moment, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def versions(*packages: str) -> dict[str, str | None]:
    """Which version of each package is installed, None where it is not."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
