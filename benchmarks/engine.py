"""What the engine costs: with and without capture, in a cube, by batch size, at a 110 M shape, and in memory.

    python benchmarks/engine.py
    python benchmarks/engine.py --only shape110m packing --threads 1 --repeats 7 --json lines.json

One process, as one worker. Ways take turns within every round, so that a slow minute hits all; a round before
the first warms up and does not count; ratios are taken within a round. All ways must take the same sets (but
for near ties, by their stored margins) and find the same weights to 1e-5, or nothing is shown. Loading the
model, and opening and closing the cube, are not timed. Where others use the machine too, believe CPU seconds
first.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tempocube.capture import blas

blas.prepare()  # before anything imports MLX

import capturing  # noqa: E402
import footprint  # noqa: E402
import shapes  # noqa: E402
from capturing import Case  # noqa: E402
from common import MB, machine, shown  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tempocube.capture.model import Model, load  # noqa: E402

PACKAGES = ("tempocube", "mlx", "mlx-lm", "numpy", "zarr")
PRESETS = ("seeds100", "seeds100-sampled")
LONG_CELLS = (1, 4)
MOST_ADDED = 15.0  # % that capture may add to the time without, at the shape of 110 M parameters
MOST_GROWTH = 1e6  # bytes an experiment may leave behind

Row = dict[str, Any]


class Models:
    """The models of a run: the embedded one, and one of the 110 M shape; tiny: one tiny model is both."""

    def __init__(self, tiny: bool, scratch: Path) -> None:
        self.tiny, self.scratch = tiny, scratch
        self._loaded: dict[str, Model] = {}

    def name(self, shape: str | None = None) -> str:
        """What `load` takes, of a random model of a shape, or of the embedded one."""
        shape = "tiny" if self.tiny else shape
        if shape is None:
            return "embedded"
        where = self.scratch / shape
        return str(where if where.exists() else shapes.checkpoint(where, shapes.SHAPES[shape]))

    def case(self, preset: str, shape: str | None = None) -> Case:
        """A preset's experiments on a model."""
        name = self.name(shape)
        model = self._loaded[name] = self._loaded.get(name) or load(name)
        return Case(f"{preset}, {model.name}", model, capturing.grid(preset, self.tiny), self.scratch)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and show, section by section."""
    args = arguments(argv)
    console = Console(width=None if sys.stdout.isatty() else 150, log_path=False)
    about = {"kind": "run", "blas": blas.prepare(args.threads), "threads": args.threads}
    lines: list[Row] = [about | {"repeats": args.repeats, "tiny": args.tiny, "machine": machine(*PACKAGES)}]
    show_about(console, lines[0])
    with tempfile.TemporaryDirectory(prefix="tempocube-engine-", dir=args.scratch) as scratch:
        models = Models(args.tiny, Path(scratch))
        for name in args.only or SECTIONS:
            console.log(name)
            lines += ({"section": name} | line for line in SECTIONS[name](args, models, console))
    if args.json:
        args.json.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=[], metavar="SECTION", help=f"of {[*SECTIONS]}"
    )
    parser.add_argument("--threads", type=int, help="BLAS threads (OPENBLAS_NUM_THREADS, else all cores)")
    parser.add_argument("--repeats", type=int, help="rounds in which every way has its turn (5)")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model, few experiments: only to see it run"
    )
    parser.add_argument("--json", type=Path, help="write JSON lines there")
    parser.add_argument(
        "--scratch", type=Path, help="where to work (the system's folder for temporary files)"
    )
    args = parser.parse_args(argv)
    args.repeats = (2 if args.tiny else 5) if args.repeats is None else args.repeats
    for name in ("threads", "repeats"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: no such folder")
    if args.scratch and not args.scratch.is_dir():
        parser.error(f"--scratch {args.scratch}: no such folder")
    return args


# --- sections


def embedded(args: argparse.Namespace, models: Models, console: Console) -> list[Row]:
    """Both presets on the embedded model: what capture and a cube add."""
    lines: list[Row] = []
    for preset in PRESETS:
        case = models.case(preset)
        samples = capturing.rounds(case, capturing.WAYS, args.repeats)
        rows = capturing.summary(samples)
        console.print(speeds(rows), overheads(rows))
        lines += [*samples, *rows]
    return lines


def shape110m(args: argparse.Namespace, models: Models, console: Console) -> list[Row]:
    """The same experiments on a random model of 110 M parameters, and its share of the machine's rate."""
    case = models.case("seeds100-sampled", "110m")
    samples = capturing.rounds(
        case, capturing.WAYS, args.repeats, capturing.fraction(case, 256 if args.tiny else capturing.SIDE)
    )
    rows = capturing.summary(samples)
    console.print(speeds(rows), overheads(rows), *verdicts(rows), shares(rows), sep="\n")
    return [*samples, *rows]


def packing(args: argparse.Namespace, models: Models, console: Console) -> list[Row]:
    """One by one, and in batches: fewer passes, fewer nodes, the same results."""
    case = models.case("seeds100-sampled")
    samples = capturing.rounds(case, capturing.batches(capturing.SIZES), args.repeats)
    rows = capturing.summary(samples)
    console.print(speeds(rows), gains(rows))
    return [*samples, *rows]


def memory(args: argparse.Namespace, models: Models, console: Console) -> list[Row]:
    """Long experiments against what was planned for them; many short ones against a flat line."""
    name, tiny = models.name(), {"max_tokens": 70, "max_slots": 70} if args.tiny else {}
    asked = capturing.grid("long", args.tiny).to_dict() | tiny
    peaks = [footprint.alone(footprint.long, name, asked, cells, args.threads) for cells in LONG_CELLS]
    short = capturing.grid("seeds100-sampled", args.tiny).to_dict()
    grown = footprint.alone(footprint.growth, name, short, args.threads)
    console.print(peaks_table(peaks), *growth_lines(grown), sep="\n")
    return [*({"kind": "peak"} | each for each in peaks), {"kind": "growth"} | grown]


Section = Callable[[argparse.Namespace, Models, Console], list[Row]]
SECTIONS: dict[str, Section] = {
    "embedded": embedded,
    "shape110m": shape110m,
    "packing": packing,
    "memory": memory,
}


# --- what is shown


def show_about(console: Console, run: Row) -> None:
    """Machine, versions, BLAS, before anything takes long."""
    on = run["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in on["versions"].items())
    console.print(f"{on['cores']} cores, {on['cpu']}, {on['memory_gb']} GB; {on['system']}; {versions}")
    console.print(f"{run['blas']}; {run['repeats']} rounds; median (least-most)")


def speeds(rows: list[Row]) -> Table:
    """What each way took."""
    title = f"{rows[0]['case']}: {rows[0]['experiments']} experiments"
    timed = ("experiments/s", "ms each", "CPU ms each", "nodes/s", "MB stored")
    cells = (
        (
            row["way"],
            f"{row['passes']:,}",
            f"{row['nodes']:,}",
            shown(row["experiments_s"], 1),
            shown(row["wall_ms"], 1),
            shown(row["cpu_ms"], 1),
            shown(row["nodes_s"]),
            f"{row['stored_bytes']['median'] / MB:,.1f}" if "stored_bytes" in row else "",
        )
        for row in rows
    )
    return _table(title, ("way", "passes", "nodes", *timed), cells)


def overheads(rows: list[Row]) -> Table:
    """What capture, and a cube, add to the time without."""
    cells = ((row["way"], *(signed(row[f"{clock}_added"]) for clock in ("wall", "cpu"))) for row in rows[1:])
    return _table(f"added to {rows[0]['way']}, within each round, %", ("way", "wall", "CPU"), cells)


def verdicts(rows: list[Row]) -> list[str]:
    """Whether each way but the first adds no more than it may, by either clock."""
    names = {"capture": "capture alone", "and a cube": "capture and a cube"}
    return [
        f"{names[row['way']]}, target at most {MOST_ADDED:g} %: "
        f"wall {verdict(row['wall_added'])}, CPU {verdict(row['cpu_added'])}"
        for row in rows[1:]
    ]


def verdict(added: dict[str, float], most: float = MOST_ADDED) -> str:
    """Told only where all rounds agree."""
    if added["most"] <= most:
        return "met"
    return "missed" if added["least"] > most else "cannot tell from the spread"


def gains(rows: list[Row]) -> Table:
    """How many times as fast as the first way."""
    cells = (
        (row["way"], *(shown(row[f"{clock}_times"], 1) for clock in ("wall", "cpu"))) for row in rows[1:]
    )
    return _table(f"times as fast as {rows[0]['way']}, within each round", ("way", "wall", "CPU"), cells)


def shares(rows: list[Row]) -> Table:
    """How close to the machine's rate."""
    columns = ("gflops", "machine", "share", "share_cpu")
    cells = ((row["way"], *(shown(row[name], 1) for name in columns)) for row in rows)
    names = ("way", "GFLOP/s", "a large product's", "share %", "share % by CPU seconds")
    return _table("float32 arithmetic", names, cells)


def peaks_table(peaks: list[Row]) -> Table:
    """Long experiments: the peak beyond the model, what was planned, what their maps would take at once."""
    columns = ("cells", "slots", "nodes", "peak MB", "planned MB", "peak/planned", "maps MB", "s")
    cells = (
        (
            *(f"{each[name]:,}" for name in ("cells", "slots", "nodes")),
            *(f"{each[name] / MB:,.0f}" for name in ("peak_bytes", "planned_bytes")),
            f"{each['peak_bytes'] / each['planned_bytes']:.2f}",
            f"{each['maps_bytes'] / MB:,.0f}",
            f"{each['seconds']:.1f}",
        )
        for each in peaks
    )
    return _table("long experiments, rows passed on: memory beyond the loaded model", columns, cells)


def growth_lines(grown: Row) -> tuple[str, str]:
    """The slope of the memory held, whether it is flat, and the most it may be against what is allowed."""
    low, high = grown["interval"]
    over = f"memory held over {grown['turns']} turns, {grown['experiments']} experiments"
    slope = f"{grown['slope']:+z,.0f} bytes an experiment (95 %: {low:+z,.0f} to {high:+z,.0f})"
    flat = (
        "flat, the interval includes 0" if low <= 0 <= high else "not flat, the interval does not include 0"
    )
    met = "met" if high < MOST_GROWTH else "missed"
    allowed = f"at most {high / 1e3:+z,.2f} kB an experiment, {MOST_GROWTH / 1e3:,.0f} kB are allowed: {met}"
    return f"{over}: {slope}: {flat}", allowed


def signed(values: dict[str, float]) -> str:
    """A spread of what may be negative."""
    return "{median:+.1f} ({least:+.1f} to {most:+.1f})".format(**values)


def _table(title: str, columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was written to the scratch folder goes
    sys.exit(main())
