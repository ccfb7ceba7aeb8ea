"""`tempo-stats`: what a cube says, and whether it can be believed."""

from dataclasses import asdict
from typing import Annotated, NoReturn

import typer

from . import console

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False
)

Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
CubeArg = Annotated[str, typer.Argument(metavar="CUBE", help="path or URL of a cube")]

MOST_LINES = 50


@app.callback()
def stats() -> None:
    """Look into a cube of TEMPO experiments."""


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


def main() -> NoReturn:
    """Entry point."""
    console.run(app, "tempo-stats")
