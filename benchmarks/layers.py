"""How much each layer of running saves: a process an experiment, one that stays, several, and packed batches.

    python benchmarks/layers.py --sample 20                       # seeds100-sampled, the model in the box
    python benchmarks/layers.py seeds100-sampled seeds100 --json lines.json --figure layers.svg
    python benchmarks/layers.py my.yaml --model path/to/model --workers 2 --only 1 2 3 3xN

Layer 0 starts a process and loads the model for every experiment; beside it one process loads it anew for
each. Layer 1 keeps it, layer 2 is layer 1 on several workers, layer 3 packs experiments into one pass. Each
arm is a new process that fills a new cube; layers 1 to 3 are the command `tempo-capture`. Arms take turns
within every round, and ratios are taken within a round. Every cube must hold what the first one holds, within
what packing may do, or nothing is shown. With `--sample` layer 0 gets so many of the experiments, drawn by
seed, and its times are extrapolated.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import layer_figure
import layer_ratios
import layering
from common import machine, shown
from layering import Arm, Case
from rich.console import Console
from rich.table import Table

from tempocube.dataset.grid import Grid
from tempocube.errors import TempoError
from tempocube.words import how_many

PACKAGES = ("tempocube", "mlx", "mlx-lm", "dask", "numpy", "zarr")
NAMES = tuple(name for name in layering.arms(1, "auto") if name != layering.DISTINCT)

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and show, grid by grid."""
    args = arguments(argv)
    console = Console(width=None if sys.stdout.isatty() else 150, log_path=False)
    lines: list[Row] = [{"kind": "run", "machine": machine(*PACKAGES)} | asked(args)]
    show_about(console, lines[0])
    try:
        for name, grid in zip(args.grids, args.loaded, strict=True):
            with tempfile.TemporaryDirectory(prefix="tempocube-layers-", dir=args.scratch) as scratch:
                case = Case(grid, Path(scratch), args.sample)
                lines += ({"grid": name} | line for line in measured(args, case, console))
            show(console, [line for line in lines if line.get("grid") == name], case, args)
            if args.figure:
                picture(lines, name, case, args)
    except (RuntimeError, TempoError) as error:
        console.print(f"{error}", style="bold", markup=False, soft_wrap=True)
        return 1
    if args.json:
        args.json.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked; `loaded` are its grids."""
    parser = options()
    args = parser.parse_args(argv)
    for name in ("workers", "repeats", "sample"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    for name in ("json", "figure"):
        if getattr(args, name) and not getattr(args, name).absolute().parent.is_dir():
            parser.error(f"--{name} {getattr(args, name)}: no such folder")
    if args.figure and args.figure.suffix not in (".svg", ".png", ".pdf"):
        parser.error(f"--figure {args.figure}: must end in .svg, .png or .pdf")
    if args.scratch and not args.scratch.is_dir():
        parser.error(f"--scratch {args.scratch}: no such folder")
    try:
        args.loaded = [loaded(name, args.model) for name in args.grids]
    except TempoError as error:
        parser.error(str(error))
    for name, grid in zip(args.grids, args.loaded, strict=True):
        if grid.replay:
            parser.error(f"{name}: replay: a cell that follows another cannot run alone; leave it out")
    args.only = [name for name in NAMES if name in (args.only or NAMES)]
    return args


def options() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "grids", nargs="*", default=["seeds100-sampled"], help="grid files or presets (seeds100-sampled)"
    )
    parser.add_argument("--model", help="instead of the grid's own")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="LAYER", help=f"of {[*NAMES]}")
    parser.add_argument("--workers", type=int, default=2, help="of layer 2, and of layer 3 on several (2)")
    parser.add_argument("--batch-size", default="auto", help="of layer 3 (auto)")
    parser.add_argument("--sample", type=int, help="experiments that layer 0 and the reload get (all)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds in which every arm has its turn (5)")
    parser.add_argument("--json", type=Path, help="write JSON lines there")
    parser.add_argument("--figure", type=Path, help="draw there: SVG, PNG or PDF")
    parser.add_argument(
        "--scratch", type=Path, help="where to work (the system's folder for temporary files)"
    )
    return parser


def loaded(name: str, model: str | None) -> Grid:
    """A grid, with another model if one is asked for; a local one by its whole path."""
    grid = Grid.load(name)
    if model is None:
        return grid
    where = Path(model)
    return Grid.from_dict(grid.to_dict() | {"model": str(where.resolve()) if where.exists() else model})


def asked(args: argparse.Namespace) -> Row:
    """What was asked for, for the lines."""
    names = ("grids", "model", "only", "workers", "batch_size", "sample", "repeats")
    return {name: getattr(args, name) for name in names}


def measured(args: argparse.Namespace, case: Case, console: Console) -> list[Row]:
    """Samples, and what they come to."""
    every = layering.arms(args.workers, args.batch_size)
    chosen = [every[name] for name in args.only]
    if case.copies and layering.PACKED in args.only:
        chosen.append(every[layering.DISTINCT])
    samples = layering.rounds(case, chosen, args.repeats, console.log)
    return [*samples, *layer_ratios.summary(samples, len(case.grid.cells()))]


def picture(lines: Sequence[Row], name: str, case: Case, args: argparse.Namespace) -> None:
    """A file for each grid: the first has the name that was asked for."""
    file, on = args.figure, lines[0]["machine"]
    if name != args.grids[0]:
        file = file.with_stem(f"{file.stem}-{Path(name).stem}")
    told = {key: arm.told for key, arm in layering.arms(args.workers, args.batch_size).items()}
    title = f"{Path(name).stem}, model {Path(case.grid.model).name}; {on['cores']} cores, {on['cpu']}"
    layer_figure.draw([line for line in lines if line.get("grid") == name], told, title, file)


# --- what is shown


def show_about(console: Console, run: Row) -> None:
    """Machine and versions, before anything takes long."""
    on = run["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in on["versions"].items())
    console.print(f"{on['cores']} cores, {on['cpu']}, {on['memory_gb']} GB; {on['system']}; {versions}")
    covered = layer_ratios.coverage(run["repeats"])
    holds = f"; such a range holds the true median with probability {covered:.0%}" if covered else ""
    console.print(f"{how_many(run['repeats'], 'round')}; median (range){holds}")


def show(console: Console, lines: Sequence[Row], case: Case, args: argparse.Namespace) -> None:
    """All that one grid came to."""
    of = {kind: [each for each in lines if each["kind"] == kind] for kind in ("arm", "ratio", "target")}
    arms = layering.arms(args.workers, args.batch_size)
    console.print(
        f"\n[bold]{lines[0]['grid']}[/], model {Path(case.grid.model).name}: all arms found the same"
    )
    console.print(times_table(of["arm"], arms), counts_table(of["arm"], arms), sep="\n")
    console.print(*notes(of["arm"], case), sep="\n")
    if of["ratio"]:
        console.print(ratio_table(of["ratio"], arms))
    if of["target"]:
        console.print(target_table(of["target"], arms))
    for each in (each for each in lines if each["kind"] == "copies"):
        console.print(copies_line(each), soft_wrap=True)


def times_table(rows: Sequence[Row], arms: dict[str, Arm]) -> Table:
    """Seconds and speed."""
    columns = ("arm", "s, all", "start-up s", "s, then", "end s", "experiments/s", "tokens/s", "nodes/s")
    cells = (
        (
            arms[row["arm"]].told + " *" * (row["sampled"] > 1),
            *(shown(row[name], 1) for name in ("all_s", "start_s", "work_s", "end_s")),
            *(shown(row[name], 1) for name in ("experiments_s", "slots_s", "nodes_s")),
        )
        for row in rows
    )
    return table("time; a second's counts without start-up and end", columns, cells)


def counts_table(rows: Sequence[Row], arms: dict[str, Arm]) -> Table:
    """What was counted, and what was held."""
    columns = ("arm", "model loads", "s a load", "passes", "nodes fed", "tokens", "MB each", "MB together")
    cells = (
        (
            arms[row["arm"]].told + " *" * (row["sampled"] > 1),
            f"{row['loads']:,}",
            shown(row["load_s"], 2),
            f"{row['passes']:,}",
            f"{row['nodes']:,}",
            f"{row['slots'] * row['sampled']:,.0f}",
            *(f"{row[name]['median'] / 1e6:,.0f}" for name in ("peak_bytes", "sum_bytes")),
        )
        for row in rows
    )
    return table("counted, and the most memory: of a process with a model, of all at a time", columns, cells)


def notes(rows: Sequence[Row], case: Case) -> list[str]:
    """What must be known to read the tables."""
    told = [
        "layer 0: a process for each experiment, or one process and a load for each; "
        "layer 1: the model is kept; layer 2: on several workers; layer 3: packed",
        "tokens: slots of all experiments; nodes: tokens fed, some of them for several experiments; "
        "a load of layers 1 to 3 has its self-test in it",
    ]
    if any(row["sampled"] > 1 for row in rows):
        told.append(f"* extrapolated from {len(case.chosen)} of {len(case.grid.cells())} experiments")
    for row in rows:
        if row["arm"] == layering.FRESH:
            parts = {name: row[name]["median"] for name in ("work_s", "batch_s", "load_s")}
            each = parts["work_s"] / layer_ratios.done(row)
            run = parts["batch_s"] / layer_ratios.done(row)
            rest = each - run - parts["load_s"]
            told.append(
                f"an experiment of layer 0: {each:.2f} s = {rest:.2f} to start and end a process, "
                f"{parts['load_s']:.2f} to load the model, {run:.2f} to run and write"
            )
    return told


def ratio_table(rows: Sequence[Row], arms: dict[str, Arm]) -> Table:
    """How many times as fast."""
    cells = (
        (
            f"{arms[row['arm']].told} / {arms[row['over']].told}",
            layer_ratios.times(row["work_s"]),
            row["work_s_verdict"],
            layer_ratios.times(row["all_s"]),
            row["all_s_verdict"],
            "" if row["target"] is None else wanted(row),
        )
        for row in rows
    )
    columns = ("times as fast", "start-up apart", "", "all", "", "target")
    return table("within each round; here, with this model", columns, cells)


def wanted(row: Row) -> str:
    """2x to 3x (the plan's layer 3)."""
    least, most = row["target"]
    return f"{least:g}x{f' to {most:g}x' if most else ''} ({row['whose']})"


def target_table(rows: Sequence[Row], arms: dict[str, Arm]) -> Table:
    """What was hoped for, what was measured."""
    cells = (
        (
            arms[row["arm"]].told,
            f"under {row['most']:g} {row['unit']}",
            "{median:.3g} ({least:.3g}-{most:.3g})".format(**row["measured"]) + f" {row['unit']}",
            row["verdict"] + ", scaled to 100 experiments" * row["scaled"],
        )
        for row in rows
    )
    title = "the plan's targets for 100 experiments of a model of billions on a GPU; here, with this model"
    return table(title, ("arm", "target", "measured", "verdict"), cells)


def copies_line(row: Row) -> str:
    """What identical seeds save, apart from all else."""
    return (
        f"identical seeds: {row['experiments']} experiments are {row['distinct']} distinct ones. "
        f"Layer 3 feeds {row['nodes']:,} nodes, with one seed alone {row['nodes_alone']:,}, and does "
        f"{layer_ratios.times(row['times'])} as many experiments a second as with one seed alone. "
        "That is no speedup of the engine: the others are copies"
    )


def table(title: str, columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    """A table with its first column to the left."""
    made = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if i else "left")
    for row in rows:
        made.add_row(*row)
    return made


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was written to the scratch folder goes
    sys.exit(main())
