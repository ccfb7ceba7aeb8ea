"""What storing attention costs: bytes, MB/s and error of log16, beside other ways to keep the same maps.

    python benchmarks/storage.py --profile seeds
    python benchmarks/storage.py --profile long --cells 100 --only log16    # 30 GB raw, one cell at a time
    python benchmarks/storage.py --profile long --cells 100 --only log16 --maps embedded --report --repeats 1

All rates count raw float32 bytes (layers x heads x slots x slots x 4, each cell with its own slots). Formats
take turns within every round, so that a slow minute hits all; ratios are taken within a round. Files are in
the page cache, nothing is synced. Where others use the machine too, believe CPU seconds a raw GB first. A row
is an observation of this machine, not a property of the format. `--maps embedded` captures the maps first,
from as many texts as it takes (18 GB of disk for 30 GB raw); `--report` measures the cube, and calls
tempo-stats.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import measuring
import planted
import scale_maps
import scale_report
from common import MB, machine, shown, spread
from formats import FORMATS
from planted import PROFILES, Profile
from rich.console import Console
from rich.table import Table

PACKAGES = ("tempocube", "numpy", "zarr", "numcodecs", "obstore", "xarray")
RATIOS = {
    "write_mbs": "write MB/s",
    "write_cpu_s_gb": "write CPU",
    "read_layer_mbs": "layer MB/s",
    "read_all_mbs": "all MB/s",
    "read_cpu_s_gb": "all CPU",
}

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show, and leave nothing behind that was not asked for."""
    args = arguments(argv)
    console = Console(width=None if sys.stdout.isatty() else 170, log_path=False)
    with tempfile.TemporaryDirectory(prefix="tempocube-storage-", dir=args.scratch) as scratch:
        profile, maps = args.shape, {"maps": planted.ABOUT}
        if args.maps == "embedded":
            console.log("capturing maps of the embedded model")
            profile, maps = scale_maps.captured(Path(scratch, "maps"), profile, args.cells, args.workers)
        lines: list[Row] = [about(args, profile) | maps]
        show_about(console, lines[0])
        if not args.estimate:
            lines += measured(args, profile, Path(scratch), console)
            show(console, lines)
        if args.estimate or not (args.only or profile.real):
            found = measuring.estimates(Path(scratch), profile, min(args.cells, 4))
            lines += [{"kind": "estimate", "name": name, "value": value} for name, value in found.items()]
            show_estimates(console, found, profile)
    if args.json:
        args.json.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = options()
    args = parser.parse_args(argv)
    profile = PROFILES[args.profile]
    real = args.maps == "embedded"
    args.shape = replace(profile, modes=scale_maps.MODES) if real else profile
    args.cells = profile.cells if args.cells is None else args.cells
    args.repeats = profile.repeats if args.repeats is None else args.repeats
    for name in ("cells", "workers", "repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    args.formats = list(dict.fromkeys(args.only)) or list(FORMATS)
    if real and (args.estimate or args.cells % 2):
        parser.error("--maps embedded needs an even number of --cells, for two modes, and no --estimate")
    if args.report and "log16" not in args.formats:
        parser.error("--report reads the cube of log16, which --only leaves out")
    if args.keep and args.keep.exists():
        parser.error(f"--keep {args.keep}: is there already")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: no such folder")
    if args.scratch and not args.scratch.is_dir():
        parser.error(f"--scratch {args.scratch}: no such folder")
    need = 0.6 * raw_bytes(args) * ((len(args.formats) if args.keep else 1) + real)
    free = shutil.disk_usage(args.scratch or tempfile.gettempdir()).free
    if need > free and not args.estimate:
        parser.error(f"this may need {need / 1e9:.1f} GB of disk, {free / 1e9:.1f} are free; see --scratch")
    return args


def options() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", choices=PROFILES, default="seeds", help="shape of the experiments")
    parser.add_argument("--cells", type=int, help="experiments (default: tiny 3, seeds 100, long 4)")
    parser.add_argument("--workers", type=int, default=2, help="processes that write at once (2)")
    parser.add_argument("--repeats", type=int, help="rounds in which every format has its turn")
    parser.add_argument(
        "--only", nargs="+", choices=FORMATS, default=[], metavar="FORMAT", help=f"of {[*FORMATS]}"
    )
    parser.add_argument(
        "--maps", choices=("planted", "embedded"), default="planted", help="or of the model in the box"
    )
    parser.add_argument("--report", action="store_true", help="what reading it takes: measures, tempo-stats")
    parser.add_argument("--estimate", action="store_true", help="only the constants of estimates")
    parser.add_argument("--json", type=Path, help="write JSON lines there")
    parser.add_argument("--keep", type=Path, help="leave the last round's stores in this folder")
    parser.add_argument(
        "--scratch", type=Path, help="where to work (the system's folder for temporary files)"
    )
    return parser


def raw_bytes(args: argparse.Namespace) -> int:
    """Bytes of all maps as raw float32."""
    return sum(measuring.raw(args.shape, cell) for cell in range(args.cells))


def about(args: argparse.Namespace, profile: Profile) -> Row:
    """What was run, on what."""
    return {
        "kind": "run",
        "profile": profile.name,
        "layers": profile.layers,
        "heads": profile.heads,
        "cells": args.cells,
        "workers": args.workers,
        "repeats": args.repeats,
        "raw_bytes": raw_bytes(args),
        **measuring.nature(profile),
        "machine": machine(*PACKAGES),
    }


def measured(args: argparse.Namespace, profile: Profile, scratch: Path, console: Console) -> list[Row]:
    """Every format in turn, as many rounds as asked for; the first round also compares and counts."""
    samples: list[Row] = []
    fixed: dict[str, Row] = {}
    decoded: list[Row] = []
    reading: list[Row] = []
    with measuring.writers(args.workers) as pool:
        for repeat in range(args.repeats):
            for name in _turn(args.formats, repeat):
                form, folder = FORMATS[name], scratch / "store"
                console.log(f"round {repeat + 1} of {args.repeats}: {name}")
                sample = measuring.write_all(pool, form, folder, profile, args.cells)
                if not repeat:
                    fixed[name] = measuring.errors(form, folder, profile)
                    fixed[name] |= measuring.layer_cost(form, folder, profile, args.cells)
                    if name == "log16":
                        decoded = measuring.decoding(folder, profile)
                sample |= measuring.read_all(form, folder, profile, args.cells)
                samples.append({"kind": "sample", "format": name, "repeat": repeat} | sample)
                if args.report and name == "log16" and repeat == args.repeats - 1:
                    reading = scale_report.samples(folder, args.repeats, console)
                _put_away(folder, args.keep / name if args.keep and repeat == args.repeats - 1 else None)
    rows = [summary(name, samples, fixed[name]) for name in args.formats]
    read = [*reading, scale_report.summary(reading)] if reading else []
    decoding = ({"kind": "decode"} | each for each in decoded)
    return [*samples, *rows, *ratios(args.formats, samples), *decoding, *read]


def _turn(names: list[str], repeat: int) -> list[str]:
    """Another one begins every round."""
    first = repeat % len(names)
    return names[first:] + names[:first]


def _put_away(folder: Path, keep: Path | None) -> None:
    if keep is None:
        shutil.rmtree(folder)
    else:
        keep.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, keep)


def summary(name: str, samples: list[Row], fixed: Row) -> Row:
    """One format: median and spread of what was timed, and what does not vary."""
    mine = [sample for sample in samples if sample["format"] == name]
    timed = {key: spread(s[key] for s in mine) for key in mine[0] if isinstance(mine[0][key], float)}
    size = mine[0]["stored_bytes"]
    return {"kind": "row", "format": name, "about": FORMATS[name].about, "stored_bytes": size} | timed | fixed


def ratios(names: list[str], samples: list[Row]) -> list[Row]:
    """What was timed of each format over that of the first one, taken within each round."""
    first, *others = ({s["repeat"]: s for s in samples if s["format"] == name} for name in names)
    return [
        {"kind": "ratio", "format": name, "to": names[0]}
        | {key: spread(mine[round_][key] / first[round_][key] for round_ in mine) for key in RATIOS}
        for name, mine in zip(names[1:], others, strict=True)
    ]


def show_about(console: Console, run: Row) -> None:
    """Machine, maps and profile, before anything takes long."""
    on = run["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in on["versions"].items())
    console.print(f"{on['cores']} cores, {on['cpu']}, {on['memory_gb']} GB; {on['system']}; {versions}")
    console.print(f"maps: {run['maps']}")
    quantiles = ", ".join(f"{float(q):.0%} {v}" for q, v in run["log_weight_quantiles"].items())
    console.print(f"log weights: {quantiles}; {run['below_float16']:.1%} too small for float16")
    console.print(
        f"profile {run['profile']}: {run['cells']} cells x {run['layers']} layers x {run['heads']} heads, "
        f"{run['raw_bytes'] / MB:,.1f} MB raw float32; {run['workers']} writers, {run['repeats']} rounds"
    )


def show(console: Console, lines: list[Row]) -> None:
    """The tables."""
    rows, pairs, decoded = ([x for x in lines if x["kind"] == kind] for kind in ("row", "ratio", "decode"))
    console.print(times(rows, lines[0]["raw_bytes"]))
    console.print(
        "layer: one layer of all cells; cell: one whole cell; all: a cell at a time; CPU: of all threads"
    )
    console.print("peak: of a writing process, its imports included (about 130 MB), maps as well")
    console.print(losses(rows))
    if pairs:
        title = f"over those of {pairs[0]['to']}, within each round: median (least-most)"
        cells = ((pair["format"], *(shown(pair[key], 2) for key in RATIOS)) for pair in pairs)
        console.print(_table(title, ("format", *RATIOS.values()), cells))
    if decoded:
        reading = spread(each["xarray_read"] / each["table_read"] for each in decoded)
        memory = spread(each["xarray"] / each["table"] for each in decoded)
        console.print(
            f"a cell of log16 read as logs, xarray's CPU time over our table's: {shown(reading, 1)}"
        )
        console.print(f"only its decoding, codes in memory: {shown(memory, 1)}")
    for read in (line for line in lines if line["kind"] == "read"):
        console.print(*scale_report.told(read), sep="\n")


def times(rows: list[Row], raw: int) -> Table:
    """Bytes and speed."""
    timed = ("write MB/s", "CPU s/GB", "peak MB", "open ms", "layer MB/s", "cell ms", "all MB/s", "CPU s/GB")
    columns = ("format", "MB", "raw/stored", *timed)
    cells = (
        (
            row["format"],
            f"{row['stored_bytes'] / MB:,.2f}",
            f"{raw / row['stored_bytes']:.2f}",
            shown(row["write_mbs"]),
            shown(row["write_cpu_s_gb"], 1),
            f"{row['write_peak_mb']['most']:,.0f}",
            shown(row["open_ms"]),
            shown(row["read_layer_mbs"]),
            shown(row["read_cell_ms"], 1),
            shown(row["read_all_mbs"]),
            shown(row["read_cpu_s_gb"], 1),
        )
        for row in rows
    )
    return _table("median (least-most) over the rounds; MB/s of raw float32", columns, cells)


def losses(rows: list[Row]) -> Table:
    """What happens to weights, and what a read touches."""
    columns = (
        "format",
        "largest relative error, 1 to e^-80",
        "non-zero weights lost",
        "hidden pairs with weight",
        "requests",
        "of stored bytes",
    )
    cells = (
        (
            row["format"],
            f"{row['largest_relative_error']:.2%}",
            f"{row['share_lost']:.2%}",
            f"{row['hidden_with_weight']:,} of {row['hidden_pairs']:,}",
            f"{row['layer_requests']:,}",
            f"{row['layer_share']:.1%}",
        )
        for row in rows
    )
    return _table("error, and what reading one layer of all cells touches", columns, cells)


def show_estimates(console: Console, found: dict[str, float], profile: Profile) -> None:
    """The constants, by name."""
    console.print(f"stored bytes a raw float32 byte, profile {profile.name} (constants of estimates):")
    for name, value in found.items():
        console.print(f"  {name} = {value:.4f}", highlight=False)


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
