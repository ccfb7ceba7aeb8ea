"""What every benchmark needs: the machine's name, clocks, medians with spread, peak memory, counted reads."""

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

MB = 1e6


class Clock:
    """Wall and CPU seconds spent within it, all threads of this process; several times add up.

    On a machine that others use too, CPU seconds say more than wall seconds.
    """

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> Self:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._began
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


def machine(*packages: str) -> dict[str, Any]:
    """Cores, processor, memory and versions."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(terse=True),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    known = {name.strip(): value.strip() for name, value in known.items()}
    name = known.get("model name", platform.machine())
    return f"{name} (family {known['cpu family']}, model {known['model']})" if "model" in known else name


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most of repeated measurements."""
    found = list(values)
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


def shown(values: dict[str, float], digits: int = 0) -> str:
    """A spread in a table: median (least-most); from 100 on without decimals."""
    digits = digits if values["median"] < 100 else 0
    return "{median:,.{0}f} ({least:,.{0}f}-{most:,.{0}f})".format(digits, **values)


def forget_peak() -> None:
    """Start counting this process' peak memory anew, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> int:
    """The most memory this process held, in bytes, since `forget_peak` (elsewhere than on Linux: ever)."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


class Counted(WrapperStore[Store]):
    """A Zarr store that counts what is read through it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.requests = self.bytes = 0

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """One request, and how long its answer was."""
        found = await self._store.get(key, prototype, byte_range)
        self.requests += 1
        self.bytes += len(found) if found is not None else 0
        return found
