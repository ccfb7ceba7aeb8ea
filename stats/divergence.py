"""How far apart two readouts are, in float64: pure functions of log-probabilities (step, vocab)."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]

STRETCH = 512  # tokens whose best one is looked at first


def normalised(logs: npt.ArrayLike) -> Floats:
    """(..., vocab): log-probabilities whose exp sums to 1; what is stored is rounded."""
    values = np.asarray(logs, dtype=np.float64)
    top = values.max(axis=-1, keepdims=True)
    return np.asarray(values - top - np.log(np.exp(values - top).sum(axis=-1, keepdims=True)))


def kl(one: Floats, other: Floats) -> Floats:
    """(...,): KL(one || other) of normalised log-probabilities, in nats; a token without weight adds 0."""
    weight = np.exp(one)
    with np.errstate(invalid="ignore"):
        each = np.where(weight > 0, weight * (one - other), 0.0)
    # rounding may leave -1e-17 where the two are next to equal; the divergence is never below 0
    return np.asarray(np.maximum(each.sum(axis=-1), 0.0))


def cosine(one: Floats, other: Floats) -> Floats:
    """(...,): cosine of two vectors, at most 1 and at least -1; NaN where one of them is 0."""
    lengths = np.sqrt(_dot(one, one) * _dot(other, other))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.clip(_dot(one, other) / lengths, -1.0, 1.0))


def _dot(one: Floats, other: Floats) -> Floats:
    return np.asarray(np.einsum("...i,...i->...", one, other))


def centred(logs: Floats) -> Floats:
    """(..., vocab): logits as far as they are known: their zero is arbitrary, so it is put at their mean."""
    return np.asarray(logs - logs.mean(axis=-1, keepdims=True))


def top(logs: Floats, k: int) -> Ints:
    """(step, k): the k best tokens in order; of equal ones the lower id comes first."""
    found = np.empty((len(logs), k), dtype=np.int64)
    for row, values in enumerate(logs):
        tokens = np.flatnonzero(values >= _bar(values, k))  # in rising id
        found[row] = tokens[np.argsort(-values[tokens], kind="stable")[:k]]
    return found


def _bar(values: Floats, k: int) -> float:
    """A value that at least k tokens reach, and not many more."""
    # The kth best of the stretches' best is cheap, and at least k tokens are as good.
    stretches = np.maximum.reduceat(values, np.arange(0, values.size, STRETCH))
    best = stretches if stretches.size >= k else values
    return float(np.partition(best, best.size - k)[best.size - k])


def jaccard(one: Ints, other: Ints) -> Floats:
    """(step,): tokens that both lists of k have, over those that either has. one, other: (step, k)."""
    common = (one[:, :, None] == other[:, None, :]).any(axis=2).sum(axis=1)
    return np.asarray(common / (2 * one.shape[1] - common))
