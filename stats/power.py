"""How many prompts, categories and seeds are worth adding, from what a study measured of its own variance.

>>> made = outlook(experiments("cube.zarr"))
>>> made.aims, made.seeds, made.add
"""

import math
import operator
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import pandas as pd
from scipy import stats

from ..errors import BadInput
from . import effects, spread
from .answers import SESOI
from .effects import ALPHA, MOST
from .gate import judge
from .questions import number, verb
from .spread import Spread
from .study import PAIR, Study, read

__all__ = ["Aim", "Outlook", "Seeds", "outlook"]

Now = Callable[[float, int], float]
Unit = Literal["prompts", "categories"]
Kind = Literal["mean", "new categories", "difference", "equivalence", "categories"]

OF_MODES = ("difference", "equivalence")
OF_PROMPTS = ("mean", *OF_MODES)  # the aims that say how many prompts to add
SIZES = (0.4, 0.8)  # Cohen's f of categories
SEEDS = (1, 2, 5, 10)
REPLAY = (
    "Each mode chose its own sets here. With `replay: isolated`, in a cube of its own, modes follow the same "
    "sets, which usually takes far fewer prompts to tell them apart or equivalent."
)


@dataclass(frozen=True, slots=True)
class Aim:
    """What a study may be for: `now` is the half-width or the power that it has, `target` what is wanted.

    `needed` counts `unit`; fewest and most are what it takes at both ends of the SD's 95 % interval; size is
    the effect to be seen, or the bound.
    """

    kind: Kind
    target: float
    size: float | None
    now: float
    unit: Unit
    there: int
    needed: int
    fewest: int
    most: int
    each: int | None = None  # prompts in each category

    @property
    def met(self) -> bool:
        """Whether there are enough."""
        return self.there >= self.needed

    @property
    def out_of_reach(self) -> bool:
        """Whether it takes more than anybody runs."""
        return self.needed > MOST


@dataclass(frozen=True, slots=True)
class Seeds:
    """Standard errors with so many seeds: with the prompts there are, and with prompts for as many cells.

    None `there` where that would be fewer than two prompts; `difference`s are None where modes have none.
    """

    seeds: int
    mean: float
    difference: float | None
    prompts: int
    mean_there: float | None
    difference_there: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """What to add to a study; `add` is how many prompts by category, for the aims `served`."""

    response: str
    prompts: int
    categories: Mapping[str, int]
    seeds_there: int
    copies: bool
    method: str
    components: Mapping[str, float]
    mean: Spread
    difference: Spread | None
    aims: tuple[Aim, ...]
    seeds: tuple[Seeds, ...]
    add: Mapping[str, int]
    sentences: tuple[str, ...]

    @property
    def served(self) -> tuple[Aim, ...]:
        """The aims that tell how many prompts to add: of the mean and of modes, if they are within reach."""
        return tuple(aim for aim in self.aims if aim.kind in OF_PROMPTS and not aim.out_of_reach)

    @property
    def out_of_reach(self) -> tuple[Aim, ...]:
        """The others of the mean and of modes."""
        return tuple(aim for aim in self.aims if aim.kind in OF_PROMPTS and aim.out_of_reach)


def outlook(
    frame: pd.DataFrame,
    response: str = "downweighting",
    *,
    half_width: float | None = None,
    effect: float | None = None,
    power: float = effects.POWER,
    between: pd.DataFrame | None = None,
    asked: Mapping[str, int] | None = None,
) -> Outlook | str:
    """What the next grid needs, from one row per experiment; or why that cannot be said.

    half_width: wanted of the mean's 95 % interval. effect: the difference of modes to see, and the bound of
    their equivalence. Both are log 1.10 unless told, but only where the response is the log of a ratio.
    between: what was measured between modes. asked: prompts by category, where more were asked for than
    are in the frame.
    """
    _must_be_sensible(half_width, effect, power)
    raw = read(frame, response)
    half_width, effect = _sizes(raw, half_width, effect)
    gate = judge(raw, between)
    study = gate.study
    if reason := gate.withheld.get("prompt_variance"):
        return reason
    measured = spread.components(study)
    if isinstance(measured, str):
        return measured
    method, found, df = measured
    mean, difference = spread.of_mean(study, found, df), spread.of_difference(study, found, df)
    if not mean.sd() > 0:
        return "all prompts have the same mean: check your pipeline"
    categories = dict(asked or Counter(raw.category_of))
    aims = _aims(study, mean, difference, half_width, effect, power)
    return Outlook(
        response=response,
        prompts=len(study.prompts),
        categories=categories,
        seeds_there=len(study.seeds),
        copies=study.copies,
        method=method,
        components={name: max(value, 0.0) for name, value in found.items()},
        mean=mean,
        difference=difference,
        aims=aims,
        seeds=_seeds(len(study.prompts), mean, difference),
        add=_add(aims, categories, len(study.prompts) / len(raw.prompts)),
        sentences=_sentences(study, mean, aims, gate.identical, len(raw.prompts)),
    )


def _must_be_sensible(half_width: float | None, effect: float | None, power: float) -> None:
    for name, value in (("half-width", half_width), ("effect", effect)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise BadInput(f"{name}: {value}: must be a number above 0, on the response's scale")
    if not ALPHA < power < 1:
        raise BadInput(f"power: {power}: must be between {ALPHA} and 1, such as 0.8")


def _sizes(study: Study, half_width: float | None, effect: float | None) -> tuple[float, float]:
    """What is wanted; 10 % is a default for logs of ratios only."""
    lacking = half_width is None or (effect is None and study.modes == PAIR)
    if lacking and not study.logs:
        raise BadInput(
            f"{study.response}: is not the log of a ratio, for which {number(SESOI)} is the default: "
            f"give --half-width and --effect (in Python half_width and effect) on its scale"
        )
    return SESOI if half_width is None else half_width, SESOI if effect is None else effect


def _aims(
    study: Study, mean: Spread, difference: Spread | None, half_width: float, effect: float, power: float
) -> tuple[Aim, ...]:
    """Every aim that this design can have."""
    n, k = len(study.prompts), len(study.categories)
    found = [_aim("mean", half_width, None, mean, n, _half_width)]
    if difference:
        seen, equal = (
            partial(effects.difference_power, effect=effect),
            partial(effects.tost_power, bound=effect),
        )
        found.append(_aim("difference", power, effect, difference, n, seen))
        found.append(_aim("equivalence", power, effect, difference, n, equal))
    found = [replace(aim, each=math.ceil(aim.needed / k)) for aim in found]
    if k > 1:
        at_large = spread.of_categories(study, mean)
        found.append(_aim("new categories", half_width, None, at_large, k, _half_width, "categories"))
        found += [_of_categories(f, n, k, power) for f in SIZES]
    return tuple(found)


def _aim(
    kind: Kind,
    target: float,
    size: float | None,
    of: Spread,
    there: int,
    now: Now,
    unit: Unit = "prompts",
) -> Aim:
    """`now` gives what so many of the unit, with so large an SD, come to."""
    reached = operator.le if now is _half_width else operator.ge

    def needed(sd: float) -> int:
        return 2 + bisect_left(range(2, MOST + 1), True, key=lambda n: bool(reached(now(sd, n), target)))

    fewest, most = (needed(sd) for sd in of.ends)
    return Aim(kind, target, size, now(of.sd(), there), unit, there, needed(of.sd()), fewest, most)


def _half_width(sd: float, n: int) -> float:
    return float(stats.t.isf(ALPHA / 2, n - 1)) * sd / math.sqrt(n)


def _of_categories(f: float, prompts: int, categories: int, power: float) -> Aim:
    """f is in SDs between prompts, so that the SD's own uncertainty does not enter."""
    each = effects.prompts_per_category(f, categories, power)
    now = effects.category_power(f, prompts, categories)
    needed = each * categories
    return Aim("categories", power, f, now, "prompts", prompts, needed, needed, needed, each)


def _seeds(prompts: int, mean: Spread, difference: Spread | None) -> tuple[Seeds, ...]:
    """What other numbers of seeds would come to; nothing where it is not known, or known to be nothing."""
    if not mean.within:
        return ()

    def error(of: Spread | None, seeds: int, n: float) -> float | None:
        return of.sd(seeds) / math.sqrt(n) if of and n >= 2 else None

    rows = []
    for seeds in sorted({*SEEDS, mean.seeds}):
        n = prompts * mean.seeds / seeds
        here = mean.sd(seeds) / math.sqrt(prompts), error(difference, seeds, prompts)
        rows.append(Seeds(seeds, *here, round(n), error(mean, seeds, n), error(difference, seeds, n)))
    return tuple(rows)


def _add(aims: tuple[Aim, ...], categories: Mapping[str, int], usable: float) -> dict[str, int]:
    """Prompts to add to each category for the aims within reach, where this share of prompts has a value."""
    wanted = [aim.needed for aim in aims if aim.kind in OF_PROMPTS and not aim.out_of_reach]
    each = math.ceil(max(wanted, default=0) / len(categories) / usable)
    return {name: max(0, each - there) for name, there in categories.items()}


def _sentences(
    study: Study, mean: Spread, aims: tuple[Aim, ...], identical: bool, measured: int
) -> tuple[str, ...]:
    k, n = len(study.categories), len(study.prompts)
    told = [spread.prompts_told(study, mean), spread.seeds_told(study, mean)]
    if n < measured:
        told.append(
            f"{measured - n} of {measured} prompts {verb(measured - n, 'has', 'have')} no {study.response}; "
            f"what is to be added allows for as many more of them."
        )
    if k > 1:
        told.append(
            f"More prompts tell more of these {k} categories; of categories at large the df stay {k - 1}, "
            f"and only more categories help."
        )
    if identical:
        told.append(
            "Isolated and visible agree everywhere, so there is no variance of their difference to plan with."
        )
    free = study.frame.attrs.get("replay", "unknown") is None
    if free and any(aim.kind in OF_MODES and not aim.met for aim in aims):
        told.append(REPLAY)
    return tuple(told)
