"""MLP neurons over the slots of an experiment: `internals` of the grid's capture keeps them."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from ...errors import BadInput
from ..view import View
from .stored import Inside, inside

__all__ = ["between_siblings", "top", "track"]

Array = npt.NDArray[np.floating]

TOP = 10


def track(view: View, layer: int, neurons: Sequence[int]) -> pd.DataFrame:
    """One row a slot and neuron: its activation, that is what goes into the down projection."""
    kept, values = _of_layer(view, layer)
    if odd := sorted(set(neurons) - set(kept.last)):
        raise BadInput(f"neuron {odd[0]}: not captured; there are {_some(kept.last)}")
    rows = [
        {
            "slot": slot,
            "step": int(view.slot_step[slot]),
            "label": view.labels[slot],
            "neuron": neuron,
            "activation": float(values[slot, kept.last.index(neuron)]),
        }
        for slot in range(view.slots)
        for neuron in neurons
    ]
    return pd.DataFrame(rows, columns=["slot", "step", "label", "neuron", "activation"])


def top(view: View, layer: int, most: int = TOP) -> pd.DataFrame:
    """The neurons most active on generated tokens: mean |activation|, the largest one, and where that is."""
    kept, values = _of_layer(view, layer)
    generated = np.flatnonzero(view.slot_step >= 0)
    size = np.abs(values[generated])
    rows = []
    mean = size.sum(axis=0) / max(generated.size, 1)
    for i in np.argsort(-mean, kind="stable")[: most if generated.size else 0]:
        slot = int(generated[size[:, i].argmax()])
        found = {"neuron": kept.last[i], "mean": float(mean[i]), "largest": float(values[slot, i])}
        rows.append({**found, "slot": slot, "label": view.labels[slot]})
    return pd.DataFrame(rows, columns=["neuron", "mean", "largest", "slot", "label"])


def between_siblings(view: View, layer: int, most: int = TOP) -> pd.DataFrame:
    """One row a set of two or more: how alike the activations of its tokens are, over pairs.

    cosine of the activations, and shared: the share of the most active neurons that two have in common.
    """
    _, values = _of_layer(view, layer)
    rows = []
    for step in view.wide_steps:
        own = values[view.of_step(step)].astype(np.float64)
        pairs = list(combinations(range(len(own)), 2))
        cosines = [_cosine(own[i], own[j]) for i, j in pairs]
        k = min(most, own.shape[1])
        best = [set(np.argsort(-np.abs(each), kind="stable")[:k].tolist()) for each in own]
        shared = [len(best[i] & best[j]) / k for i, j in pairs]
        means = {"cosine": float(np.mean(cosines)), "shared": float(np.mean(shared))}
        rows.append({"step": step, "width": len(own), **means})
    return pd.DataFrame(rows, columns=["step", "width", "cosine", "shared"])


def _of_layer(view: View, layer: int) -> tuple[Inside, Array]:
    """(slot, neuron) of one layer."""
    kept = inside(view, "mlp_act")
    if layer not in kept.layers:
        raise BadInput(f"layer {layer}: its neurons were not captured; there are {_some(kept.layers)}")
    return kept, kept.values[kept.layers.index(layer)]


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + ", ..." * (len(numbers) > 8)


def _cosine(a: Array, b: Array) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / length, -1, 1)) if length else float("nan")
