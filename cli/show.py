"""`tempo-stats show`: one experiment in the terminal: its tokens, and what attends to what."""

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from . import console
from .report import pair

if TYPE_CHECKING:
    from ..stats.tools.screens import Screen
    from ..stats.view import View

PIPE = 100  # columns where there is no terminal
LEAST = 40


class What(StrEnum):
    """Ways to look at an experiment, and at what it is part of."""

    OVERVIEW = "overview"
    TREE = "tree"
    HEATMAP = "heatmap"
    PARALLEL = "parallel"
    CROSS = "cross"
    PATHS = "paths"
    PRUNING = "pruning"
    LAYERS = "layers"
    NEURONS = "neurons"
    ABLATION = "ablation"
    SINGLE = "single"


Cube = Annotated[str, typer.Argument(metavar="CUBE", help="path or URL of a cube", show_default=False)]
Prompt = Annotated[
    str | None,
    typer.Option(metavar="ID", help="id or text of a prompt (default: the first)", show_default=False),
]
Seed = Annotated[
    int | None, typer.Option(metavar="N", help="its seed (default: the first)", show_default=False)
]
Mode = Annotated[
    str | None,
    typer.Option(metavar="MODE", help="isolated, visible ... (default: the first)", show_default=False),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        metavar="AXIS=VALUE",
        help="the value of a swept axis (default: its first); may be repeated",
        show_default=False,
    ),
]
Step = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="the set (default: the first parallel one)", show_default=False),
]
Layer = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="attention of one layer (default: the mean)", show_default=False),
]
Head = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="attention of one head (default: the mean)", show_default=False),
]
Look = Annotated[What, typer.Option(help="what is shown", show_default=True)]
Width = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=LEAST, help="columns (default: the terminal's, 100 in a pipe)", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]


def show(
    cube: Cube,
    prompt: Prompt = None,
    seed: Seed = None,
    mode: Mode = None,
    at: At = None,
    step: Step = None,
    layer: Layer = None,
    head: Head = None,
    what: Look = What.OVERVIEW,
    width: Width = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at one experiment: its tree of tokens, and what its parallel tokens attend to."""
    with console.importing():
        from ..stats.tools.screens import How, screen
        from ..stats.view import view

    of: View = view(cube, prompt, seed, mode, **dict(pair(text) for text in at or ()))
    encoding = "utf-8" if as_json else sys.stdout.encoding or "utf-8"
    made: Screen = screen(of, what.value, How(step, layer, head, width or columns(), encoding))
    if as_json:
        console.say_json(made.data)
    else:
        console.say("\n".join(made.lines))


def columns() -> int:
    """How many there are: the terminal's, or a page's where there is none."""
    return max(console.out.width, LEAST) if console.out.is_terminal else PIPE
