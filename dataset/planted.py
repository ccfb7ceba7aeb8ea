"""One simulated experiment as an engine would hand it over: its sets, attention rows, readouts and checks."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .scenarios import THRESHOLD, Design, Effects, stream
from .schema import CHECKS, FAIL, NOT_APPLICABLE, PASS, RANKS
from .visibility import NEVER, PROMPT, existence, visibility

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

KEPT = 0.9  # probability that a set's tokens share


@dataclass(frozen=True)
class Path:
    """The sets of an experiment: width (step,), token (generated slot,), readout (step, vocab)."""

    prompt: Ints
    width: Ints
    token: Ints
    readout: Floats

    @cached_property
    def slot_step(self) -> Ints:
        """(slot,): as the cube has it."""
        steps = np.repeat(np.arange(self.width.size), self.width)
        return np.concatenate([np.full(self.prompt.size, PROMPT), steps])

    @cached_property
    def logical(self) -> Ints:
        """(slot,): one position for all of a set."""
        prompt = self.prompt.size
        return np.where(self.slot_step == PROMPT, np.arange(self.slot_step.size), prompt + self.slot_step)

    @cached_property
    def wide(self) -> Mask:
        """(slot,): members of parallel sets."""
        wide = np.repeat(self.width >= 2, self.width)
        return np.concatenate([np.zeros(self.prompt.size, bool), wide])

    @cached_property
    def siblings(self) -> Mask:
        """(query, key): two different tokens of one set."""
        step = self.slot_step
        same = (step[:, None] == step[None, :]) & (step >= 0)
        return np.asarray(same & ~np.eye(step.size, dtype=bool))

    @property
    def best(self) -> Ints:
        """(step,): where each set's best token lies among the generated ones."""
        return np.cumsum(self.width) - self.width

    def sees(self, mode: str) -> Mask:
        """(query, key): who would see whom in a mode."""
        return visibility(mode, self.logical, self.slot_step, np.full(self.slot_step.size, NEVER))

    def single(self) -> "Path":
        """The same with the best token of each set alone."""
        return Path(self.prompt, np.ones_like(self.width), self.token[self.best], self.readout)

    def cloned(self) -> "Path":
        """The same with copies of the best token in each set."""
        return Path(self.prompt, self.width, np.repeat(self.token[self.best], self.width), self.readout)

    def then(self, other: "Path", step: int) -> "Path":
        """This up to a set, and from it on the other; the readout that chose that set is still this one's."""
        token = np.r_[
            self.token[self.slot_step[self.prompt.size :] < step],
            other.token[other.slot_step[self.prompt.size :] >= step],
        ]
        width = np.r_[self.width[:step], other.width[step:]]
        return Path(self.prompt, width, token, np.r_[self.readout[: step + 1], other.readout[step + 1 :]])


def path(design: Design, effects: Effects, seed: int, index: tuple[int, ...]) -> Path:
    """The sets of one cell: those of the leading mode, unless modes part."""
    p, s, m = index[:3]
    where = (p, 0 if effects.same_seeds else s)
    words = stream("text", seed, p)
    prompt = np.r_[0, words.integers(1, design.vocab, design.prompt_tokens - 1)]
    chosen = _draw(design, prompt, stream("path", seed, *where, 0))
    if design.modes[m] == "single":
        return chosen.single()
    if design.parting is not None and design.modes[m] != design.leader and not effects.same_modes:
        chosen = chosen.then(_draw(design, prompt, stream("path", seed, *where, m)), design.parting)
    return chosen.cloned() if effects.control == "clone" else chosen


def _draw(design: Design, prompt: Ints, rng: np.random.Generator) -> Path:
    """Sets and the readouts that choose them: each kept token has at least the threshold, no other has."""
    width = np.ones(design.steps, dtype=np.int64)
    parallel = rng.permutation(design.steps)[: design.wide_sets]
    width[parallel] = rng.integers(2, design.max_width + 1, parallel.size)
    order = rng.random((design.steps, design.vocab)).argsort(axis=1)
    rest = rng.normal(0, 2, (design.steps, design.vocab))
    readout = np.empty_like(rest)
    for step, n in enumerate(width):
        others = np.exp(rest[step])
        others[order[step, :n]] = 0
        share = others * (1 - KEPT) / others.sum()
        share[order[step, :n]] = THRESHOLD + (KEPT - n * THRESHOLD) * np.sort(rng.dirichlet(np.ones(n)))[::-1]
        readout[step] = np.log(share)
    token = np.concatenate([order[step, :n] for step, n in enumerate(width)])
    return Path(prompt, width, token, readout)


def log_attention(
    shape: Path, sees: Mask, response: float, design: Design, effects: Effects, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """(layer, head, query, key): log weights; -inf hidden, NaN where the key did not exist yet.

    The softmax of planted scores: noise; recency by logical distance; for keys of earlier parallel sets the
    response, for siblings `cross` in its place; and on key 0 what makes it take its share of the row.
    """
    step, position = shape.slot_step, shape.logical
    score = rng.standard_normal((design.layers, design.heads, step.size, step.size), dtype=np.float32)
    score *= effects.noise
    late = effects.slope * (step - (design.steps - 1) / 2)
    earlier_set = shape.wide & (step[:, None] != step[None, :])
    score += np.where(earlier_set, response + late[:, None], 0).astype(np.float32)
    score += np.where(shape.siblings, effects.cross, 0).astype(np.float32)
    score -= (effects.recency * (position[:, None] - position[None, :])).astype(np.float32)
    for layer, row in enumerate(effects.by_head):
        for head, more in enumerate(row):
            score[layer, head, earlier_set] += more
    score[..., ~sees] = -np.inf
    if effects.sink and step.size > 1:
        others = _log_total(score[..., 1:, 1:])[..., 0]
        score[..., 1:, 0] = others + np.log(effects.sink / (1 - effects.sink))
    score -= _log_total(score)
    score[..., ~existence(step)] = np.nan
    if effects.nan_layer is not None:
        score[effects.nan_layer] = np.nan
    return score


def _log_total(score: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(..., 1): log of the sum of exp over the last axis, where every row has something finite."""
    top = score.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(score - top).sum(axis=-1, keepdims=True)) + top)


def shifted(readout: Floats, sd: float, rng: np.random.Generator) -> Floats:
    """(step, vocab): readouts moved at random, by as much as makes KL(readout, moved) sd²/2."""
    if not sd:
        return readout
    p = np.exp(readout)
    moved = rng.standard_normal(readout.shape)
    moved -= (p * moved).sum(axis=1, keepdims=True)
    moved *= sd / np.sqrt((p * moved**2).sum(axis=1, keepdims=True))
    scale = np.ones((len(p), 1))
    for _ in range(8):  # Newton: the cumulant function of the difference is convex in the scale
        grown = p * np.exp(scale * moved)
        total = grown.sum(axis=1, keepdims=True)
        scale -= (np.log(total) - sd**2 / 2) * total / (grown * moved).sum(axis=1, keepdims=True)
    log_q = readout + scale * moved
    return np.asarray(log_q - _log_total(log_q))


def selection(shape: Path, readout: Floats, threshold: Floats, mode: str, *, forced: bool) -> dict[str, Any]:
    """What the cube says of each set and its tokens; selected by the readout itself, without noise."""
    step = shape.slot_step[shape.prompt.size :]
    picked = np.exp(readout[step, shape.token])
    ranked = np.sort(np.exp(readout), axis=1)[:, ::-1]
    top = np.argsort(-readout, axis=1, kind="stable")[:, :RANKS]
    said: dict[str, Any] = {
        "probability": np.r_[np.full(shape.prompt.size, np.nan), picked],
        "threshold_used": threshold,
        "entropy": -(np.exp(readout) * readout).sum(axis=1),
        "top_token": top,
        "top_logprob": np.take_along_axis(readout, top, axis=1),
    }
    return said if forced else said | _margins(shape.width, ranked, threshold, mode)


def _margins(width: Ints, ranked: Floats, threshold: Floats, mode: str) -> dict[str, Any]:
    rows = np.arange(width.size)
    kept, dropped = ranked[rows, width - 1], ranked[rows, width]
    gaps = np.where(np.arange(1, ranked.shape[1]) < width[:, None], -np.diff(ranked, axis=1), np.inf).min(1)
    single = mode == "single"
    return {
        "margin_kept": kept - (dropped if single else threshold),
        "margin_dropped": (kept if single else threshold) - dropped,
        "margin_order": np.where(width > 1, gaps, np.nan),
    }


def checks(
    shape: Path, mode: str, logs: npt.NDArray[np.floating], effects: Effects
) -> dict[str, npt.NDArray[Any]]:
    """`check_result` and `check_value`, from the tensors that are about to be stored."""
    there, sees = existence(shape.slot_step), shape.sees(mode)
    weights = np.exp(logs)
    filled = np.isfinite(weights[..., there]).all(axis=-1)  # (layer, head)
    rows = np.abs(np.nansum(weights, axis=-1)[filled] - 1).max(initial=0)
    found: dict[str, tuple[bool, float]] = {
        "rows_sum": (rows <= 1e-3, rows),
        "cache": (shape.slot_step.size == shape.prompt.size + shape.width.sum(), shape.slot_step.size),
        "positions": (True, float(shape.logical[-1])),
    }
    total = np.nansum(weights, axis=(0, 1))
    if (hidden := there & ~sees).any():
        found["isolation"] = bool((total[hidden] == 0).all()), total[hidden].max()
    if mode in ("visible", "causal") and shape.wide.any():
        per_slot = (total * shape.siblings).sum(axis=1)[shape.wide]
        received = np.bincount(shape.slot_step[shape.wide], per_slot, minlength=shape.width.size)
        sight = received[shape.width >= 2].min()
        found["sight"] = sight > 0, sight
    if mode == "single":
        found["width"] = bool((shape.width == 1).all()), shape.width.max()
    if effects.nan_layer is None:
        found["finite"] = bool(filled.all()), float((~filled).sum())
    if effects.control == "repeat":
        found |= {
            "repeat_attention": (True, 1e-7),
            "repeat_logprob": (True, 1e-6),
            "repeat_kl": (True, 1e-12),
        }
    if effects.same_modes:
        found = {name: each for name, each in found.items() if name not in ("isolation", "sight")}
    result = [(PASS if found[name][0] else FAIL) if name in found else NOT_APPLICABLE for name in CHECKS]
    value = [found[name][1] if name in found else np.nan for name in CHECKS]
    return {"check_result": np.array(result, np.uint8), "check_value": np.array(value, np.float64)}
