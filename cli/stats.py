"""`tempo-stats`: what a cube says, and whether it can be believed."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, NoReturn

import typer

from ..words import in_bytes
from . import console
from .ask import ask
from .diff import diff
from .exchange import export, import_
from .power import power
from .report import report
from .show import show

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False
)

Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
CubeArg = Annotated[str, typer.Argument(metavar="CUBE", help="path or URL of a cube")]

MOST_LINES = 50


@app.callback()
def stats() -> None:
    """Answer questions about a cube of TEMPO experiments, and say whether it can be believed."""


app.command()(report)
app.command()(show)
app.command()(ask)
app.command()(power)
app.command()(diff)
app.command()(export)
app.command("import")(import_)


@app.command()
def verify(cube: CubeArg, as_json: Json = False, debug: Debug = False) -> None:
    """Check schema, shards, checksums and stored checks; list missing cells. Exit 1 if not all is well."""
    from ..dataset.verify import verify as look

    verdict = console.with_progress("verifying", lambda progress: look(cube, progress))
    if as_json:
        console.say_json(asdict(verdict) | {"ok": verdict.ok})
    else:
        console.say(", ".join(f"{count} {name}" for name, count in verdict.counts.items() if count))
        lines = [str(problem) for problem in verdict.problems] + [
            f"{name}: missing (pending)" for name in verdict.missing
        ]
        console.say(
            "\n".join(lines[:MOST_LINES] or ["every cell that was asked for is there and as it was written"])
        )
        if len(lines) > MOST_LINES:
            console.say(f"... and {len(lines) - MOST_LINES} more; --json lists all")
    raise typer.Exit(console.FINE if verdict.ok else console.SOME_FAILED)


@app.command()
def runs(cube: CubeArg, as_json: Json = False, debug: Debug = False) -> None:
    """Who ran what when: every run, with its workers, model loads, passes, nodes, bytes and memory."""
    from ..dataset.cube import Cube
    from ..dataset.runlog import runs as records

    found = records(Cube.open(cube).place)
    if as_json:
        console.say_json(found)
        return
    console.say("\n".join(line for record in found for line in _run(record)) or "no run has left a record")


def _run(record: Mapping[str, Any]) -> list[str]:
    """A run in a line, and each of its workers in one."""
    driver = record.get("driver", {})
    lines = [
        f"{record['began'][:19]}  {record['grid']}: {record.get('done', 0)} of {_cells(record['cells'])}, "
        f"{record['state']}; {record['host']}, tempocube {record['versions']['tempocube']}, "
        f"driver {driver.get('cpu_seconds', 0):.1f} s of CPU, {in_bytes(driver.get('peak_bytes', 0))}"
    ]
    for row in record.get("workers", ()):
        loads = f"{row['loads']} model load{'s' * (row['loads'] != 1)}"
        lines.append(
            f"  {row['worker']}: {_cells(row['cells'])}, {loads}, "
            f"{row['passes']} passes, {row['nodes']} nodes, {row['seconds']:.1f} s, {in_bytes(row['bytes'])} "
            f"written, at most {in_bytes(row['peak_bytes'])} of memory"
        )
    lines += [
        f"  {loss['at'][:19]}  {_cells(loss['cells'])}: {loss['why']}" for loss in record.get("losses", ())
    ]
    if cross := record.get("cross_check"):
        known = {
            name: cross[name]
            for name in ("attention", "logprob", "kl")
            if cross[name] is not None and math.isfinite(cross[name])
        }
        apart = ", ".join(f"{name} {value:.1e}" for name, value in known.items())
        lines.append(f"  cross-checked {cross['cells']}: at most {apart} apart")
    return lines


def _cells(n: int) -> str:
    return f"{n} cell{'s' * (n != 1)}"


def main() -> NoReturn:
    """Entry point."""
    console.run(app, "tempo-stats")
