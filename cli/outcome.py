"""What a run came to, in words."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..dataset.cube import Cube
from ..dataset.grid import Grid
from ..dataset.schema import DONE
from ..errors import TempoError
from ..words import finite, how_many, in_bytes, in_time

if TYPE_CHECKING:
    from ..capture.tally import Summary

MOST_CELLS, MOST_WORKERS = 10, 8  # lines of each


def lines(summary: "Summary", where: str) -> list[str]:
    """What a person wants to know at the end; `where` is the cube as they call it."""
    if not summary.done and not summary.left and not summary.workers:
        done = f"{summary.before} of {summary.cells} cells are done in {where}"
        return [f"nothing left to do: {done}", *_given_up(summary)]
    told = [
        *_did(summary),
        *_workers(summary.workers),
        *_crossed(summary.cross, summary.failed),
        *_given_up(summary),
    ]
    return [*told, _line("cube", where), _line("next", f"tempo-stats verify {shlex.quote(where)}")]


def plain(summary: "Summary") -> dict[str, Any]:
    """The same for scripts; what was not compared is null, as JSON has no NaN."""
    return {**asdict(summary), "cross": finite(summary.cross), "ok": summary.ok}


def stopped(grid: Grid, where: str, overwrite: bool) -> str:
    """The line for a run that was interrupted."""
    try:
        cube = Cube.open(where)
        status = cube.status()
        done = [bool(status[index] == DONE) for index, _ in cube.asked(grid)]
    except TempoError:  # there is none, or one of before that has no such cells yet
        return "stopped before anything was captured"
    again = "the same command" + (" without --overwrite" if overwrite else "")
    return f"stopped; {sum(done)} of {len(done)} cells are in {where}; {again} goes on"


def _did(summary: "Summary") -> list[str]:
    before = f", {summary.before} done before" if summary.before else ""
    left = f", {summary.left} left" if summary.left else ""
    speed = summary.tokens / summary.seconds if summary.seconds > 0 else 0.0
    return [
        _line(
            "cells", f"{summary.done} done in {in_time(summary.seconds)}{before}{left}, of {summary.cells}"
        ),
        _line("captured", f"{summary.tokens:,} slots, {speed:,.0f} a second; {in_bytes(summary.stored)}"),
    ]


def _workers(rows: tuple[dict[str, Any], ...]) -> list[str]:
    told = [
        f"{row['worker']}: {_cells(row['cells'])}, {how_many(row['loads'], 'model load')}, "
        f"at most {in_bytes(row['peak_bytes'])} of memory"
        for row in rows
    ]
    return _listed("workers", told, MOST_WORKERS)


def _crossed(cross: Mapping[str, float] | None, failed: Mapping[str, str]) -> list[str]:
    if not cross:
        return []
    wrong = sum(reason.startswith("cross-check") for reason in failed.values())
    names = {"attention": "attention", "logprob": "log-probability", "kl": "KL"}
    found = [f"{text} {cross[name]:.1e}" for name, text in names.items() if not math.isnan(cross[name])]
    cells = _cells(int(cross["cells"]))
    agree = "all agree" if not wrong else f"{wrong} differ"
    told = f"{cells} captured again alone: {agree}; largest differences as stored: {', '.join(found)}"
    return [_line("cross-check", told)]


def _given_up(summary: "Summary") -> list[str]:
    told = []
    for name, cells, again in (
        ("failed", summary.failed, "the same command tries again, three times in all"),
        ("quarantined", summary.quarantined, "--retry-quarantined tries again"),
    ):
        reasons = [f"{cell}: {reason}" for cell, reason in cells.items()]
        told += _listed(name, reasons, MOST_CELLS, f" ({again})")
    return told


def _listed(name: str, told: list[str], most: int, also: str = "") -> list[str]:
    if not told:
        return []
    more = [f"  ... and {len(told) - most} more"] if len(told) > most else []
    return [_line(name, f"{len(told)}{also}"), *(f"  {line}" for line in told[:most]), *more]


def _line(name: str, text: str) -> str:
    return f"{name:12} {text}"


def _cells(n: int) -> str:
    return how_many(n, "cell")
