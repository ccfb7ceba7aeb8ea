"""`tempo-capture`: a grid of experiments into one cube."""

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from ..dataset import presets
from ..dataset.grid import Grid, json_schema
from ..errors import BadInput, RunError
from . import console
from .asked import asked

WEEK = 7 * 24 * 3600

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

GridFile = Annotated[
    str | None,
    typer.Argument(metavar="GRID", help="a grid file, or the name of a preset", show_default=False),
]


def _option(name: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(*name.split(), help=text, metavar=metavar, show_default=False)


Text = str | None
Texts = list[str] | None

Out = Annotated[Text, _option("-o --out", "path or URL of the cube (default: GRID.zarr)", "CUBE")]
Overwrite = Annotated[bool, _option("--overwrite", "replace the cube that is there")]
Workers = Annotated[str, _option("--workers", "worker processes here (default: auto)", "N|auto")]
BatchSize = Annotated[
    str, _option("--batch-size", "cells captured together (default: auto; 1: none)", "N|auto")
]
Scheduler = Annotated[Text, _option("--scheduler", "use the workers of this Dask scheduler", "ADDRESS")]
Limit = Annotated[int | None, _option("--limit", "stop after so many cells", "N")]
CrossCheck = Annotated[float, _option("--cross-check", "capture this share again alone and compare", "0..1")]
FailFast = Annotated[
    bool, _option("--fail-fast/--keep-going", "stop at the first failed cell, or do not (default)")
]
Retry = Annotated[bool, _option("--retry-quarantined", "try cells again that killed their workers")]
Patience = Annotated[
    float, _option("--patience", "no forward pass for so long: hung (default: 300)", "SECONDS")
]

Prompt = Annotated[Texts, _option("--prompt", "in place of GRID's prompts; may be repeated", "TEXT")]
Files = Annotated[Texts, _option("--prompts-file", "the same in txt, csv, jsonl; may be repeated", "FILE")]
Model = Annotated[Text, _option("--model", "embedded, a folder or a hub id", "MODEL")]
Threshold = Annotated[Text, _option("--threshold", "number, list or curve, as in a grid file", "VALUE")]
Temperature = Annotated[Text, _option("--temperature", "number or list", "VALUE")]
MaxTokens = Annotated[Text, _option("--max-tokens", "number of sets, or a list", "VALUE")]
MaxWidth = Annotated[Text, _option("--max-width", "cap on the tokens of a set, or a list", "VALUE")]
Seed = Annotated[Texts, _option("--seed", "seed of the selection noise; may be repeated", "N")]
Mode = Annotated[Texts, _option("--mode", "isolated, causal, visible, single; may be repeated", "MODE")]
Replay = Annotated[Text, _option("--replay", "mode along whose sets the others are forced", "MODE")]

DryRun = Annotated[bool, _option("--dry-run", "say what it would do and take; create nothing")]
Calibrate = Annotated[bool, _option("--calibrate", "measure the speed here, then as --dry-run")]
Presets = Annotated[bool, _option("--presets", "list the grids that come with tempocube")]
Schema = Annotated[bool, _option("--print-schema", "print the JSON schema of grids, for editors")]
Json = Annotated[bool, _option("--json", "print JSON, for scripts")]
Quiet = Annotated[bool, _option("--quiet", "nothing, unless something failed")]
Debug = Annotated[bool, _option("--debug", "show tracebacks")]


@app.command()
def capture(
    grid: GridFile = None,
    out: Out = None,
    overwrite: Overwrite = False,
    workers: Workers = "auto",
    batch_size: BatchSize = "auto",
    scheduler: Scheduler = None,
    limit: Limit = None,
    cross_check: CrossCheck = 0.0,
    fail_fast: FailFast = False,
    retry_quarantined: Retry = False,
    patience: Patience = 300.0,
    prompt: Prompt = None,
    prompts_file: Files = None,
    model: Model = None,
    threshold: Threshold = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    max_width: MaxWidth = None,
    seed: Seed = None,
    mode: Mode = None,
    replay: Replay = None,
    dry_run: DryRun = False,
    calibrate: Calibrate = False,
    list_presets: Presets = False,
    print_schema: Schema = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run a grid of TEMPO experiments into a cube; the same command goes on where one stopped.

    Without GRID, --prompt or --prompts-file make one; with it, what is given here replaces its keys.
    """
    if print_schema:
        console.say_json(json_schema())
        return
    if list_presets:
        _list_presets(as_json)
        return
    keys = {
        "prompts": prompt,
        "prompts_file": prompts_file,
        "model": model,
        "threshold": threshold,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "max_width": max_width,
        "seeds": seed,
        "modes": mode,
        "replay": replay,
    }
    plan = {"workers": _whole("--workers", workers), "batch_size": _whole("--batch-size", batch_size)}
    _check(limit, cross_check, patience, scheduler, workers)
    wanted = asked(grid, keys)
    where = f"{wanted.name}.zarr" if out is None else out
    if dry_run or calibrate:
        # what is there counts for nothing if it is to be replaced
        _plan(wanted, None if overwrite else where, plan, calibrate=calibrate, as_json=as_json, quiet=quiet)
        return
    how = {"scheduler": scheduler, "limit": limit, "cross_check": cross_check, "patience": patience}
    how |= {"fail_fast": fail_fast, "retry_quarantined": retry_quarantined, "overwrite": overwrite}
    raise typer.Exit(_run(wanted, where, plan | how, as_json=as_json, quiet=quiet))


def _check(
    limit: int | None, cross_check: float, patience: float, scheduler: str | None, workers: str
) -> None:
    _must(limit is None or limit >= 0, "--limit", "a number of cells from 0 on", limit)
    _must(0 <= cross_check <= 1, "--cross-check", "a share of the cells from 0 to 1", cross_check)
    _must(0 < patience <= WEEK, "--patience", "seconds, more than 0 and at most a week", patience)
    own = not scheduler or workers == "auto"
    _must(own, "--workers", "auto with --scheduler, which has its own", workers)


def _must(right: bool, option: str, what: str, got: Any) -> None:
    if not right:
        raise BadInput(f"{option}: must be {what} (got {got})")


def _whole(option: str, text: str) -> int | str:
    """A number of at least 1, or auto."""
    if text == "auto":
        return text
    right = re.fullmatch(r"0*[1-9][0-9]{,5}", text) is not None
    _must(right, option, "a whole number from 1 on, or auto", text)
    return int(text)


def _run(grid: Grid, where: str, how: dict[str, Any], *, as_json: bool, quiet: bool) -> int:
    """Run it, tell what it came to, and give the exit code."""
    with _stoppable(grid, where, how["overwrite"]) as still_wanted:
        from ..capture import display
        from ..capture.run import run  # late: with the model's library it takes a second

        shown = None if quiet else "auto" if display.interactive() else "lines"
        with display.watching(shown) as watch:

            def see(state: Any) -> None:
                still_wanted()
                watch(state)

            summary = run(grid, where, progress=see, **how)
    from . import outcome

    if as_json:
        console.say_json(outcome.plain(summary))
    elif not (quiet and summary.ok):
        console.say("\n".join(outcome.lines(summary, where)))
    return console.FINE if summary.ok else console.SOME_FAILED


@contextmanager
def _stoppable(grid: Grid, where: str, overwrite: bool) -> Iterator[Callable[[], None]]:
    """Ctrl-C and a plain kill end a run in order, with a line that says what is there.

    What is handed out is called while it runs: an exception that comes within a destructor is lost there.
    """
    asked, begun = False, False

    def stop(*_: Any) -> NoReturn:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    def still_wanted() -> None:
        nonlocal begun
        begun = True
        if asked:
            raise KeyboardInterrupt

    before = {sign: signal.signal(sign, stop) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield still_wanted
    except KeyboardInterrupt as error:
        from . import outcome

        replaced = "stopped before anything was replaced"
        told = replaced if overwrite and not begun else outcome.stopped(grid, where, overwrite)
        raise RunError(told) from error
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _list_presets(as_json: bool) -> None:
    told = {name: presets.describe(name) for name in presets.names()}
    if as_json:
        console.say_json(told)
    else:
        width = max(map(len, told))
        console.say("\n".join(f"{name:{width}}  {text}" for name, text in told.items()))


def _plan(
    grid: Grid, where: str | None, plan: dict[str, Any], *, calibrate: bool, as_json: bool, quiet: bool
) -> None:
    """What the grid asks for, and what it will take here."""
    from ..capture import calibration, forecast

    if calibrate:
        calibration.calibrate(grid, (lambda text: None) if quiet else console.complain)
    expected = forecast.forecast(grid, where, **plan)
    if as_json:
        console.say_json(_facts(grid) | {"forecast": expected.to_dict()})
    else:
        lines = _told(grid) | expected.lines()
        console.say("\n".join(f"{name:12} {text}" for name, text in lines.items()))


def _facts(grid: Grid) -> dict[str, Any]:
    """What the grid asks for, as far as the file itself says."""
    return {
        "grid": grid.name,
        "model": grid.model,
        "cells": len(grid.cells()),
        "prompts": dict(Counter(prompt.category for prompt in grid.prompts)),
        "seeds": list(grid.seeds),
        "modes": list(grid.modes),
        "axes": {name: list(grid.axis_labels(name)) for name in grid.axes},
        "sets": grid.max_sets,
        "slots_after_the_prompt": grid.generated_slots,
        "max_slots": grid.max_slots,
    }


def _told(grid: Grid) -> dict[str, str]:
    """The same in words."""
    facts = _facts(grid)
    prompts = ", ".join(f"{name} {count}" for name, count in facts["prompts"].items())
    factors = {"prompt": len(grid.prompts), "seed": len(grid.seeds), "mode": len(grid.modes)}
    factors |= {f"{name} value": len(values) for name, values in facts["axes"].items()}
    return {
        "grid": grid.name,
        "model": grid.model,
        "cells": f"{facts['cells']} = {' x '.join(_count(n, name) for name, n in factors.items())}",
        "prompts": f"{_count(len(grid.prompts), 'prompt')} ({prompts})",
        "seeds": ", ".join(map(str, grid.seeds)),
        "modes": ", ".join(grid.modes),
        **{name: ", ".join(map(str, values)) for name, values in facts["axes"].items()},
        **{name: str(grid.value(name)) for name in ("threshold", "temperature") if name not in grid.axes},
        "slots": f"at most {grid.generated_slots} after the prompt, in {_count(grid.max_sets, 'set')}"
        + (f", {grid.max_slots} with the prompt" if grid.max_slots else ""),
    }


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)


def main() -> NoReturn:
    """Entry point."""
    console.run(app, "tempo-capture")
