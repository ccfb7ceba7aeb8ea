"""Our capture beside other tools: the same weights, prompts and greedy tokens, attention and readouts kept.

    python benchmarks/peers.py                                  # a random llama of 110 M parameters
    python benchmarks/peers.py --model embedded --tokens 20 --json lines.json
    pip install torch transformers nnsight transformer_lens     # what the other tools need

Hugging Face transformers generates with eager attention, `output_attentions` and `output_scores`, one prompt
at a time and in a padded batch; nnsight traces the same; TransformerLens keeps attention of one prompt at a
time, by a second pass; mlx-lm's batches without any capture are what is possible on our side. All have all
cores: one process, or one process a core. Tools without their packages are skipped. Everything runs in memory
with loaded models. Arms take turns within every round, ratios are taken within a round. All must take the
same tokens and find the same attention to 1e-4, or nothing is shown.

Threads of torch and of BLAS wait for each other: on a machine that is not quiet, arms of several suffer.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tempocube.capture import blas

blas.prepare()  # before anything imports MLX

import peering  # noqa: E402
import shapes  # noqa: E402
from common import machine, shown, spread  # noqa: E402
from peering import Arm, Task  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tempocube.capture.model import find, tokenizer  # noqa: E402
from tempocube.dataset.grid import Grid  # noqa: E402
from tempocube.errors import TempoError  # noqa: E402
from tempocube.words import how_many  # noqa: E402

PACKAGES = ("tempocube", "mlx", "mlx-lm", "numpy", "transformers")
OPTIONAL = ("torch", "nnsight", "transformer_lens")
AT_LEAST = 1.0  # times as many tokens a second as batched generation with its attentions

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and show."""
    args = arguments(argv)
    console = Console(width=None if sys.stdout.isatty() else 150, log_path=False)
    arms = [arm for arm in peering.arms(args.cores) if not args.only or arm.name.split(",")[0] in args.only]
    lines = [about(args), *skipped(arms)]
    show_about(console, lines)
    if not (able := [arm for arm in arms if not arm.missing]):
        console.print("nothing is left to measure", style="bold")
        return 1
    with tempfile.TemporaryDirectory(prefix="tempocube-peers-", dir=args.scratch) as scratch:
        try:
            task = asked(args, Path(scratch))
            lines += peering.rounds(able, task, args.repeats)
        except (RuntimeError, TempoError) as error:
            console.print(f"{error}", style="bold", markup=False, soft_wrap=True)
            return 1
    lines += summary(lines, able)
    show(console, lines, task)
    if args.json:
        args.json.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    names = list(dict.fromkeys(arm.name.split(",")[0] for arm in peering.arms(2)))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="110m", help=f"{', '.join(shapes.SHAPES)} (random), or any (110m)")
    parser.add_argument("--grid", default="seeds100", help="whose prompts are taken (seeds100)")
    parser.add_argument("--prompts", type=int, help="so many of them (all)")
    parser.add_argument("--tokens", type=int, default=20, help="to take after each prompt (20)")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="that every arm may use (all)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds in which every arm has its turn (5)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="TOOL", help=f"of {names}")
    parser.add_argument("--json", type=Path, help="write JSON lines there")
    parser.add_argument(
        "--scratch", type=Path, help="where to work (the system's folder for temporary files)"
    )
    args = parser.parse_args(argv)
    for name in ("tokens", "cores", "repeats", "prompts"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: no such folder")
    if args.scratch and not args.scratch.is_dir():
        parser.error(f"--scratch {args.scratch}: no such folder")
    return args


def asked(args: argparse.Namespace, scratch: Path) -> Task:
    """The model, written if it is a random one, and the prompts."""
    random = shapes.SHAPES.get(args.model)
    folder = shapes.checkpoint(scratch / args.model, random) if random else find(args.model)
    texts, reader = Grid.load(args.grid).prompt_texts[: args.prompts], tokenizer(str(folder))
    tokens = [reader.prompt_tokens(text, args.tokens) for text in texts]
    return Task(args.model, folder, texts, tokens, args.tokens)


def about(args: argparse.Namespace) -> Row:
    """What was asked for, and on what."""
    there = [name for name in OPTIONAL if find_spec(name) is not None]
    names = ("model", "grid", "prompts", "tokens", "cores", "repeats")
    given = {name: getattr(args, name) for name in names}
    return {"kind": "run", "machine": machine(*PACKAGES, *there)} | given


def skipped(arms: Sequence[Arm]) -> list[Row]:
    """A line for every arm that is left out, with the reason."""
    return [{"kind": "skipped", "arm": arm.name, "why": arm.missing} for arm in arms if arm.missing]


def summary(lines: Sequence[Row], arms: Sequence[Arm]) -> list[Row]:
    """Each arm, and each of ours over each of theirs within each round."""
    by = {
        arm.name: [line for line in lines if line["kind"] == "sample" and line["arm"] == arm.name]
        for arm in arms
    }
    rows = [{"kind": "arm", "arm": name} | speeds(samples) for name, samples in by.items()]
    greedy = {arm.name: arm for arm in arms if arm.task == "greedy"}
    ours = [name for name in greedy if name.startswith("tempocube")]
    theirs = [name for name in greedy if name not in ours]
    pairs = [{"kind": "ratio", "arm": a, "over": b} | ratio(by[a], by[b]) for b in theirs for a in ours]
    return [*rows, *pairs]


def speeds(samples: Sequence[Row]) -> Row:
    """Median and range of what an arm took."""
    row: Row = {name: samples[0][name] for name in ("nodes", "experiments")}
    row |= {name: spread(each[name] for each in samples) for name in ("wall_s", "peak")}
    row |= {"nodes_s": spread(each["nodes"] / each["wall_s"] for each in samples)}
    return row | {"experiments_s": spread(each["experiments"] / each["wall_s"] for each in samples)}


def ratio(mine: Sequence[Row], other: Sequence[Row]) -> Row:
    """How many times as fast, within each round, for the same task."""
    theirs = {each["repeat"]: each["wall_s"] for each in other}
    return {"times": spread(theirs[each["repeat"]] / each["wall_s"] for each in mine)}


def verdict(times: dict[str, float], least: float = AT_LEAST) -> str:
    """Told only where all rounds agree."""
    if times["least"] >= least:
        return "met"
    return "missed" if times["most"] < least else "cannot tell from the range"


# --- what is shown


def show_about(console: Console, lines: Sequence[Row]) -> None:
    """Machine and versions, and what is left out, before anything takes long."""
    run, on = lines[0], lines[0]["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in on["versions"].items())
    console.print(f"{on['cores']} cores, {on['cpu']}, {on['memory_gb']} GB; {on['system']}; {versions}")
    console.print(f"{how_many(run['repeats'], 'round')}; median (range)")
    for line in lines[1:]:
        console.print(f"skipped: {line['arm']}: {line['why']}", soft_wrap=True)


def show(console: Console, lines: Sequence[Row], task: Task) -> None:
    """The tables, and the one number that was hoped for."""
    rows, pairs = ([line for line in lines if line["kind"] == kind] for kind in ("arm", "ratio"))
    title = (
        f"{task.name}: {len(task.texts)} prompts, {task.sets} tokens or sets each; same tokens, same weights"
    )
    columns = ("arm", "s", "tokens fed", "tokens fed/s", "experiments/s", "MB, all processes")
    console.print(table(title, columns, map(speed_cells, rows)))
    console.print(
        "parallel tokens: another task, sets at a threshold of 0.1, each fed at once; no ratio is taken"
    )
    if pairs:
        cells = (
            (p["arm"], p["over"], "{median:.3g}x ({least:.3g}-{most:.3g})".format(**p["times"]))
            for p in pairs
        )
        console.print(
            table("times as fast at the same task, within each round", ("ours", "theirs", ""), cells)
        )
    for pair in pairs:
        if "processes" in pair["arm"] and pair["over"].startswith("transformers, batched"):
            told = f"target at least {AT_LEAST:g}x: {verdict(pair['times'])}"
            console.print(f"{pair['arm']} against {pair['over']}, {told}", soft_wrap=True)


def speed_cells(row: Row) -> tuple[str, ...]:
    """An arm as a row of its table."""
    return (
        row["arm"],
        shown(row["wall_s"], 2),
        f"{row['nodes']:,}",
        shown(row["nodes_s"], 1),
        shown(row["experiments_s"], 1),
        f"{row['peak']['most'] / 1e6:,.0f}",
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
