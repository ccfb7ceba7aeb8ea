"""What reading a cube takes: decoding it once, measuring it, and the whole report as a user calls it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryFile
from time import perf_counter
from typing import Any

import measures
from common import shown, spread
from rich.console import Console

COMMAND = Path(sys.executable).parent / "tempo-stats"
GIB = 1 << 30
LIMITS = {"times": 2.0, "peak_gib": 4.0}  # of the whole report: over decoding once, and in memory

Row = dict[str, Any]


def samples(where: Path, rounds: int, console: Console) -> list[Row]:
    """Decoding, measuring from nothing, and the report from nothing, each in a process of its own."""
    rows = [row for row in measures.samples(where, rounds, console) if row["way"] != "again"]
    for number in range(rounds):
        measures.forget(where)
        rows.append({"kind": "sample", "round": number, "way": "report"} | report(where))
        console.log(f"round {number + 1} of {rounds}: report {rows[-1]['wall_s']:.1f} s")
    measures.forget(where)
    return [row | {"kind": "reading"} for row in rows]


def report(where: Path) -> Row:
    """`tempo-stats report` with its page, tables and figures; they are removed again."""
    pages, began = where.with_name("report"), perf_counter()
    with TemporaryFile() as said:
        made = subprocess.Popen(
            [COMMAND, "report", where, "-o", pages], stdout=subprocess.DEVNULL, stderr=said
        )
        _, status, usage = os.wait4(made.pid, 0)
        made.returncode = os.waitstatus_to_exitcode(status)
        wall = perf_counter() - began
        said.seek(0)
        if not (pages / "index.html").is_file():  # it ends with 1 where a check of the gate failed, too
            raise RuntimeError(f"tempo-stats report made no page: {said.read().decode().strip()}")
    rmtree(pages)
    unit = 1 if sys.platform == "darwin" else 1024
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_bytes": usage.ru_maxrss * unit}


def summary(rows: Sequence[Row]) -> Row:
    """Seconds and peaks of each, and how many times the seconds of one decoding they are, round by round."""
    of = {way: {r["round"]: r for r in rows if r["way"] == way} for way in ("decode", "survey", "report")}
    found: Row = {"kind": "read"}
    for way, mine in of.items():
        found[f"{way}_s"] = spread(row["wall_s"] for row in mine.values())
        found[f"{way}_gib"] = max(row["peak_bytes"] for row in mine.values()) / GIB
        pairs = [(row["wall_s"], of["decode"][number]["wall_s"]) for number, row in mine.items()]
        found[f"{way}_times"] = spread(a / b for a, b in pairs)
    return found


def told(found: Row) -> list[str]:
    """The same as lines, the last against what was asked for."""
    lines = [f"decoding all of it once: {shown(found['decode_s'], 1)} s, peak {found['decode_gib']:.2f} GiB"]
    for way, words in (("survey", "measuring it"), ("report", "tempo-stats report, with page and figures")):
        lines.append(
            f"{words}: {shown(found[f'{way}_s'], 1)} s, {shown(found[f'{way}_times'], 2)}x decoding, "
            f"peak {found[f'{way}_gib']:.2f} GiB"
        )
    times, gib = found["report_times"], found["report_gib"]
    most = LIMITS["times"]
    fast = "met" if times["most"] <= most else "missed" if times["least"] > most else "cannot tell"
    small = "met" if gib < LIMITS["peak_gib"] else "missed"
    lines.append(f"asked, of 30 GB raw: at most {most:g}x: {fast}; under {LIMITS['peak_gib']:g} GiB: {small}")
    return lines
