"""Experiments 1 to 5 of the seeds, over any cube: their measures, hypotheses and verdicts; and all claims.

>>> found = experiment("cube.zarr", "exp1")
>>> found.outcome
>>> experiment("cube.zarr", "replication").hypotheses      # each claim of the seeds, held against this cube
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...errors import BadInput
from ..report import Report
from .claims import as_experiment
from .evidence import Evidence, evidence
from .five import FIVE
from .result import Experiment

__all__ = ["EXPERIMENTS", "experiment"]

ONE = "there is one prompt: what is said is said of it alone, without an interval"
EXPERIMENTS: Mapping[str, Callable[[Evidence], Experiment]] = {**FIVE, "replication": as_experiment}


def experiment(source: Any, name: str, report: Report | None = None) -> Experiment:
    """One of exp1 ... exp5, or replication, as a cube answers it; `report`: one already made of it."""
    if name not in EXPERIMENTS:
        raise BadInput(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    of = evidence(source, report)
    found = EXPERIMENTS[name](of)
    if of.about:
        found = replace(found, outcome=f"{of.about[0].upper()}{of.about[1:]}: {found.outcome}")
    if of.frame["prompt"].nunique() > 1:
        return found
    return replace(found, not_measured=(*found.not_measured, ONE))
