"""Which tokens make a set: noise, threshold, rank and margins; and what the set's readout is.

Everything here is float64 numpy on log-probabilities l (log-softmax of a readout). p = exp(l) is what is
stored; p' = softmax(l + temperature * Gumbel noise) is what selects, orders and has margins.
"""

import hashlib
import math
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..dataset.cell import Cell
from ..dataset.options import threshold_at
from ..dataset.schema import RANKS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Choice:
    """One set, best token first: tokens (width,), probability p (width,), and how close it was.

    Margins are NaN where nothing was decided: forced steps, no token dropped, no neighbours to order.
    """

    tokens: Ints
    probability: Floats
    capped: bool
    threshold: float
    margin_kept: float = NAN
    margin_dropped: float = NAN
    margin_order: float = NAN


Select = Callable[[Floats, int], Choice]


def selection(cell: Cell) -> Select:
    """What chooses a set of this cell when it runs free: (readout (vocab,), step) -> Choice."""

    def select(logprob: Floats, step: int) -> Choice:
        noisy = cell.temperature > 0
        choice = choose(
            logprob,
            threshold=threshold_at(cell.threshold, step, cell.max_tokens),
            temperature=cell.temperature,
            max_width=cell.max_width,
            single=cell.mode == "single",
            gumbel=noise(cell.seed, step, cell.prompt, logprob.size) if noisy else None,
        )
        return cloned(choice) if cell.control == "clone" else choice

    return select


# Members of a batch that share seed, step and prompt come close together; 32 MB at 128,256 tokens.
@lru_cache(maxsize=32)
def noise(seed: int, step: int, prompt: str, vocab: int) -> Floats:
    """(vocab,) Gumbel noise, read-only; every mode of an experiment gets the same."""
    digest = hashlib.sha256(f"{seed}|{step}|{prompt}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    made = variates(np.random.Philox(key=key).random_raw(vocab))
    made.flags.writeable = False
    return made


def variates(raw: npt.NDArray[np.uint64]) -> Floats:
    """Standard Gumbel variates of 64 random bits each; always finite."""
    uniform = ((raw >> np.uint64(11)) + 0.5) * 2.0**-53
    # The largest u is 1 - 2^-54, which float64 rounds to 1: its noise would be infinite.
    np.minimum(uniform, 1 - 2.0**-53, out=uniform)
    return np.asarray(-np.log(-np.log(uniform)))


def choose(
    logprob: Floats,
    *,
    threshold: float,
    temperature: float,
    max_width: int,
    single: bool,
    gumbel: Floats | None = None,
) -> Choice:
    """The set that a readout (vocab,) gives: all that pass, best first, at most max_width, at least one."""
    chance = _perturbed(logprob, temperature, gumbel)
    passing = int(np.count_nonzero(chance >= threshold))
    width = 1 if single else min(max(passing, 1), max_width)
    ids = _best(chance, width + 1)
    ranked = chance[ids]
    tokens = ids[:width]
    last = float(ranked[width - 1])
    dropped = float(ranked[width]) if ids.size > width else NAN
    by_rank = single or passing != width
    return Choice(
        tokens=tokens.astype(np.int32),
        probability=np.exp(np.asarray(logprob, dtype=np.float64)[tokens]),
        capped=not single and passing > max_width,
        threshold=threshold,
        margin_kept=last - (dropped if by_rank else threshold),
        margin_dropped=(last if by_rank else threshold) - dropped,
        margin_order=float((ranked[: width - 1] - ranked[1:width]).min()) if width > 1 else NAN,
    )


def _perturbed(logprob: Floats, temperature: float, gumbel: Floats | None) -> Floats:
    """(vocab,) p': what selects."""
    score = np.asarray(logprob, dtype=np.float64)
    if temperature > 0:
        if gumbel is None:
            raise ValueError(f"a temperature of {temperature} needs Gumbel noise")
        with np.errstate(over="ignore"):  # refused by name below
            score = score + temperature * gumbel
    if not np.isfinite(score).all():
        bad = int(np.flatnonzero(~np.isfinite(score))[0])
        raise ValueError(f"the readout must be finite, and token {bad} has {score[bad]}")
    chance = score - score.max()
    np.exp(chance, out=chance)
    chance /= chance.sum()
    return np.asarray(chance)


def _best(values: Floats, k: int) -> npt.NDArray[np.intp]:
    """Indices of the k largest values, falling; of equal ones the lower index first."""
    columns = max(8 * k, 256)
    rows = values.size // columns
    if rows < 2:
        return np.argsort(-values, kind="stable")[:k]
    # At least k values reach the k-th largest of the columns' maxima, so only those need sorting.
    maxima = values[: rows * columns].reshape(rows, columns).max(axis=0)
    bar = np.partition(maxima, columns - k)[columns - k]
    candidates = np.flatnonzero(values >= bar)
    return np.asarray(candidates[np.argsort(-values[candidates], kind="stable")[:k]])


def forced(logprob: Floats, tokens: Ints, threshold: float, capped: bool = False) -> Choice:
    """Replay: the leader's tokens (width,), with the probabilities that this readout (vocab,) gives them."""
    taken = np.array(tokens, dtype=np.int32)
    return Choice(taken, np.exp(np.asarray(logprob, dtype=np.float64)[taken]), capped, threshold)


def cloned(choice: Choice) -> Choice:
    """The control: a set of width >= 2 becomes copies of its best token; margins stay those of the choice."""
    width = choice.tokens.size
    return replace(
        choice,
        tokens=np.repeat(choice.tokens[:1], width),
        probability=np.repeat(choice.probability[:1], width),
    )


def ended(tokens: Ints, end_tokens: Container[int]) -> tuple[Flags, bool]:
    """`stop_at_eos`, for a new set (width,): who is hidden from the next step on (width,), and is it over.

    When all of them are end tokens the experiment is over, and nobody is hidden.
    """
    ends = np.array([token in end_tokens for token in tokens.tolist()], dtype=bool)
    over = bool(ends.all())
    return ends & (not over), over


def readout(kind: str, logprob: Floats, probability: Floats) -> Floats:
    """(vocab,) the readout of a set's survivors, best first: logprob (width, vocab), probability (width,)."""
    if kind not in ("mixture", "top", "last"):
        raise ValueError(f"unknown readout {kind!r}; there are mixture, top, last")
    if kind == "mixture" and len(logprob) > 1:
        return _mixture(np.asarray(logprob, dtype=np.float64), np.asarray(probability, dtype=np.float64))
    return np.array(logprob[-1 if kind == "last" else 0], dtype=np.float64)


def _mixture(logprob: Floats, probability: Floats) -> Floats:
    there = probability > 0  # a probability that underflowed weighs nothing
    if not there.any():
        raise ValueError("the mixture needs a token of probability above 0, and the set has none")
    share = np.log(probability[there]) - math.log(probability.sum())
    rows = list(zip(logprob[there], share, strict=True))
    # Row by row it stays in the processor's cache: three times as fast at 128,256 tokens.
    largest = rows[0][0] + rows[0][1]
    for row, weight in rows[1:]:
        np.maximum(largest, row + weight, out=largest)
    total = np.zeros_like(largest)
    for row, weight in rows:
        total += np.exp(row + weight - largest)
    return np.asarray(np.log(total) + largest)


def log_softmax(logits: npt.NDArray[np.floating]) -> Floats:
    """(rows, vocab) log-probabilities of logits (rows, vocab); a row that cannot be normalised is NaN."""
    logprob = np.array(logits, dtype=np.float64)
    # Row by row, so that no second array of this size is needed; one broken row leaves the others alone.
    with np.errstate(invalid="ignore"):
        for row in logprob:
            row -= row.max()
            row -= math.log(np.exp(row).sum())
    return logprob


def entropy(logprob: Floats) -> float:
    """Entropy of a readout (vocab,) in nats."""
    return max(0.0, -float((np.exp(logprob) * logprob).sum()))


def top(logprob: Floats, k: int = RANKS) -> tuple[Ints, Floats]:
    """The k best tokens of a readout (vocab,), falling, with their log-probabilities: (k,) and (k,)."""
    ids = _best(logprob, k)
    return ids.astype(np.int32), logprob[ids]
