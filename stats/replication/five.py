"""Which function makes which of the five experiments."""

from collections.abc import Callable, Mapping

from . import patterns, positions, readouts, siblings, wide
from .evidence import Evidence
from .result import Experiment

__all__ = ["FIVE"]

FIVE: Mapping[str, Callable[[Evidence], Experiment]] = {
    "exp1": patterns.experiment,
    "exp2": readouts.experiment,
    "exp3": siblings.experiment,
    "exp4": positions.experiment,
    "exp5": wide.experiment,
}
