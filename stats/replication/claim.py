"""What became of one claim."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..questions import plain

__all__ = ["Claim", "Word"]

Word = Literal["confirmed", "refuted", "cannot tell"]


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim in our words, where it stands, the verdict on it, our measurement, and the reason."""

    where: str
    claim: str
    verdict: Word
    measured: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values only."""
        told: dict[str, Any] = plain(asdict(self))
        return told
