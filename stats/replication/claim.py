"""What became of one claim."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..questions import plain

__all__ = ["Basis", "Claim", "Word"]

Word = Literal["confirmed", "refuted", "cannot tell"]
Basis = Literal["cube", "their model", "argument"]


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim in our words, where it stands, the verdict on it, our measurement, and the reason.

    basis: what decides it. An argument (arithmetic, their code or their own pages, how a softmax works) does
    so whatever is measured; `cube`: what was measured of the cubes given; `their model`: no cube of another.
    """

    where: str
    claim: str
    verdict: Word
    measured: str
    reason: str
    basis: Basis = "their model"

    def to_dict(self) -> dict[str, Any]:
        """Plain values only."""
        told: dict[str, Any] = plain(asdict(self))
        return told
