"""Two experiments held against each other: their attention, their readouts, and one's entropy over steps."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import divergence
from ..view import View
from .stored import logprobs

__all__ = ["TOPS", "AttentionDifference", "attention", "entropy", "logits", "parting"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]

SUMS = 8  # how many, the gap, a, b, their squares and product; the largest gap
TOPS = (1, 5, 10, 20, 50)
_DIVERGENCES = ("kl", "kl_back", "js", "cosine", "cosine_logits", "cosine_logprobs")


@dataclass(frozen=True, slots=True, eq=False)
class AttentionDifference:
    """How far apart the weights of two experiments are, over pairs of tokens that both see.

    mean, most, correlation are over all layers and heads, pairs counts (layer, head, query, key). by_layer
    has one row a layer, by_step one a set. parted is the first set that differs (-1: none): rows from it on
    are not compared. apart: the largest weight on a pair that the other hides.
    """

    pairs: int
    mean: float
    most: float
    correlation: float
    identical: bool
    parted: int
    apart: float
    by_layer: pd.DataFrame
    by_step: pd.DataFrame


def parting(one: View, other: View) -> int:
    """The first step whose sets differ in tokens or their order, or that only one has; -1 if none."""
    n = min(one.slots, other.slots)
    apart = (one.token[:n] != other.token[:n]) | (one.slot_step[:n] != other.slot_step[:n])
    if not apart.any() and one.slots == other.slots:
        return -1
    at = int(apart.argmax()) if apart.any() else n
    return max(0, min(int(view.slot_step[at]) for view in (one, other) if at < view.slots))


def attention(one: View, other: View) -> AttentionDifference:
    """The difference of attention, entry by entry, in the rows before the first set that differs."""
    parted = parting(one, other)
    rows = one.slots if parted < 0 else int((one.slot_step < parted).sum())
    layers, heads = ([n for n in own if n in theirs] for own, theirs in _numbers(one, other))
    sees = [view.visible[:rows, :rows] for view in (one, other)]
    step, steps = one.slot_step[:rows], int(one.slot_step[:rows].max(initial=-1)) + 1
    found = np.zeros((len(layers), steps + 1, SUMS))  # a row for the prompt, and one for each step
    apart = 0.0
    for i, (a, b) in enumerate(_by_layer(one, other, layers, heads, rows)):
        there = np.isfinite(a) & np.isfinite(b)
        gap = np.abs(a - b)
        found[i] = _sums(a, b, gap, sees[0] & sees[1] & there, step, steps)
        apart = max(apart, float(gap[(sees[0] ^ sees[1]) & there].max(initial=0.0)))
    every = _told(_merged(found.reshape(-1, SUMS)))
    return AttentionDifference(
        int(found[..., 0].sum()),
        *every,
        bool(parted < 0 and every[1] == 0 and not apart),
        parted,
        apart,
        _table("layer", layers, [_told(_merged(each)) for each in found]),
        _table("step", list(range(steps)), [_told(_merged(found[:, i + 1])) for i in range(steps)]),
    )


def logits(one: View, other: View) -> pd.DataFrame:
    """One row a step, up to and including the first set that differs: how far apart the two readouts are.

    kl is KL(one || other), kl_back the other way, js Jensen-Shannon, all in nats; overlap_k is the share of
    the k best tokens (Jaccard). Of equal tokens the lower id comes first.
    """
    parted = parting(one, other)
    steps = min(one.steps, other.steps)
    compared = steps if parted < 0 else min(parted + 1, steps)
    columns = ["step", *_DIVERGENCES, *(f"overlap_{k}" for k in TOPS)]
    p, q = (logprobs(view, compared) for view in (one, other))
    if p is None or q is None or not compared:
        return pd.DataFrame(columns=columns, dtype=np.float64)
    return pd.DataFrame({"step": np.arange(compared), **_between(p, q)})


def entropy(view: View) -> pd.DataFrame:
    """One row a step: entropy of the readout in nats, its best token and that one's probability."""
    return pd.DataFrame(
        {
            "step": np.arange(view.steps),
            "entropy": view.entropy.astype(np.float64),
            "width": view.width,
            "top_token": view.top_token[:, 0],
            "top_label": [view.label_of(int(token)) for token in view.top_token[:, 0]],
            "top_probability": np.exp(view.top_logprob[:, 0].astype(np.float64)),
        }
    )


def _numbers(one: View, other: View) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Layers and heads of both; none where attention was not captured."""
    captured = one.has_attention and other.has_attention
    yield one.layers if captured else (), other.layers
    yield one.heads if captured else (), other.heads


def _by_layer(
    one: View, other: View, layers: list[int], heads: list[int], rows: int
) -> Iterator[tuple[Floats, Floats]]:
    """(head, query, key) of each layer, so that only one at a time is held in float64."""
    if not layers or not heads:
        return
    whole = [view.cube_attention() for view in (one, other)]
    for layer in layers:
        a, b = (
            weights[view.layers.index(layer)][[view.heads.index(head) for head in heads], :rows, :rows]
            for view, weights in zip((one, other), whole, strict=True)
        )
        yield a.astype(np.float64), b.astype(np.float64)


def _sums(a: Floats, b: Floats, gap: Floats, both: npt.NDArray[np.bool_], step: Ints, steps: int) -> Floats:
    """(step, SUMS): what is told is made of these; a, b, gap, both are (head, query, key)."""
    x, y, z = (np.where(both, values, 0.0) for values in (a, b, gap))
    parts = (both.astype(np.float64), z, x, y, x * x, y * y, x * y)
    by_query = [each.sum(axis=(0, 2)) for each in parts]
    found = np.zeros((steps + 1, SUMS))
    np.add.at(found[:, :-1], step + 1, np.stack(by_query, axis=1))
    np.maximum.at(found[:, -1], step + 1, z.max(axis=(0, 2), initial=0.0))
    return found


def _merged(rows: Floats) -> Floats:
    """(SUMS,) of several."""
    return np.append(rows[:, :-1].sum(axis=0), rows[:, -1].max(initial=0.0))


def _told(sums: Floats) -> tuple[float, float, float]:
    """Mean and largest absolute difference, and correlation; NaN where there is nothing to compare."""
    n, gap, a, b, aa, bb, ab, most = sums.tolist()
    if not n:
        return float("nan"), float("nan"), float("nan")
    spread = (n * aa - a * a) * (n * bb - b * b)
    correlation = float(np.clip((n * ab - a * b) / np.sqrt(spread), -1, 1)) if spread > 0 else float("nan")
    return gap / n, most, correlation


def _table(name: str, labels: list[int], values: list[tuple[float, float, float]]) -> pd.DataFrame:
    found = pd.DataFrame(values, columns=["mean", "most", "correlation"], dtype=np.float64)
    found.insert(0, name, labels)
    return found


def _between(p: Floats, q: Floats) -> dict[str, Floats]:
    """What is told of normalised log-probabilities (step, vocab): each (step,)."""
    middle = np.logaddexp(p, q) - np.log(2)
    js = (divergence.kl(p, middle) + divergence.kl(q, middle)) / 2
    found = {
        "kl": divergence.kl(p, q),
        "kl_back": divergence.kl(q, p),
        "js": np.where((p == q).all(axis=1), 0.0, js),  # the middle of two that are one is rounded
        "cosine": divergence.cosine(np.exp(p), np.exp(q)),
        "cosine_logits": divergence.cosine(divergence.centred(p), divergence.centred(q)),
        "cosine_logprobs": divergence.cosine(p, q),
    }
    for k in TOPS:
        most = min(k, p.shape[1])
        found[f"overlap_{k}"] = divergence.jaccard(divergence.top(p, most), divergence.top(q, most))
    return found
