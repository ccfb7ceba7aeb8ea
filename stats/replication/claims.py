"""Each claim of the seeds about the world: where it stands, what was measured, and what became of it.

>>> for claim in claims("seeds100-sampled.zarr", "no_mask.zarr"):
...     claim.verdict, claim.claim, claim.measured

What follows from arithmetic, from how a softmax works, or from what their code did, is settled. What depends
on their model (deepcogito/cogito-v1-preview-llama-3B) is not: there the verdict is `cannot tell`, with our
measurement of another model beside it.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...words import how_many
from ..report import Report
from . import of_modes, of_runs
from .claim import Basis, Claim, Word
from .cubes import Cubes
from .evidence import Evidence, evidence
from .result import Experiment, Hypothesis
from .sums import sums

__all__ = ["OURS", "Claim", "as_experiment", "claims"]

OURS = "our explanation"  # in the place of what is no claim of theirs, and not counted among them

SAID: Mapping[Basis, str] = {
    "cube": "{} that a cube can decide, by this one",
    "their model": "{} about their model, which no cube of another decides",
    "argument": "{} settled by argument or arithmetic, whatever the cube",
}
WORDS: Mapping[Word, str] = {
    "refuted": "refuted",
    "confirmed": "confirmed",
    "cannot tell": "cannot be told",
}
PUBLISHED = (
    *(of_modes.identical, of_modes.control, of_modes.no_effect),
    *(of_runs.positions, of_runs.physical, of_runs.mean_entropy, of_runs.confident, of_runs.top_tokens),
    *(of_runs.stress, of_runs.stable, of_runs.quick),
    *(of_modes.scenario, of_modes.same_logits, of_modes.no_siblings),
    *(of_modes.default_mode, of_runs.lower, of_modes.no_need, of_runs.only_next, of_runs.narrow),
    *(of_modes.ratio_formula, of_modes.weaker),
)


def claims(*cubes: Any) -> tuple[Claim, ...]:
    """Every claim, with what these cubes (paths, URLs, Datasets, or reports of them) say about it."""
    return _held(*(evidence(cube, cube if isinstance(cube, Report) else None) for cube in cubes))


def as_experiment(of: Evidence) -> Experiment:
    """The claims against one cube, in the shape of an experiment: each is a hypothesis with its verdict."""
    found = sorted(_held(of), key=lambda claim: tuple(SAID).index(claim.basis))
    theirs = [claim for claim in found if OURS not in claim.where]
    return Experiment(
        "replication",
        "What became of the claims of the seeds",
        "Which of their claims can this cube decide, which does an argument, and which needs their model?",
        (),
        tuple(Hypothesis(each.claim, each.verdict, _told(each)) for each in found),
        " ".join(
            _counted(basis, [claim.verdict for claim in theirs if claim.basis == basis]) for basis in SAID
        ),
    )


def _counted(basis: Basis, verdicts: list[Word]) -> str:
    """So many of this kind, and what became of them."""
    counts = Counter(verdicts)
    told = ", ".join(f"{counts[word]} {WORDS[word]}" for word in WORDS if counts[word])
    return f"{SAID[basis].format(how_many(len(verdicts), 'claim'))}: {told}."


def _held(*of: Evidence) -> tuple[Claim, ...]:
    found = Cubes(of)
    return (*(each(found) for each in PUBLISHED), *sums(found))


def _told(claim: Claim) -> str:
    if claim.basis == "argument":
        return f"({claim.where}) Whatever the cube: {claim.reason} Beside it: {claim.measured}"
    return f"({claim.where}) {claim.measured} {claim.reason}"
