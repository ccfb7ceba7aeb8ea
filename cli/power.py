"""`tempo-stats power`: what the next grid needs, on the console."""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
        help="wanted half-width of the mean's 95 % interval (default: 0.0953, the log of 1.10; "
        "without one where the response is no log of a ratio)",
        show_default=False,
    ),
]
Effect = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="difference of modes to see, and the bound of their equivalence (default: as above)",
        show_default=False,
    ),
]
Chance = Annotated[float, typer.Option("--power", metavar="P", help="wanted chance to see what there is")]


@dataclass(frozen=True, slots=True)
class Price:
    """What it comes to: prompts and experiments, in all and more than there are; `each` prompt's."""

    prompts: int
    more_prompts: int
    experiments: int
    more_experiments: int
    each: str


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
    with console.importing():
        from ..stats.power import outlook
        from ..stats.source import opened
    source = opened(cube)
    point = source.point(dict(pair(text) for text in at or ()))
    part = console.with_progress("measuring", lambda progress: source.load(point, progress))
    made = outlook(
        part.frame,
        response,
        half_width=half_width,
        effect=effect,
        power=chance,
        between=part.between,
        asked=_asked(part.frame),
    )
    if isinstance(made, str):
        if as_json:
            console.say_json({"withheld": made, "at": point})
        console.complain(f"tempo-stats: {cube}: nothing to plan with: {made}")
        raise typer.Exit(console.SOME_FAILED)
    price = _price(made, part.frame, source.axes)
    if as_json:
        console.say_json(_plain(made) | {"price": asdict(price), "at": point})
    else:
        console.say("\n".join(_lines(made, price, point, cube, part.frame)))


def _asked(frame: "pd.DataFrame") -> Mapping[str, int] | None:
    """Prompts by category as a cube was asked for them; a table only has what it has."""
    from ..dataset.cube import Cube

    return Counter(Cube.open(frame.attrs["url"]).labels.category) if "url" in frame.attrs else None


def _plain(made: "Outlook") -> dict[str, Any]:
    from ..stats.questions import plain

    told: dict[str, Any] = plain(asdict(made))
    for aim, of in zip(told["aims"], made.aims, strict=True):
        aim["met"], aim["out_of_reach"] = of.met, of.out_of_reach
    return told


def _price(made: "Outlook", frame: "pd.DataFrame", axes: Mapping[str, Sequence[Any]]) -> Price:
    """Every prompt in every seed, mode and swept value that there is."""
    each = [
        how_many(frame["seed"].nunique(), "seed"),
        how_many(frame["mode"].nunique(), "mode"),
        *(f"{how_many(len(values), 'value')} of {axis}" for axis, values in axes.items()),
    ]
    cells = frame["seed"].nunique() * frame["mode"].nunique() * math.prod(map(len, axes.values()))
    more = sum(made.add.values())
    prompts = more + sum(made.categories.values())
    return Price(prompts, more, prompts * cells, more * cells, " x ".join(each))


def _lines(
    made: "Outlook", price: Price, point: Mapping[str, Any], cube: str, frame: "pd.DataFrame"
) -> list[str]:
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
    return [*told, "", *_wrapped(made), "", *_next(made, price, cube, frame)]


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
    now = now if math.isfinite(aim.now) else "not defined"
    span = "" if aim.kind == "categories" else f"{_count(aim.fewest)} to {_count(aim.most)}"
    needs = f"{_count(aim.needed)} {aim.unit}" + (" (met)" if aim.met else "")
    return what, now, needs, span, "" if aim.each is None else _count(aim.each)


def _count(n: int) -> str:
    """Whole numbers; beyond what anybody runs it is enough to say so."""
    from ..stats.effects import MOST

    return f"{n:,}" if n <= MOST else f"> {MOST:,}"


def _seeds(made: "Outlook") -> list[str]:
    from ..stats.questions import number

    def error(value: float | None) -> str:
        return "" if value is None else number(value)

    head = (
        *("seeds", "SE of mean", "of modes apart"),
        *("prompts for as many cells", "SE of mean", "of modes apart"),
    )
    rows = [
        (
            *(
                str(row.seeds),
                error(row.mean),
                error(row.difference),
                f"{row.prompts:,}" if row.prompts > 1 else "",
            ),
            *(error(row.mean_there), error(row.difference_there)),
        )
        for row in made.seeds
    ]
    return columns([head, *rows])


def _next(made: "Outlook", price: Price, cube: str, frame: "pd.DataFrame") -> list[str]:
    """The next step, as one would type it."""
    command = " " * INDENT + f"tempo-capture GRID -o {shlex.quote(cube)}"
    if pending := (frame.attrs.get("cells") or {}).get("pending", 0):
        return [*entry("next", f"{how_many(pending, 'experiment')} of the grid are not done yet:"), command]
    told = [*_too_far(made), *_enough(made, price)]
    grown = bool(price.more_prompts) and "url" in frame.attrs
    if grown:
        told.append(
            "add prompts to the grid file, as below; the command that made this cube then adds them to it:"
        )
    elif price.more_prompts:
        counts = ", ".join(f"{name} {n}" for name, n in made.add.items() if n)
        told.append(f"prompts to add to each category: {counts}")
    lines = [line for i, text in enumerate(told) for line in entry("" if i else "next", text)]
    added = [
        (f"  {name}:", f"add {n} to the {made.categories[name]} there are")
        for name, n in made.add.items()
        if n
    ]
    return [*lines, command, "prompts:", *columns(added)] if grown else lines


def _too_far(made: "Outlook") -> list[str]:
    """Aims that no study reaches, which are most often lengths on another scale than the response's."""
    from ..stats.effects import MOST
    from ..stats.questions import number

    sizes: dict[str, list[Aim]] = {}
    for aim in made.out_of_reach:
        sizes.setdefault(number(aim.size or aim.target), []).append(aim)
    if not sizes:
        return []
    some = made.served or len(sizes) > 1  # then it has to be said which
    what = ", ".join(f"+-{size}" + (f" ({_names(aims)})" if some else "") for size, aims in sizes.items())
    return [
        f"out of reach: more than {MOST:,} prompts for {what}; {'are' if len(sizes) > 1 else 'is'} "
        f"{' and '.join(sizes)} on the scale of {made.response}? give --half-width and --effect"
    ]


def _enough(made: "Outlook", price: Price) -> list[str]:
    """What is to be added, for which aims, and what it costs; or that there is enough."""
    aims = _names(made.served)
    if not aims:
        return []
    if price.more_prompts:
        but = " (not for categories)" if len(made.categories) > 1 else ""
        return [
            f"for {aims}{but}: {how_many(price.more_prompts, 'more prompt')}, {price.prompts:,} in all; with "
            f"{price.each} that is {how_many(price.more_experiments, 'more experiment')}, "
            f"{price.experiments:,} in all"
        ]
    if all(aim.met for aim in made.served):
        return [f"nothing to add: there are prompts enough for {aims}"]
    return [
        f"{how_many(price.prompts, 'prompt')}, as asked for, would do for {aims}, but only {made.prompts:,} "
        f"of them have a value: tempo-stats verify says what is missing"
    ]


def _names(aims: Iterable["Aim"]) -> str:
    names = {"mean": "the mean", "difference": "modes apart", "equivalence": "modes equivalent"}
    return ", ".join(names[aim.kind] for aim in aims)
