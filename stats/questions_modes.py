"""Questions about modes: isolated against visible (Q8), attention among siblings (Q9), logits (Q10)."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..words import how_many
from . import closed, effects, resampling
from .levels import floor, levels, log_floor, too_near
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
from .routes import KENWARD, Route, contrast, model
from .study import BASELINE, PAIR, Study, mean_over, on_prompts

__all__ = ["KL_BOUND", "cross_parallel", "logits", "modes", "per_prompt"]

Array = npt.NDArray[np.floating[Any]]

KL_BOUND = 0.01  # nat
WORDS = {"downweighting": "the attention of parallel over single tokens"}


def modes(
    study: Study, route: Route, sesoi: float | None, between_modes: pd.DataFrame | None, seed: int
) -> Answer:
    """Q8: visible - isolated, whether they are equivalent within +-sesoi, and at which level they agree."""
    x = study.differences(*PAIR)
    x = x[~np.isnan(x)]
    n = len(x)
    if n < 2:
        return untested(f"{how_many(n, 'prompt')} {verb(n, 'has', 'have')} both modes", n)
    if not x.std(ddof=1) > 0:
        return untested("the difference is the same in all prompts: check your pipeline", n)
    found, method = closed.mean(x), f"paired t-test of {n} prompts"
    made = (route.doubt or model(study)) if route.reml and not study.complete else None
    own = None if made is None or isinstance(made, str) else contrast(made, *PAIR)
    if isinstance(made, str):
        method += f" ({made})"
    if own is not None:
        found, method = own, f"{KENWARD} ({route.why})"
    flipped = resampling.sign_flip(x, seed)
    spread = float(found.se) * math.sqrt(n)  # of prompts' differences, or what the model makes of them
    equivalence = _equivalence(found, study.response, sesoi) | _power(spread, n, sesoi)
    details = {
        "sign_flip": {"p": flipped.p, "arrangements": flipped.arrangements, "exact": flipped.exact},
        **equivalence,
        "detectable": effects.mean_detectable(spread, n),
        "d_z": effects.cohen_d(x),
        "levels": levels(study, between_modes, equivalence["equivalent"]),
        "against_single": {mode: _against_single(study, mode) for mode in study.modes},
        "warning": too_near(sesoi, log_floor(study), "on the log scale") if study.logs and sesoi else None,
    }
    return t_answer(_of_modes(study, found, n, details), found, method, n, **details)


def _equivalence(found: closed.Mean, response: str, sesoi: float | None) -> dict[str, Any]:
    """TOST of the contrast that is told, so by its own route."""
    tost = closed.equivalence(found.estimate, found.se, found.df, sesoi or math.inf)
    told: dict[str, Any] = {"bound": sesoi, "p": None, "ci90": [float(tost.low), float(tost.high)]}
    if sesoi is None:
        why = f"not tested: give the smallest difference of interest (--sesoi), on the scale of {response}"
        return {"tost": told | {"not_tested": why}, "equivalent": None}
    return {"tost": told | {"p": float(tost.p)}, "equivalent": bool(tost.p < effects.ALPHA)}


def _power(spread: float, n: int, sesoi: float | None) -> dict[str, float | None]:
    return {"power_of_equivalence": None if sesoi is None else effects.tost_power(spread, n, sesoi)}


def _of_modes(study: Study, found: closed.Mean, n: int, details: dict[str, Any]) -> str:
    ends = (float(found.estimate), float(found.low), float(found.high))
    said = f"visible - isolated is {number(ends[0])} (95 % CI {between(*ends[1:])})"
    seen = f"a difference of {number(details['detectable'])} or more, either way"
    if study.logs:
        times, low, high = (math.exp(end) for end in ends)
        what = WORDS.get(study.response, study.response)
        said = (
            f"In visible mode {what} is {ratio(times)} that in isolated mode (95 % CI {between(low, high)})"
        )
        seen = beyond(details["detectable"])
    test, equivalent = t_test(found, n), _of_equivalence(study, details)
    if found.p < effects.ALPHA:
        return f"{said}: a difference is shown ({test}); {equivalent}."
    if details["equivalent"]:
        return f"{said}: {equivalent}; a difference was not shown ({test})."
    return (
        f"{said}: a difference was not shown ({test}), and the design could have seen only {seen} "
        f"(power 80 %); {equivalent}."
    )


def _of_equivalence(study: Study, details: dict[str, Any]) -> str:
    tost = details["tost"]
    if tost["bound"] is None:
        return f"equivalence was {tost['not_tested']}"
    within = percent(math.exp(tost["bound"]) - 1) if study.logs else f"+-{number(tost['bound'])}"
    told = f"TOST {probability(tost['p'])}"
    if details["equivalent"]:
        return f"the modes are equivalent within {within} ({told})"
    power = percent(details["power_of_equivalence"])
    return f"equivalence within {within} was not shown ({told}; its power was {power})"


def _against_single(study: Study, mode: str) -> dict[str, Any] | None:
    """The mode less the same prompts in `single`, on the response or, where that has none, on entropy."""
    if BASELINE not in set(study.frame["mode"]):
        return None
    for column in (study.response, "entropy"):
        if column not in study.frame.columns:
            continue
        both = study.table(column, (BASELINE, mode))
        x = mean_over(both[..., 1] - both[..., 0], 1)
        x = x[~np.isnan(x)]
        if len(x) > 1:
            made = closed.mean(x)
            names = ("estimate", "low", "high", "df")
            return {"measure": column, "n": len(x), **{name: float(getattr(made, name)) for name in names}}
    return None


def cross_parallel(study: Study, sesoi: float) -> Answer:
    """Q9: attention among siblings in visible mode, over a context key at the same place; one-sided."""
    if "cross_parallel" not in study.frame.columns:
        return untested("the frame has no column 'cross_parallel'")
    x = on_prompts(study, "cross_parallel", ("visible",))
    if len(x) < 2:
        return untested("no query rows of siblings were captured in visible mode", len(x))
    if not x.std(ddof=1) > 0:
        return untested("cross-parallel attention is the same in all prompts: check your pipeline", len(x))
    found, above = closed.mean(x), closed.mean(x, null=sesoi)
    p = float(above.greater)
    times, low, high = (math.exp(float(end)) for end in (found.estimate, found.low, found.high))
    seen = sesoi + effects.one_sided_detectable(float(x.std(ddof=1)), len(x))
    test = f"t({number(above.df)}) = {number(above.t)}, one-sided {probability(p)}, {len(x)} prompts"
    verdict = (
        f"shown ({test})"
        if p < effects.ALPHA
        else f"not shown ({test}), and the design could have shown it only of {ratio(math.exp(seen))} or "
        "more (power 80 %)"
    )
    plain = on_prompts(study, "cross_parallel_plain", ("visible",))
    return Answer(
        f"A sibling receives {ratio(times)} the attention of a context key at the same place "
        f"(95 % CI {between(low, high)}): more than {ratio(math.exp(sesoi))} is {verdict}.",
        f"t-test of {len(x)} prompt means, one-sided against {number(sesoi)}",
        len(x),
        float(found.estimate),
        (float(found.low), float(found.high)),
        float(found.df),
        p,
        {
            "ratio": times,
            "ratio_ci": [low, high],
            "t": float(above.t),
            "bound": sesoi,
            "detectable": seen,
            "plain": float(plain.mean()) if len(plain) else None,
            "causal": _mean_ratio(study, "causal"),
        },
    )


def _mean_ratio(study: Study, mode: str) -> float | None:
    x = on_prompts(study, "cross_parallel", (mode,))
    return math.exp(float(x.mean())) if len(x) else None


def per_prompt(study: Study, between_modes: pd.DataFrame, column: str) -> Array:
    """(prompts,) means of a column of the comparison of modes."""
    if column not in between_modes.columns:
        return np.empty(0)
    rows = between_modes[between_modes["prompt"].astype(str).isin(study.prompts)]
    values = rows[column].astype(float).groupby(rows["prompt"].astype(str)).mean()
    return values.to_numpy(dtype=np.float64)[np.isfinite(values.to_numpy(dtype=np.float64))]


def logits(study: Study, between_modes: pd.DataFrame | None, bound: float = KL_BOUND) -> Answer:
    """Q10: KL of the two modes' next-token distributions, and whether it is shown to be below the bound."""
    if between_modes is None or "kl" not in between_modes.columns:
        return untested("no comparison of the two modes' logits came with the frame")
    rows = between_modes.assign(log1p_kl=np.log1p(between_modes["kl"].clip(lower=0.0)))
    x = per_prompt(study, rows, "log1p_kl")
    if len(x) < 2:
        have = verb(len(x), "has", "have")
        return untested(f"{how_many(len(x), 'prompt')} {have} logits of both modes", len(x))
    if not x.std(ddof=1) > 0:
        why = "all divergences are 0" if not x.any() else "the divergence is the same in all prompts"
        return untested(f"{why}: check your pipeline", len(x))
    found, limit = closed.mean(x), closed.mean(x, null=math.log1p(bound))
    ends = closed.tost(x, 1.0)  # the ends of the 90 % interval are one-sided 95 % bounds
    lower, upper = math.expm1(float(ends.low)), math.expm1(float(ends.high))
    kl, p = math.expm1(float(found.estimate)), float(limit.less)
    power = effects.one_sided_power(float(x.std(ddof=1)), len(x), math.log1p(bound))
    noise = floor(study).get("kl")
    told = "noise floor not measured" if noise is None else f"noise floor {number(noise)} nat"
    return Answer(
        f"Next-token distributions of the modes differ by {number(kl)} nat (KL of isolated from visible; 95 "
        f"% upper bound {number(upper)}, {len(x)} prompts): {_of_bound(bound, lower, p, power)}; {told}.",
        f"one-sided t-test of {len(x)} prompt means of log(1 + KL)",
        len(x),
        kl,
        (math.expm1(float(found.low)), math.expm1(float(found.high))),
        float(found.df),
        p,
        {
            "bound": bound,
            "upper": upper,
            "lower": lower,
            "power": power,
            "max": float(rows["kl_max" if "kl_max" in rows.columns else "kl"].max()),
            "beside": _beside(study, rows),
            "noise_floor": dict(floor(study)),
            "warning": too_near(bound, noise, "nat"),
        },
    )


def _of_bound(bound: float, lower: float, p: float, power: float) -> str:
    """On which side of the bound the divergence is shown to be, or how likely that was to be seen."""
    if lower > bound:
        return f"more than {number(bound)} nat is shown (one-sided 95 % lower bound {number(lower)})"
    if p < effects.ALPHA:
        return f"less than {number(bound)} nat is shown (one-sided {probability(p)})"
    return (
        f"neither less nor more than {number(bound)} nat is shown (one-sided {probability(p)} and 95 % lower "
        f"bound {number(max(lower, 0.0))}; if there is no divergence, the power to show less was "
        f"{percent(power)})"
    )


def _beside(study: Study, rows: pd.DataFrame) -> dict[str, float | None]:
    """Means over prompts of what else was compared."""
    names = [name for name in rows.columns if name.startswith(("jaccard_", "cosine", "attention_"))]
    return {name: _average(per_prompt(study, rows, name)) for name in names}


def _average(x: Array) -> float | None:
    return float(x.mean()) if len(x) else None
