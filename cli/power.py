"""`tempo-stats power`: what the next grid needs, on the console."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..words import how_many
from . import console
from .answers import INDENT, entry
from .columns import columns
from .report import At, Debug, Response, Source, pair

if TYPE_CHECKING:
    import pandas as pd

    from ..stats.power import Aim, Outlook

Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
HalfWidth = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="wanted half-width of the mean's 95 % interval (default: 0.0953, the log of 1.10)",
        show_default=False,
    ),
]
Effect = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="difference of modes to see, and the bound of their equivalence (default: 0.0953)",
        show_default=False,
    ),
]
Chance = Annotated[float, typer.Option("--power", metavar="P", help="wanted chance to see what there is")]


def power(
    cube: Source,
    half_width: HalfWidth = None,
    effect: Effect = None,
    chance: Chance = 0.8,
    at: At = None,
    response: Response = "downweighting",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say how many prompts, categories and seeds are worth adding. Exit 1 if the gate withholds it."""
    from ..stats.answers import SESOI
    from ..stats.power import outlook
    from ..stats.source import opened

    source = opened(cube)
    point = source.point(dict(pair(text) for text in at or ()))
    part = console.with_progress("measuring", lambda progress: source.load(point, progress))
    sizes = {
        "half_width": SESOI if half_width is None else half_width,
        "effect": SESOI if effect is None else effect,
        "power": chance,
    }
    made = outlook(part.frame, response, between=part.between, asked=_asked(part.frame), **sizes)
    if isinstance(made, str):
        console.complain(f"tempo-stats: {cube}: nothing to plan with: {made}")
        raise typer.Exit(console.SOME_FAILED)
    if as_json:
        console.say_json(_plain(made) | {"at": point})
    else:
        console.say("\n".join(_lines(made, point, cube, part.frame)))


def _asked(frame: "pd.DataFrame") -> Mapping[str, int] | None:
    """Prompts by category as a cube was asked for them; a table only has what it has."""
    from ..dataset.cube import Cube

    return Counter(Cube.open(frame.attrs["url"]).labels.category) if "url" in frame.attrs else None


def _plain(made: "Outlook") -> dict[str, Any]:
    from ..stats.questions import plain

    told: dict[str, Any] = plain(asdict(made))
    for aim, of in zip(told["aims"], made.aims, strict=True):
        aim["met"] = of.met
    return told


def _lines(made: "Outlook", point: Mapping[str, Any], cube: str, frame: "pd.DataFrame") -> list[str]:
    from ..stats.questions import number

    categories = len(made.categories)
    design = (
        f"{made.response} of {how_many(made.prompts, 'prompt')} in {categories} "
        f"categor{'y' if categories == 1 else 'ies'}, {how_many(made.seeds_there, 'seed')}"
    )
    told = entry("measured", design)
    if point:
        told += entry("at", ", ".join(f"{axis} = {value}" for axis, value in point.items()))
    found = ", ".join(f"{name} {number(math.sqrt(value))}" for name, value in made.components.items())
    told += [*entry("SDs", f"{found} ({made.method})"), ""]
    told += columns([("aim", "now", "needs", "range", "in each category"), *map(_aim, made.aims)])
    told += ["", *_seeds(made)] if made.seeds else []
    return [*told, "", *_wrapped(made), "", *_next(made, cube, frame)]


def _wrapped(made: "Outlook") -> list[str]:
    return [line for sentence in made.sentences for line in entry("", sentence)]


def _aim(aim: "Aim") -> tuple[str, ...]:
    """One row: what for, what there is, and what it takes."""
    from ..stats.questions import number

    size = number(aim.size or aim.target)
    what = {
        "mean": f"mean, to +-{size}",
        "new categories": f"mean of categories at large, to +-{size}",
        "difference": f"modes apart by {size}, power {aim.target:.0%}",
        "equivalence": f"modes equivalent to +-{size}, power {aim.target:.0%}",
        "categories": f"categories apart by f = {size}, power {aim.target:.0%}",
    }[aim.kind]
    now = f"+-{number(aim.now)}" if aim.kind in ("mean", "new categories") else f"{aim.now:.0%}"
    span = "" if aim.kind == "categories" else f"{_count(aim.fewest)} to {_count(aim.most)}"
    needs = f"{_count(aim.needed)} {aim.unit}" + (" (met)" if aim.met else "")
    return what, now, needs, span, "" if aim.each is None else _count(aim.each)


def _count(n: int) -> str:
    """Whole numbers; beyond what anybody runs it is enough to say so."""
    from ..stats.effects import MOST

    return f"{n:,}" if n <= MOST else f"over {MOST:,}"


def _seeds(made: "Outlook") -> list[str]:
    from ..stats.questions import number

    def error(value: float | None) -> str:
        return "" if value is None else number(value)

    head = (
        *("seeds", f"SE of mean, {made.prompts} prompts", "of modes apart"),
        *("prompts for as many cells", "SE of mean", "of modes apart"),
    )
    rows = [
        (
            *(str(row.seeds), error(row.mean), error(row.difference), f"{row.prompts:,}"),
            *(error(row.mean_there), error(row.difference_there)),
        )
        for row in made.seeds
    ]
    return columns([head, *rows])


def _next(made: "Outlook", cube: str, frame: "pd.DataFrame") -> list[str]:
    """The next step, as one would type it."""
    command = " " * INDENT + f"tempo-capture GRID -o {shlex.quote(cube)}"
    if pending := (frame.attrs.get("cells") or {}).get("pending", 0):
        return [*entry("next", f"{how_many(pending, 'experiment')} of the grid are not done yet:"), command]
    if not any(made.add.values()):
        return entry("next", "nothing to add: there are prompts enough for the mean and for the modes")
    if "url" not in frame.attrs:
        counts = ", ".join(f"{name} {n}" for name, n in made.add.items() if n)
        return entry("next", f"prompts to add to each category: {counts}")
    told = "add prompts to the grid file, as below; the command that made this cube then adds them to it:"
    added = [
        (f"  {name}:", f"add {n} to the {made.categories[name]} there are")
        for name, n in made.add.items()
        if n
    ]
    return [*entry("next", told), command, "prompts:", *columns(added)]
