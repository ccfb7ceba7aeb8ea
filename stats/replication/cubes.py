"""The cubes that claims are held against, by what each of them is good for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ...words import how_many
from ..study import PAIR
from .evidence import Evidence
from .five import FIVE
from .result import Experiment, Measure

__all__ = ["FINDING", "OTHER_MODEL", "Cubes"]

FINDING = "seeds/003, finding {}"
OTHER_MODEL = "It is about another model (cogito-v1-preview-llama-3B), which was not run here"


@dataclass(frozen=True, eq=False)
class Cubes:
    """Evidence of several cubes."""

    all: tuple[Evidence, ...]
    _made: dict[tuple[Evidence, str], Experiment] = field(default_factory=dict)

    def experiment(self, of: Evidence, name: str) -> Experiment:
        """One of the five experiments, made once."""
        if (of, name) not in self._made:
            self._made[of, name] = FIVE[name](of)
        return self._made[of, name]

    @cached_property
    def data(self) -> tuple[Evidence, ...]:
        """What a model made, no controls; those with more prompts first, then those with fewer copies."""
        found = [of for of in self.all if not of.control and of.origin != "simulated"]
        return tuple(sorted(found, key=_size, reverse=True))

    @cached_property
    def pairs(self) -> tuple[Evidence, ...]:
        """Those of them with both modes."""
        return tuple(of for of in self.data if set(PAIR) <= set(of.frame["mode"]))

    @cached_property
    def forced(self) -> tuple[Evidence, ...]:
        """Pairs in which one mode was fed along the other's sets: every step can be compared."""
        return tuple(of for of in self.pairs if of.forced)

    @cached_property
    def unmasked(self) -> tuple[Evidence, ...]:
        """Controls whose mask was left out."""
        return tuple(of for of in self.all if of.control == "no_mask" and of.origin != "simulated")

    @cached_property
    def simulated(self) -> tuple[Evidence, ...]:
        """Cubes made from numbers, which no model had a part in."""
        return tuple(of for of in self.all if of.origin == "simulated" and not of.control)

    @cached_property
    def copies(self) -> tuple[Evidence, ...]:
        """Data whose seeds are copies of each other."""
        return tuple(of for of in self.data if of.frame["seed"].nunique() > 1 and _same_seeds(of))

    @cached_property
    def widest(self) -> tuple[Evidence, ...]:
        """Data, the widest sets first."""
        return tuple(sorted(self.data, key=lambda of: -int(of.frame["widest"].max())))

    def said(self, among: tuple[Evidence, ...], say: Callable[[Evidence], str], lacking: str) -> str:
        """What the first of these cubes says, with its name and model; else what would have to be given."""
        for of in among:
            if told := say(of):
                return f"{_named(of)}: {told.rstrip('.')}."
        return f"Not measured: {lacking}."

    def outcome(self, among: tuple[Evidence, ...], name: str, lacking: str) -> str:
        """The outcome of an experiment in the first of these cubes that can tell."""
        return self.said(among, lambda of: _told(self.experiment(of, name)), lacking)

    def rows(self, among: tuple[Evidence, ...], name: str, measures: tuple[str, ...], lacking: str) -> str:
        """Some measures of an experiment in the first of these cubes that has them."""

        def say(of: Evidence) -> str:
            found = {each.name: each for each in self.experiment(of, name).measures}
            return "; ".join(_row(found[each]) for each in measures if each in found)

        return self.said(among, say, lacking)


def _told(found: Experiment) -> str:
    return "" if found.outcome.startswith("Cannot tell") else found.outcome


def _row(of: Measure) -> str:
    return f"{of.name.strip()} {of.text}"


def _named(of: Evidence) -> str:
    prompts = how_many(of.frame["prompt"].nunique(), "prompt")
    at = "".join(f", {axis} = {value}" for axis, value in of.report.at.items())
    model = "" if of.origin == "simulated" else f"model {of.frame.attrs['model']}, "
    how = "" if of.origin == "captured" else f"{of.origin}, "
    return f"{of.name} ({how}{model}{prompts}{at})"


def _size(of: Evidence) -> tuple[int, int]:
    return int(of.frame["prompt"].nunique()), int(of.frame["path_digest"].nunique())


def _same_seeds(of: Evidence) -> bool:
    """Whether every prompt and mode has one capture, whatever the seed."""
    distinct = of.frame.groupby(["prompt", "mode"])["path_digest"].nunique()
    return bool(np.all(distinct == 1))
