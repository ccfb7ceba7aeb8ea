"""`tempo-stats ask`: the five analysis questions of the seeds, each with a number and a verdict."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ..words import how_many
from . import console
from .answers import entry
from .report import pair

if TYPE_CHECKING:
    from ..stats.tools.questions import Asked

Cube = Annotated[str, typer.Argument(metavar="CUBE", help="path or URL of a cube", show_default=False)]
Questions = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[q1 ... q5]",
        help="q1 shared positions, q2 isolation, q3 context, q4 pruning, q5 dynamic threshold (default: all)",
        show_default=False,
    ),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        metavar="AXIS=VALUE",
        help="the value of a swept axis (default: its first; q5: all thresholds); may be repeated",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON, with the table behind each answer")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]


def ask(
    cube: Cube, questions: Questions = None, at: At = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Ask what parallel tokens share, see and attend to, why some are pruned. Exit 1 if an answer fails."""
    with console.importing():
        from ..stats.tools.questions import QUESTIONS, ask_all

    chosen = dict(pair(text) for text in at or ())
    wanted = list(dict.fromkeys(questions or QUESTIONS))
    found: tuple[Asked, ...] = console.with_progress(
        "asking", lambda progress: ask_all(cube, wanted, progress, chosen)
    )
    if as_json:
        console.say_json([each.to_dict() for each in found])
    else:
        console.say("\n".join(line for each in found for line in _lines(each)))
    failed = any(each.verdict == "fail" for each in found)
    raise typer.Exit(console.SOME_FAILED if failed else console.FINE)


def _lines(of: "Asked") -> Iterator[str]:
    yield f"{of.question}  {of.text}"
    if of.at:
        yield from entry("  at", ", ".join(f"{axis}={value}" for axis, value in of.at.items()))
    if of.verdict == "not testable":
        yield from entry("  NOT TESTABLE", of.reason)
        return
    yield from entry("", of.sentence)
    if of.estimate is not None:
        yield from entry("  estimate", _estimate(of))
    yield from entry(f"  {of.verdict.upper()}", of.reason)


def _estimate(of: "Asked") -> str:
    from ..stats.questions import between, number

    cut = f", {of.cut}" if of.cut else ""
    interval = f" (95 % CI {between(*of.ci)}{cut})" if of.ci else " (no interval from one prompt)"
    return f"{of.unit} {number(of.estimate or 0.0)}{interval}, {how_many(of.n, 'prompt')}"
