"""Questions about prompts: how large (Q1), how different (Q2), which are odd (Q3), what of a new one (Q7)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from ..words import how_many
from . import baselines, closed, effects, resampling
from .questions import (
    Answer,
    between,
    beyond,
    number,
    percent,
    probability,
    ratio,
    t_answer,
    t_test,
    untested,
    verb,
)
from .routes import KENWARD, Route, intercept, model
from .study import Study, mean_over, on_prompts

__all__ = ["downweighting", "generalisation", "outliers", "over_steps"]

Array = npt.NDArray[np.floating[Any]]

SKEWED = 1.0
WIDER = 1.01
NESTED = "these_categories and new_categories take seeds for nested, and here they act alike in all prompts"
ODD_IF_SKEWED = "; prompts are skewed, and then a prompt that belongs to them is often called odd"
LEAST_FOR_PREDICTION = 6
LEAST_FOR_OUTLIERS = 4
SHIFTS = (3, 4, 5, 6)


def downweighting(study: Study, route: Route, seed: int = 0) -> Answer:
    """Q1: the mean over prompts."""
    x, n = study.means, len(study.prompts)
    if n < 2 or not x.std(ddof=1) > 0:
        return untested("all prompts have the same mean: check your pipeline", n)
    found, method = closed.mean(x), f"t-test of {n} prompt means"
    made = route.doubt or model(study, route.crossed) if route.reml else None
    if isinstance(made, str):
        method += f" ({made})"
    elif made is not None and not (study.complete and _as_wide(intercept(made), found)):
        found, method = intercept(made), f"{KENWARD} ({route.why})"
    details = {"route": method, "scale": "log" if study.logs else "as given"} | _beside(study, x, seed)
    if details["skewed"]:
        found, method, details = _skewed(found, method, details)
    if not study.logs:
        return _of_mean(study, found, method.replace("t-test", "t interval"), details)
    details |= {"ratio": math.exp(found.estimate), "ratio_ci": [math.exp(found.low), math.exp(found.high)]}
    if route.crossed:
        details |= {"note": NESTED}
    return t_answer(_of_ratio(study, found, details), found, method, n, **details)


def _skewed(
    found: closed.Mean, method: str, details: dict[str, Any]
) -> tuple[closed.Mean, str, dict[str, Any]]:
    """Interval and p, both from the wider of t and bootstrap-t; the other stays in the details."""
    other = details["bootstrap_t"]
    if other["high"] - other["low"] <= found.high - found.low:
        return found, method, details
    kept = {"low": float(found.low), "high": float(found.high), "p": float(found.p)}
    low, high, p = (np.asarray(other[name]) for name in ("low", "high", "p"))
    how = f"{method}; interval and p by bootstrap-t, prompts being skewed"
    return replace(found, low=low, high=high, p=p), how, details | {"t_test": kept, "by_bootstrap": True}


def _as_wide(one: closed.Mean, other: closed.Mean) -> bool:
    """Whether seeds that act alike change nothing that matters: then the exact route stays."""
    return bool(one.high - one.low < WIDER * (other.high - other.low))


def _beside(study: Study, x: Array, seed: int) -> dict[str, Any]:
    """What stands beside the mean: other readings, skewness, other estimands, each mode and prompt."""
    details: dict[str, Any] = {
        "skewness": _skewness(x),
        "skewed": _is_skewed(x),
        "bootstrap_t": asdict(resampling.bootstrap_t(x, seed)) if len(x) >= 5 else None,
        "detectable": effects.mean_detectable(float(x.std(ddof=1)), len(x)) if study.logs else None,
        "by_mode": {mode: _of_mode(study, mode) for mode in dict.fromkeys(study.frame["mode"])},
        "prompts": _table(study, x),
    }
    if 1 < len(study.categories) < len(x):
        details["these_categories"] = baselines.interval(closed.category_mean(x, study.codes))
        details["new_categories"] = baselines.interval(closed.new_category_mean(x, study.codes))
    return details | (baselines.beside(study) if study.logs else {})


def _skewness(x: Array) -> float:
    return float(stats.skew(x, bias=False)) if len(x) > 2 else 0.0


def _is_skewed(x: Array) -> bool:
    return len(x) >= 5 and abs(_skewness(x)) > SKEWED


def _of_mode(study: Study, mode: str) -> dict[str, float] | None:
    """Mean and interval of one mode by itself; `single` and `causal` are told here and nowhere else."""
    x = on_prompts(study, study.response, (mode,))
    return baselines.interval(closed.mean(x)) | {"n": len(x)} if len(x) > 1 else None


def _table(study: Study, x: Array) -> list[dict[str, Any]]:
    """One row a prompt: category, mean, mean of each mode."""
    cells = mean_over(study.y, 1)
    return [
        {"prompt": name, "category": category, "mean": x[i], **dict(zip(study.modes, cells[i], strict=True))}
        for i, (name, category) in enumerate(zip(study.prompts, study.category_of, strict=True))
    ]


def _of_ratio(study: Study, found: closed.Mean, details: Mapping[str, Any]) -> str:
    """Parallel tokens receive 0.62x the attention ..."""
    times, ends = ratio(math.exp(found.estimate)), between(math.exp(found.low), math.exp(found.high))
    said = f"The mean of {study.response} {_over(study.modes)} is {times}"
    if study.response == "downweighting":
        which = _over(study.modes, "mean of")
        said = f"Parallel tokens receive {times} the attention of single tokens at the same distance, {which}"
    rests, n = t_test(found, len(study.prompts)), how_many(len(study.prompts), "prompt")
    if details.get("by_bootstrap"):
        rests = f"{probability(found.p)} by bootstrap-t, {n}, which are skewed"
    return f"{said} (95 % CI {ends}, {rests}): {_verdict(found, details['detectable'])}."


def _of_mean(study: Study, found: closed.Mean, method: str, details: dict[str, Any]) -> Answer:
    """What is no log of a ratio has an interval; against 0 there is nothing to test."""
    n, ci = len(study.prompts), (float(found.low), float(found.high))
    return Answer(
        f"The mean of {study.response} {_over(study.modes)} is {number(found.estimate)} "
        f"(95 % CI {between(*ci)}, {how_many(n, 'prompt')}).",
        method,
        n,
        float(found.estimate),
        ci,
        float(found.df),
        None,
        {"se": float(found.se), **details},
    )


def _over(modes: Sequence[str], word: str = "over") -> str:
    """In isolated mode; over isolated and visible."""
    return f"in {modes[0]} mode" if len(modes) == 1 else f"{word} {', '.join(modes[:-1])} and {modes[-1]}"


def _verdict(found: closed.Mean, detectable: float) -> str:
    """Which way, or what could have been seen."""
    if found.p < effects.ALPHA:
        return f"{'less' if found.estimate < 0 else 'more'} than 1x is shown"
    return (
        f"a difference from 1x was not shown, and the design could have seen only {beyond(detectable)} "
        "(power 80 %)"
    )


def outliers(study: Study) -> Answer:
    """Q3: which prompt differs from the others."""
    x, n = study.means, len(study.prompts)
    if n < LEAST_FOR_OUTLIERS:
        return untested(f"{n} prompts are too few to tell which is odd ({LEAST_FOR_OUTLIERS} are needed)", n)
    if not x.std(ddof=1) > 0:
        return untested("all prompts have the same mean: check your pipeline", n)
    t, p = closed.studentised(x)
    flagged = [name for name, value in zip(study.prompts, p, strict=True) if value < effects.ALPHA]
    powers = {shift: effects.outlier_power(shift, n) for shift in SHIFTS}
    apart = study.differences(*study.modes) if len(study.modes) == 2 else np.full(n, np.nan)
    rows = [
        {"prompt": name, "mean": x[i], "t": t[i], "p": p[i], "mean_without": np.delete(x, i).mean()}
        | {"difference_of_modes_without": float(mean_over(np.delete(apart, i), 0))}
        for i, name in enumerate(study.prompts)
    ]
    finds = ", ".join(f"{percent(power)} at {shift} SD" for shift, power in powers.items())
    sides = [
        f"{row['prompt']} ({'higher' if row['t'] > 0 else 'lower'})"
        for row in rows
        if row["p"] < effects.ALPHA
    ]
    return Answer(
        f"{_flagged(sides)} (smallest Bonferroni {probability(float(p.min()))}); one odd prompt is found "
        f"with a power of {finds}{ODD_IF_SKEWED if flagged and _is_skewed(x) else ''}.",
        "externally studentised prompt means, Bonferroni",
        n,
        float(len(flagged)),
        None,
        float(n - 2),
        float(p.min()),
        {"flagged": flagged, "prompts": rows, "power": powers, "several_features": _several(study)},
    )


def _flagged(names: list[str]) -> str:
    if not names:
        return "No prompt was shown to differ from the others"
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} shown to differ from the other prompts"


def _several(study: Study) -> dict[str, Any] | None:
    """Prompts that are odd in mean, difference of modes and slope at once."""
    features = {"mean": study.means}
    if len(study.modes) == 2:
        features["difference of modes"] = study.differences(study.modes[0], study.modes[1])
    slopes = on_prompts(study, "slope")
    if len(slopes) == len(study.prompts):
        features["slope"] = slopes
    x = np.column_stack(list(features.values()))
    n, k = x.shape
    if k < 2 or n < k + 3 or np.isnan(x).any() or np.linalg.matrix_rank(x - x.mean(axis=0)) < k:
        return None
    distance, p = closed.mahalanobis(x)
    flagged = [name for name, value in zip(study.prompts, p, strict=True) if value < effects.ALPHA]
    return {"features": list(features), "distance": distance, "p": p, "flagged": flagged}


def generalisation(study: Study) -> Answer:
    """Q7: what to expect of a new prompt."""
    x, n = study.means, len(study.prompts)
    if n < LEAST_FOR_PREDICTION:
        return untested(f"{n} prompts say too little of a new one ({LEAST_FOR_PREDICTION} are needed)", n)
    if not x.std(ddof=1) > 0:
        return untested("all prompts have the same mean: check your pipeline", n)
    low, high, below = (float(value) for value in closed.prediction(x))
    shown = [math.exp(end) for end in (low, high)] if study.logs else [low, high]
    left = _without_categories(study, x)
    said = f"A new prompt is expected at {between(*shown)}{'x' if study.logs else ''} (95 %, {n} prompts)"
    chance = f"; it is below 1x with probability {number(below)}" if study.logs else ""
    return Answer(
        f"{said}{chance}.",
        "t prediction interval over prompt means",
        n,
        float(x.mean()),
        (low, high),
        float(n - 1),
        None,
        {
            "below_zero": below if study.logs else None,
            "interval_shown": shown,
            "leave_one_category_out": left,
        },
    )


def _without_categories(study: Study, x: Array) -> dict[str, Any] | None:
    """How far off each category's prompts are when predicted by the mean of all others."""
    codes, names = study.codes, study.categories
    if len(names) < 2:
        return None
    errors = np.concatenate([x[codes == k] - x[codes != k].mean() for k in range(len(names))])
    by = {name: float(x[codes == k].mean() - x[codes != k].mean()) for k, name in enumerate(names)}
    return {"rmse": float(np.sqrt(np.mean(errors**2))), "by_category": by}


def over_steps(study: Study) -> Answer:
    """Q12: whether the response changes over steps: the slopes of prompts, never steps as rows."""
    if "slope" not in study.frame.columns:
        return untested("the frame has no column 'slope'")
    x = on_prompts(study, "slope")
    if len(x) < 2:
        have = verb(len(x), "has", "have")
        return untested(f"{how_many(len(x), 'prompt')} {have} the three steps that a slope needs", len(x))
    if not x.std(ddof=1) > 0:
        return untested("all prompts have the same slope: check your pipeline", len(x))
    found = closed.mean(x)
    seen = effects.mean_detectable(float(x.std(ddof=1)), len(x))
    times, low, high = (math.exp(float(end)) for end in (found.estimate, found.low, found.high))
    verdict = (
        f"a {'fall' if found.estimate < 0 else 'rise'} over steps is shown"
        if found.p < effects.ALPHA
        else f"no change was shown, and the design could have seen only {beyond(seen)} a step (power 80 %)"
    )
    return t_answer(
        f"The attention of parallel over that of single tokens changes by {ratio(times)} a step "
        f"(95 % CI {between(low, high)}, {probability(float(found.p))}, {len(x)} prompts): {verdict}.",
        found,
        f"t-test of {len(x)} prompts' slopes",
        len(x),
        detectable=seen,
    )
