"""What a run keeps, worked out against the model: layers, heads, neurons, and the traits' vectors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dataset.options import AttentionCapture, Capture, Storage
from ..dataset.schema import INTERNALS, ModelFacts
from ..errors import BadInput

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Names of the cube's variables and the parts of them that are kept.

    attention: log_attention, attention or None, of `layers` x `heads`; queries: all, generated or last;
    nodes: variables with a row a slot; internals: layers; vectors (residual_layer, trait, hidden), unit.
    """

    attention: str | None = None
    layers: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    queries: str = "all"
    logits: bool = False
    nodes: tuple[str, ...] = ()
    internals: tuple[int, ...] = ()
    neurons: tuple[int, ...] | None = None
    vectors: Floats | None = None

    @property
    def logs(self) -> bool:
        """Whether attention is kept as logs."""
        return self.attention == "log_attention"

    @property
    def residual(self) -> bool:
        """Whether the residual stream is needed, for itself or to project it."""
        return "residual" in self.nodes or self.vectors is not None

    @classmethod
    def of(cls, capture: Capture, storage: Storage, facts: ModelFacts) -> "Wanted":
        """What a grid's `capture` asks of this model; vectors of another size are refused."""
        attention = capture.attention if isinstance(capture.attention, AttentionCapture) else None
        for option, numbers, there in (
            ("attention.layers", attention.layers if attention else (), facts.layers),
            ("attention.heads", attention.heads if attention else (), facts.heads),
            ("internals", capture.internals, facts.layers),
            ("neurons", capture.neurons, facts.neurons),
        ):
            _must_be_there(option, numbers, there)
        nodes = ["cached_key", "cached_value"] * capture.keys_values
        nodes += ["residual", "after_attention"] * capture.residual
        nodes += INTERNALS if capture.internals else ()
        nodes += ["projection"] * bool(capture.project)
        return cls(
            attention=None if attention is None else "log_" * (storage.attention == "log16") + "attention",
            layers=_part(attention.layers, facts.layers) if attention else (),
            heads=_part(attention.heads, facts.heads) if attention else (),
            queries=attention.queries if attention else "all",
            logits=capture.logits,
            nodes=tuple(nodes),
            internals=tuple(capture.internals),
            neurons=None if capture.neurons == "all" else tuple(capture.neurons),
            vectors=_vectors(capture.project, facts) if capture.project else None,
        )


def _must_be_there(option: str, numbers: Any, there: int) -> None:
    """MLX does not look whether an index exists."""
    if numbers != "all" and (wrong := [number for number in numbers if number >= there]):
        raise BadInput(f"capture.{option}: the model has 0 to {there - 1}, got {wrong[0]}")


def _part(part: Any, size: int) -> tuple[int, ...]:
    return tuple(range(size)) if part == "all" else tuple(part)


def _vectors(project: tuple[tuple[str, str], ...], facts: ModelFacts) -> Floats:
    return np.stack([_vector(name, file, facts) for name, file in project], axis=1)


def _vector(name: str, file: str, facts: ModelFacts) -> Floats:
    """(residual_layer, hidden) of length 1: one vector for all layers, or one for each."""
    want = (facts.layers + 1, facts.hidden)
    try:
        with Path(file).open("rb") as lines:
            vector = np.lib.format.read_array(lines, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"capture.project.{name}: {file} is no .npy file of numbers ({error})") from None
    if vector.dtype.kind not in "fiu" or vector.shape not in (want, want[1:]):
        raise BadInput(
            f"capture.project.{name}: {file} must hold {facts.hidden} numbers, or {want[0]} x {want[1]}, "
            f"got {vector.dtype} of shape {vector.shape}"
        )
    length = np.linalg.norm(vector.astype(np.float64), axis=-1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise BadInput(
            f"capture.project.{name}: {file} holds a vector of length 0, or one that is not finite"
        )
    return np.broadcast_to(vector / length, want).astype(np.float32)
