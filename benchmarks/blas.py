"""What arithmetic costs on this CPU: MLX alone, and with our BLAS and our functions.

    python benchmarks/blas.py
    python benchmarks/blas.py --threads 1 --repeats 9 --json lines.json

Each round starts two new processes, one with TEMPOCUBE_BLAS=off, one without, in turns, so that a slow minute
hits both; functions take turns within a process. Ratios are taken within a round. All results are compared
with numpy's in float64 first, and nothing is shown if one is off. Where MLX has a BLAS of its own (Apple,
NVIDIA) both are the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, shown, spread
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tempocube.capture import blas

PACKAGES = ("tempocube", "mlx", "numpy", "scipy")
TOLERANCE = 1e-5  # of the largest value of a result
SEED = 5

# rows x inner x columns; few rows against a weight is what decoding does
PRODUCTS = [(1024, 1024, 1024), (200, 768, 3072), (200, 3072, 768), (40, 2048, 2048), (4, 2048, 2048)]
TINY_PRODUCTS = [(64, 64, 64), (8, 96, 32)]
SCORES = [(100, 8, 4, 40), (10, 8, 64, 64), (1, 24, 200, 334)]
TINY_SCORES = [(3, 2, 4, 9)]
GATES = [(40, 3072), (200, 3072)]
TINY_GATES = [(5, 30)]

Row = dict[str, Any]
Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
Call = Callable[[], Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and show; as a child, measure and say so in JSON."""
    args = arguments(argv)
    if args.child:
        sys.stdout.write(json.dumps(child(args)))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 130)
    rounds = [{way: started(way, args) for way in ("off", "on")} for _ in range(args.repeats)]
    lines = [{"kind": "run", "ways": rounds[0]["on"]["blas"], "machine": machine(*PACKAGES)}]
    lines[0] |= {"repeats": args.repeats, "threads": args.threads}
    lines += products(rounds) + functions(rounds)
    show(console, lines)
    if args.json:
        args.json.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, help="BLAS threads (all cores)")
    parser.add_argument("--repeats", type=int, help="rounds (5)")
    parser.add_argument("--tiny", action="store_true", help="small shapes, two rounds: only to see it run")
    parser.add_argument("--json", type=Path, help="write JSON lines there")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.repeats = (2 if args.tiny else 5) if args.repeats is None else args.repeats
    for name in ("threads", "repeats"):
        if (getattr(args, name) or 1) < 1 or getattr(args, name) == 0:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: no such folder")
    return args


def started(way: str, args: argparse.Namespace) -> Row:
    """One child's measurements, with or without our BLAS."""
    command = [sys.executable, __file__, "--child", *(["--tiny"] if args.tiny else [])]
    command += ["--threads", str(args.threads)] if args.threads else []
    done = subprocess.run(
        command, env=os.environ | {"TEMPOCUBE_BLAS": way}, stdout=subprocess.PIPE, text=True, check=True
    )
    found: Row = json.loads(done.stdout)
    for name, error in found["errors"].items():
        if not error <= TOLERANCE:
            raise RuntimeError(
                f"{name} with BLAS {way}: off by {error:.1e} of the largest, {TOLERANCE} is allowed"
            )
    return found


# --- in a child


def child(args: argparse.Namespace) -> Row:
    """Prepare, compare, time: seconds by name, and the largest error of each result."""
    name = blas.prepare(args.threads)
    calls, exact = cases(args.tiny)
    if os.environ.get("TEMPOCUBE_BLAS") == "off":  # only the products depend on it
        calls = {of: call for of, call in calls.items() if of.startswith("product|")}
    errors = {of: largest_error(of, calls, exact) for of in calls}
    return {"blas": name, "errors": errors, "seconds": {of: timed(calls[of]) for of in calls}}


def cases(tiny: bool) -> tuple[dict[str, Call], dict[str, Call]]:
    """What is timed, and its exact result, by name: kind, shape, whose."""
    import mlx.core as mx

    rng = np.random.default_rng(SEED)
    calls: dict[str, Call] = {}
    exact: dict[str, Call] = {}
    for m, k, n in TINY_PRODUCTS if tiny else PRODUCTS:
        a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((m, k), (n, k)))
        calls[f"product|{m} x {k} x {n}|"] = _product(mx.array(a), mx.array(b))
        exact[f"product|{m} x {k} x {n}|"] = _exact_product(a, b)
    for kind, shapes in (("softmax", (SCORES, TINY_SCORES)), ("gate", (GATES, TINY_GATES))):
        for shape in shapes[tiny]:
            x = rng.normal(0, 3, shape).astype(np.float32)
            for name, ours, theirs, right in _functions(kind, x):
                for whose, call in (("ours", ours), ("mlx", theirs)):
                    calls[f"{name}|{' x '.join(map(str, shape))}|{whose}"] = call
                    exact[f"{name}|{' x '.join(map(str, shape))}|{whose}"] = right
    return calls, exact


def _product(a: Any, weight: Any) -> Call:
    return lambda: a @ weight.T  # as a linear layer has it


def _exact_product(a: Floats, weight: Floats) -> Call:
    return lambda: a.astype(np.float64) @ weight.astype(np.float64).T


def _functions(kind: str, x: Floats) -> list[tuple[str, Call, Call, Call]]:
    """Name, ours, MLX's, exact: for attention scores or for an MLP's gate."""
    import mlx.core as mx
    import mlx.nn as nn

    from tempocube.capture import fastexp

    given, wide = mx.array(x), x.astype(np.float64)
    if kind == "softmax":
        ours, theirs = lambda: fastexp.log_softmax_parts(given)[0], lambda: mx.softmax(given, axis=-1)
        return [("softmax (and log)", ours, theirs, lambda: _softmax(wide))]
    return [
        ("exp", lambda: fastexp.exp(given), lambda: mx.exp(given), lambda: np.exp(wide)),
        (
            "swiglu",
            lambda: fastexp.swiglu(given, given),
            lambda: nn.silu(given) * given,
            lambda: _swiglu(wide),
        ),
        ("gelu", lambda: fastexp.gelu_approx(given), lambda: nn.gelu_approx(given), lambda: _gelu(wide)),
    ]


def _softmax(x: Wide) -> Wide:
    found = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(found / found.sum(-1, keepdims=True))


def _swiglu(x: Wide) -> Wide:
    return np.asarray(x * x / (1 + np.exp(-x)))


def _gelu(x: Wide) -> Wide:
    return np.asarray(x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def largest_error(name: str, calls: dict[str, Call], exact: dict[str, Call]) -> float:
    """How far a result is from the exact one, in parts of the largest value."""
    right: Wide = exact[name]()
    return float(np.abs(np.array(calls[name]()) - right).max() / np.abs(right).max())


def timed(call: Call, seconds: float = 0.1) -> float:
    """Median seconds of a call, of as many as fit in a short time, three at least."""
    import mlx.core as mx

    mx.eval(call())
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        began = time.perf_counter()
        mx.eval(call())
        times.append(time.perf_counter() - began)
    return statistics.median(times)


# --- from all rounds


def products(rounds: list[dict[str, Row]]) -> list[Row]:
    """GFLOP/s of each product without and with our BLAS, and their ratio."""
    rows = []
    for name in [name for name in rounds[0]["on"]["seconds"] if name.startswith("product|")]:
        shape = name.split("|")[1]
        work = 2 * np.prod([int(side) for side in shape.split(" x ")]).item() / 1e9
        before, after = ([each[way]["seconds"][name] for each in rounds] for way in ("off", "on"))
        rows.append(compared("product", shape, [work / s for s in before], [work / s for s in after]))
    return rows


def functions(rounds: list[dict[str, Row]]) -> list[Row]:
    """Nanoseconds an element of MLX's functions and of ours, and how many times as fast ours are."""
    rows = []
    for name in [name for name in rounds[0]["on"]["seconds"] if name.endswith("|ours")]:
        kind, shape, _ = name.split("|")
        size = np.prod([int(side) for side in shape.split(" x ")]).item() / 1e9
        seconds = [each["on"]["seconds"] for each in rounds]
        theirs, ours = (
            [each[f"{kind}|{shape}|{whose}"] / size for each in seconds] for whose in ("mlx", "ours")
        )
        rows.append(compared(kind, shape, theirs, ours, faster_is_less=True))
    return rows


def compared(
    kind: str, shape: str, before: list[float], after: list[float], faster_is_less: bool = False
) -> Row:
    """Before, after, and how many times as fast; the ratio is taken within each round."""
    ratio = [a / b for b, a in zip(before, after, strict=True)]
    ratio = [1 / each for each in ratio] if faster_is_less else ratio
    unit = "ns an element" if faster_is_less else "GFLOP/s"
    sides = {"before": spread(before), "after": spread(after), "times": spread(ratio)}
    return {"kind": kind, "shape": shape, "unit": unit, **sides}


def show(console: Console, lines: list[Row]) -> None:
    """The table: median and least to most of all rounds."""
    about = lines[0]
    console.print(f"{about['machine']['cpu']}, {about['machine']['cores']} cores; {about['ways']}")
    table = Table("what", "shape", "unit", *("MLX alone", "with ours", "times as fast"))
    for line in lines[1:]:
        sides = (shown(line[side], 1) for side in ("before", "after", "times"))
        table.add_row(line["kind"], line["shape"], line["unit"], *sides)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
