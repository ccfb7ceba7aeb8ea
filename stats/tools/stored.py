"""Big arrays of one experiment beside its attention: readouts, and what went on inside a layer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...dataset.encoding import decode
from ...errors import BadInput
from .. import divergence
from ..view import View

__all__ = ["Inside", "inside", "logprobs"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Inside:
    """An array whose first dim is a layer: the layers that were kept, the last dim's numbers, the values."""

    layers: tuple[int, ...]
    last: tuple[int, ...]
    values: npt.NDArray[np.float32]


def logprobs(view: View, steps: int | None = None) -> Floats | None:
    """(step, vocab): the readouts of the first sets, normalised; None where they were not captured."""
    if "logits" not in view.cube.data:
        return None
    end = view.steps if steps is None else min(steps, view.steps)
    stored = np.asarray(_array(view, "logits")[(*view.index, slice(end), slice(None))])
    codec = view.cube.data["logits"].codec
    return divergence.normalised(decode(stored, codec, logs=True) if codec else stored)


def inside(view: View, name: str) -> Inside:
    """What a grid's `capture` kept of a layer, cut to the slots there are: (layer, slot, ...)."""
    if name not in view.cube.data:
        asked = "residual: true" if name in ("residual", "after_attention") else "internals: [layers]"
        raise BadInput(f"{view.cube.place}: {name} was not captured; set capture: {{{asked}}} in the grid")
    cube, variable = view.cube, view.cube.data[name]
    layers = [*cube.captured(variable).get("layer", range(cube.metas[name]["shape"][len(view.index)]))]
    stored = np.asarray(_array(view, name)[(*view.index, slice(None), slice(view.slots))])
    last = variable.dims[-1]
    numbers = cube.read(last).tolist() if last in cube.metas else range(stored.shape[-1])
    return Inside(tuple(layers), tuple(numbers), stored[layers])


def _array(view: View, name: str) -> Any:
    return view.cube.array(name)
