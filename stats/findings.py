"""What is measured of one experiment, and between two: from the sums of a sweep to named numbers."""

from typing import Any

import numpy as np

from ..dataset.encoding import decode
from . import divergence
from .estimand import (
    NAN,
    Floats,
    Layout,
    Line,
    beside_siblings,
    by_step,
    context,
    fit,
    legacy_ratio,
    over_steps,
    per_set,
    terms,
    undefined,
    with_both,
)
from .setwise import beside_single, placebo, sibling_spread
from .subjects import SINGLE, Experiment, Subjects, first_difference, slots_before, steps_of
from .sweep import Match, Tally

HEAVY = 0.3  # mean mass from which a key is a sink of its own
DRAWS = 1000  # placebo labels
TOPS = (1, 5, 10, 20)
LOGITS_BYTES = 4 << 20  # of one mode's readouts in float64, at a time: what lies between stays in the cache
NOT_CAPTURED = "attention was not captured"
MASSES = ("sink", "prompt", "generated", "own", "siblings")

Record = dict[str, Any]


def of_experiment(tally: Tally | None, of: Experiment, subjects: Subjects, steps: int) -> Record:
    """The measures of one experiment; without a tally, attention was not captured."""
    found = _nothing(len(subjects.layers), len(subjects.heads), steps)
    if tally is None:
        return found | {"reason": NOT_CAPTURED, "cross_reason": NOT_CAPTURED}
    where = of.layout
    found |= _masses(tally, where, steps) | {"legacy_ratio": legacy_ratio(tally.weight, where)}
    found |= {"heavy_keys": _heavy(tally, where), "prune_correlation": _pruning(tally, of)}
    found |= {"sibling_most": tally.most if where.siblings.any() else NAN, "map": tally.maps()}
    found |= {"sibling_spread": sibling_spread(tally.log, where)}
    reason = undefined(where) or _gaps(tally, subjects)
    if not reason:
        found |= _estimates(tally, where, steps)
        reason = "" if np.isfinite(found["downweighting"]) else "every key that counts has weight 0"
    if np.isnan(found["cross_parallel_plain"]):
        found["cross_reason"] = reason or _no_siblings(where)
    return found | {"reason": reason}


def between(one: Experiment, other: Experiment, match: Match | None, subjects: Subjects) -> Record:
    """What is measured between two experiments of other modes."""
    step = first_difference(one, other)
    common = min(one.small["width"].size, other.small["width"].size)
    compared = common if step < 0 else min(step + 1, common)
    found: Record = {"same_sets": step < 0, "first_difference": step, "compared_steps": compared}
    found |= _readouts(one, other, compared, subjects)
    return found | {"single_baseline": _baseline(match)} | _differences(one, other, match, subjects)


def _baseline(match: Match | None) -> float:
    """Parallel keys beside the one key there in mode `single`, where that is the other of the two."""
    if match is None or match.other.of.mode != SINGLE:
        return NAN
    one, other = match.one, match.other
    return beside_single(one.log, one.of.layout, other.log, other.of.layout)


def _nothing(layers: int, heads: int, steps: int) -> Record:
    """Every measure of an experiment, as it is where there is none."""
    numbers = (
        *("downweighting", "downweighting_per_set", "legacy_ratio", "cross_parallel", "cross_parallel_plain"),
        *("slope", "recency", "placebo_share", "placebo_low", "placebo_high", "sibling_most"),
        *("sibling_spread", "prune_correlation", *(f"mass_{name}" for name in MASSES)),
    )
    by_step = {"step_delta": steps, **{f"step_{name}": steps for name in MASSES}}
    return (
        dict.fromkeys(numbers, NAN)
        | {"rows": 0, "zero_weights": 0, "heavy_keys": "", "reason": "", "cross_reason": ""}
        | {"map": np.full((layers, heads), np.nan)}
        | {name: np.full(n, np.nan) for name, n in by_step.items()}
    )


def _estimates(tally: Tally, where: Layout, steps: int) -> Record:
    """The regression and what follows from it."""
    every = with_both(context(where), where.parallel)
    # A weight that underflowed has no log: such a pair is dropped and counted, never replaced.
    gone = every & np.isneginf(tally.log)
    keys = with_both(every & ~gone, where.parallel)
    of = terms(keys, where.distance, where.parallel, where.weight)
    line = fit(tally.log, of)
    deltas = by_step(tally.log, of, where.slot_step, steps)
    cross, plain = beside_siblings(tally.log, line.level, where)
    return {
        "downweighting": line.delta,
        "downweighting_per_set": per_set(tally.log, keys, where),
        "recency": -line.slope,
        "cross_parallel": cross,
        "cross_parallel_plain": plain,
        "step_delta": deltas,
        "slope": over_steps(deltas),
        "rows": int(keys.any(axis=1).sum()),
        "zero_weights": int(gone.sum()),
        **_placebo(tally, where, line),
    }


def _placebo(tally: Tally, where: Layout, line: Line) -> Record:
    """Where delta falls among those of sets that are called parallel at random."""
    drawn = placebo(tally.log, where, DRAWS)
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size or not np.isfinite(line.delta):
        return {}
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "placebo_share": float((drawn <= line.delta).mean()),
        "placebo_low": float(low),
        "placebo_high": float(high),
    }


def _masses(tally: Tally, where: Layout, steps: int) -> Record:
    """How much of a row's weight goes where, by step and over all generated rows; a set counts once."""
    step, kept = where.slot_step, where.kept & where.generated
    same = (step[:, None] == step[None, :]) & where.generated[:, None]
    own = np.eye(step.size, dtype=bool) & where.generated
    first = np.arange(step.size)[None, :] == 0
    kinds = {
        "sink": first & ~own,
        "prompt": (step < 0)[None, :] & ~first,
        "generated": where.generated[None, :] & ~same,
        "own": own,
        "siblings": same & ~own,
    }
    found: Record = {}
    for name in MASSES:
        counts = kinds[name] & where.there & kept[:, None]
        rows = np.where(counts, tally.weight, 0.0).sum(axis=1)
        rows[~kept | (name == "siblings") & ~counts.any(axis=1)] = np.nan
        by_step = steps_of(step, rows, steps)
        found[f"step_{name}"] = by_step
        found[f"mass_{name}"] = float(np.nanmean(by_step)) if np.isfinite(by_step).any() else NAN
    return found


def _heavy(tally: Tally, where: Layout) -> str:
    """Keys besides the first on which later sets put more than 0.3 of their weight, by slot."""
    later = where.sees & (where.kept & where.generated)[:, None]
    later &= where.slot_step[None, :] < where.slot_step[:, None]
    with np.errstate(invalid="ignore"):
        mean = np.where(later, tally.weight, 0.0).sum(axis=0) / later.sum(axis=0)
    return " ".join(str(slot) for slot in np.flatnonzero(mean > HEAVY) if slot)


def _pruning(tally: Tally, of: Experiment) -> float:
    """Correlation of the score that pruning gave a token with the weight that later sets put on it."""
    where, score = of.layout, of.small["prune_score"].astype(np.float64)
    later = where.sees & where.kept[:, None] & (where.slot_step[None, :] < where.slot_step[:, None])
    with np.errstate(invalid="ignore"):
        received = np.where(later, tally.weight, 0.0).sum(axis=0) / later.sum(axis=0)
    use = np.isfinite(score) & np.isfinite(received) & where.generated
    a, b = score[use], received[use]
    if a.size < 3 or not (np.ptp(a) and np.ptp(b)):
        return NAN
    return float(np.corrcoef(a, b)[0, 1])


def _gaps(tally: Tally, subjects: Subjects) -> str:
    where = tally.of.layout
    keys = with_both(context(where), where.parallel)
    if not np.isnan(tally.log[keys]).any():
        return ""
    bad = [str(subjects.layers[i]) for i in np.flatnonzero(np.isnan(tally.maps()).all(axis=1))]
    return "attention has gaps where tokens were seen" + (f", in layer {', '.join(bad)}" if bad else "")


def _no_siblings(where: Layout) -> str:
    if not (where.siblings & where.sees).any():
        return "no captured row sees a sibling"
    return "no row that sees a sibling has anything to compare it with"


def _readouts(one: Experiment, other: Experiment, compared: int, subjects: Subjects) -> Record:
    """Divergences of the readouts, means over steps."""
    names = ("kl", "cosine", "cosine_logits", "cosine_logprobs", *(f"jaccard_{k}" for k in TOPS))
    cube, found = subjects.cube, {name: np.full(compared, np.nan) for name in names}
    vocab = cube.facts.vocab
    if "logits" in cube.data:
        size = 1 << max(0, (LOGITS_BYTES // (8 * vocab)).bit_length() - 1)  # chunks are powers of two
        for start in range(0, compared, size):
            steps = slice(start, min(start + size, compared))
            p, q = (_logprobs(subjects, of, steps) for of in (one, other))
            found["kl"][steps] = divergence.kl(p, q)
            found["cosine"][steps] = divergence.cosine(np.exp(p), np.exp(q))
            found["cosine_logits"][steps] = divergence.cosine(*map(divergence.centred, (p, q)))
            found["cosine_logprobs"][steps] = divergence.cosine(p, q)
            k = min(max(TOPS), vocab)
            a, b = divergence.top(p, k), divergence.top(q, k)
            for most in TOPS:
                found[f"jaccard_{most}"][steps] = divergence.jaccard(a[:, :most], b[:, :most])
    best = [cube.read("top_token", of.index)[:compared] for of in (one, other)]
    for k in TOPS:
        if k <= best[0].shape[1]:  # kept exactly, where packed readouts have ties
            found[f"jaccard_{k}"] = divergence.jaccard(best[0][:, :k], best[1][:, :k])
    means = {name: float(each.mean()) if compared else NAN for name, each in found.items()}
    return means | {"kl_max": float(found["kl"].max()) if compared else NAN}


def _logprobs(subjects: Subjects, of: Experiment, steps: slice) -> Floats:
    place: Any = (*of.index, steps, slice(None))
    stored = subjects.cube.read("logits", place)
    codec = subjects.cube.data["logits"].codec
    return divergence.normalised(decode(stored, codec, logs=True) if codec else stored)


def _differences(one: Experiment, other: Experiment, match: Match | None, subjects: Subjects) -> Record:
    """Differences of the weights; `step_difference` is by step, up to the first set that differs."""
    found: Record = {
        **dict.fromkeys(("attention_difference", "attention_mean_difference"), NAN),
        **dict.fromkeys(("attention_correlation", "apart_most"), NAN),
        "identical": False,
        "layer_difference": np.full(len(subjects.layers), np.nan),
        "step_difference": np.full(subjects.cube.sizes["step"], np.nan),
    }
    if match is None or not match.rows:
        return found
    there = np.isfinite(match.most)
    both, apart = match.both & there, ~match.both & there
    rows = np.where(both, match.most, -np.inf).max(axis=1, initial=-np.inf)
    steps = one.layout.slot_step[: match.rows]
    by_step = found["step_difference"]
    for step, most in zip(steps, rows, strict=True):
        if step >= 0 and np.isfinite(most):
            by_step[step] = np.fmax(by_step[step], most)
    heads = len(subjects.layers) * len(subjects.heads)
    same_path = match.step < 0 and np.array_equal(one.small["logical"], other.small["logical"])
    return found | {
        "attention_difference": float(match.most[both].max()) if both.any() else NAN,
        "attention_mean_difference": float(match.total[both].mean() / heads) if both.any() else NAN,
        "attention_correlation": _correlation(match.moments),
        "apart_most": float(match.most[apart].max()) if apart.any() else NAN,
        "identical": bool(same_path and match.identical and there.any()),
        "layer_difference": match.by_layer,
    }


def _correlation(moments: Floats) -> float:
    n, a, b, aa, bb, ab = moments
    spread = (n * aa - a * a) * (n * bb - b * b)
    return float(np.clip((n * ab - a * b) / np.sqrt(spread), -1, 1)) if spread > 0 else NAN


def parting(one: Experiment, other: Experiment) -> int:
    """The step from which slots of two experiments no longer stand for each other; -1 if they always do."""
    return first_difference(one, other, ordered=True)


__all__ = ["Record", "between", "of_experiment", "parting", "slots_before"]
