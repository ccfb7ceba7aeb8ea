"""One experiment of a grid."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from ..errors import BadInput
from .fields import Options
from .gridfile import Source, refusal
from .options import Curve, Prune, plain
from .textfile import did_you_mean

T = TypeVar("T", bound=Options)


@dataclass(frozen=True, slots=True)
class Cell:
    """One experiment. `replay` is the mode whose sets it is forced along; None if it runs free."""

    prompt: str
    category: str = field(compare=False)  # says nothing about what is run
    seed: int
    mode: str
    threshold: float | Curve = 0.1
    temperature: float = 0.0
    max_width: int = 16
    readout: str = "mixture"
    prune: Prune | None = None
    ablate: tuple[str, ...] = ()
    max_tokens: int = 10
    max_slots: int | None = None
    replay: str | None = None
    control: str | None = None
    stop_at_eos: bool = False

    @property
    def key(self) -> str:
        """A name for the experiment, the same in every process and run."""
        asked = self.to_dict()
        del asked["category"]
        canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]

    @property
    def leader(self) -> "Cell | None":
        """The cell whose sets (and prunings) this one follows."""
        return replace(self, mode=self.replay, replay=None) if self.replay else None

    def to_dict(self) -> dict[str, Any]:
        """The cell as JSON has it."""
        options = {each.name: plain(getattr(self, each.name)) for each in fields(self)}
        # 1 and 1.0 (and 0.0 and -0.0) are the same cell, so they must have the same key.
        options["temperature"] = float(self.temperature) + 0.0
        if not isinstance(self.threshold, Curve):
            options["threshold"] = float(self.threshold)
        return options

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "Cell":
        """The cell that `to_dict` wrote."""
        needed = {each.name: each.default is MISSING for each in fields(cls)}
        for name in options:
            if name not in needed:
                raise BadInput(f"cell: {name}: unknown key{did_you_mean(name, needed)}")
        for name in needed:
            if needed[name] and name not in options:
                raise BadInput(f"cell: {name}: is missing")
        given = {**options, "ablate": tuple(options.get("ablate", ()))}
        if isinstance(given.get("threshold"), Mapping):
            given["threshold"] = _mapping(Curve, "threshold", given["threshold"])
        if given.get("prune") is not None:
            given["prune"] = _mapping(Prune, "prune", given["prune"])
        return cls(**given)


def _mapping(kind: type[T], name: str, given: Any) -> T:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise refusal(Source(f"cell: {name}", {}), error, kind) from None
