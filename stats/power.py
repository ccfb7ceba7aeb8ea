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
from . import closed, effects, spread
from .answers import SESOI
from .effects import ALPHA, MOST
from .gate import judge
from .questions import between as interval
from .questions import number
from .spread import Spread
from .study import Study, read

__all__ = ["Aim", "Outlook", "Seeds", "outlook"]

Now = Callable[[float, int], float]
Unit = Literal["prompts", "categories"]
Kind = Literal["mean", "new categories", "difference", "equivalence", "categories"]

OF_PROMPTS = ("mean", "difference", "equivalence")  # the aims that say how many prompts to add
SIZES = (0.4, 0.8)  # Cohen's f of categories
SEEDS = (1, 2, 5, 10)
LUCKY = 1.02  # times this study's own SD, from which the one that is planned with is told to be another
LACK_OF_SEEDS = "There is one seed, so what more of them would add is not known; two would tell."


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
    """What to add to a study; `add` is how many prompts by category, all 0 where every aim is met."""

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


def outlook(
    frame: pd.DataFrame,
    response: str = "downweighting",
    *,
    half_width: float = SESOI,
    effect: float = SESOI,
    power: float = effects.POWER,
    between: pd.DataFrame | None = None,
    asked: Mapping[str, int] | None = None,
) -> Outlook | str:
    """What the next grid needs, from one row per experiment; or why that cannot be said.

    half_width: wanted of the mean's 95 % interval. effect: the difference of modes to see, and the bound of
    their equivalence. between: what was measured between modes. asked: prompts by category, where more were
    asked for than are in the frame.
    """
    _must_be_sensible(half_width, effect, power)
    raw = read(frame, response)
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
    categories = asked or Counter(raw.category_of)
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
        sentences=_sentences(study, mean, gate.identical, len(raw.prompts)),
    )


def _must_be_sensible(half_width: float, effect: float, power: float) -> None:
    for name, value in (("half-width", half_width), ("effect", effect)):
        if not (math.isfinite(value) and value > 0):
            raise BadInput(f"{name}: {value}: must be a number above 0, on the response's scale")
    if not ALPHA < power < 1:
        raise BadInput(f"power: {power}: must be between {ALPHA} and 1, such as 0.8")


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
        found.append(_of_new_categories(study, half_width))
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


def _of_new_categories(study: Study, half_width: float) -> Aim:
    """The mean as a statement about categories at large: these are a sample, of as many prompts each."""
    means = closed.groups(study.means, study.codes).means
    k = len(means)
    of = Spread(float(means.var(ddof=1)), None, study.y.shape[1], k - 1)
    return _aim("new categories", half_width, None, of, k, _half_width, "categories")


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
    wanted = [aim.needed for aim in aims if aim.kind in OF_PROMPTS and aim.needed <= MOST]
    each = math.ceil(max(wanted, default=0) / len(categories) / usable)
    return {name: max(0, each - there) for name, there in categories.items()}


def _sentences(study: Study, mean: Spread, identical: bool, measured: int) -> tuple[str, ...]:
    k, n = len(study.categories), len(study.prompts)
    told = [_of_prompts(study, mean), _of_seeds(study, mean)]
    if n < measured:
        told.append(
            f"{measured - n} of {measured} prompts have no {study.response}; what is to be added allows for "
            f"as many more of them."
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
    return tuple(told)


def _of_prompts(study: Study, mean: Spread) -> str:
    """What is planned with, which may be more than this study's own means show."""
    within = f"; a seed within a prompt adds one of {number(math.sqrt(mean.within))}" if mean.within else ""
    span = f"95 % CI {interval(*mean.ends)}, assumes normal prompts"
    tail = "The range is what the ends of that interval would need."
    seen = float(study.means.std(ddof=1))
    if study.complete and mean.sd() > LUCKY * seen:
        return (
            f"Prompt means came out with an SD of {number(seen)}, closer together than the spread of their "
            f"seeds alone makes likely: {number(mean.sd())} ({span}{within}), which is planned with, since "
            f"the next study will not be as lucky. {tail}"
        )
    return f"Prompt means differ with an SD of {number(mean.sd())} ({span}){within}. {tail}"


def _of_seeds(study: Study, mean: Spread) -> str:
    """Where the next experiment is better spent."""
    if study.copies:
        return (
            "Seeds are copies and buy nothing: one is enough. For seeds that act set temperature above 0, "
            "in a cube of its own, since a cube keeps its temperature."
        )
    if mean.within is None:
        return LACK_OF_SEEDS
    n, seeds = len(study.prompts), mean.seeds
    if not mean.between:
        return "Prompts differ by no more than their seeds explain: one more of either buys the same."
    now, more = mean.sd() / math.sqrt(n), mean.sd() / math.sqrt(2 * n)
    return (
        f"Prompts are the better spend: twice the prompts take the standard error of the mean from "
        f"{number(now)} to {number(more)}, twice the seeds to {number(mean.sd(2 * seeds) / math.sqrt(n))}."
    )
