"""Questions about modes: isolated against visible (Q8), attention among siblings (Q9), logits (Q10)."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from . import closed, effects, resampling
from .levels import floor, levels, log_floor, too_near
from .questions import Answer, between, number, percent, probability, ratio, t_answer, untested
from .routes import KENWARD, Route, contrast, model
from .study import BASELINE, PAIR, Study, mean_over, on_prompts

__all__ = ["KL_BOUND", "cross_parallel", "logits", "modes", "per_prompt"]

Array = npt.NDArray[np.floating[Any]]

KL_BOUND = 0.01  # nat
WORDS = {"downweighting": "the attention of parallel over single tokens"}


def modes(study: Study, route: Route, sesoi: float, between_modes: pd.DataFrame | None, seed: int) -> Answer:
    """Q8: visible - isolated, whether they are equivalent within +-sesoi, and at which level they agree."""
    x = study.differences(*PAIR)
    x = x[~np.isnan(x)]
    n = len(x)
    if n < 2:
        return untested(f"{n} prompts have both modes", n)
    if not x.std(ddof=1) > 0:
        return untested("the difference is the same in all prompts: check your pipeline", n)
    found, method = closed.mean(x), f"paired t-test of {n} prompts"
    made = (route.doubt or model(study)) if route.reml and not study.complete else None
    own = None if made is None or isinstance(made, str) else contrast(made, *PAIR)
    if isinstance(made, str):
        method += f" ({made})"
    if own is not None:
        found, method = own, f"{KENWARD} ({route.why})"
    flipped, tost = resampling.sign_flip(x, seed), closed.tost(x, sesoi)
    details = {
        "sign_flip": {"p": flipped.p, "arrangements": flipped.arrangements, "exact": flipped.exact},
        "tost": {"bound": sesoi, "p": float(tost.p), "ci90": [float(tost.low), float(tost.high)]},
        "equivalent": bool(tost.p < effects.ALPHA),
        "power_of_equivalence": effects.tost_power(float(x.std(ddof=1)), n, sesoi),
        "detectable": effects.mean_detectable(float(x.std(ddof=1)), n),
        "d_z": effects.cohen_d(x),
        "levels": levels(study, between_modes, bool(tost.p < effects.ALPHA)),
        "against_single": {mode: _against_single(study, mode) for mode in study.modes},
        "warning": too_near(sesoi, log_floor(study), "on the log scale") if study.logs else None,
    }
    return t_answer(_of_modes(study, found, details, sesoi), found, method, n, **details)


def _of_modes(study: Study, found: closed.Mean, details: dict[str, Any], sesoi: float) -> str:
    ends = (float(found.estimate), float(found.low), float(found.high))
    said = f"visible - isolated is {number(ends[0])} (95 % CI {between(*ends[1:])})"
    within, seen = f"+-{number(sesoi)}", f"a difference of {number(details['detectable'])}"
    if study.logs:
        times, low, high = (math.exp(end) for end in ends)
        interval = f"95 % CI {between(low, high)}"
        what = WORDS.get(study.response, study.response)
        said = f"In visible mode {what} is {ratio(times)} that in isolated mode ({interval})"
        within, seen = (
            percent(math.exp(sesoi) - 1),
            f"{ratio(math.exp(details['detectable']))} or its inverse",
        )
    p, tost = probability(float(found.p)), f"TOST {probability(details['tost']['p'])}"
    shown, equivalent = found.p < effects.ALPHA, details["equivalent"]
    if shown and equivalent:
        return f"{said}: a difference is shown ({p}), and the modes are equivalent within {within} ({tost})."
    if shown:
        return f"{said}: a difference is shown ({p})."
    if equivalent:
        return f"{said}: the modes are equivalent within {within} ({tost})."
    return (
        f"{said}: a difference was not shown ({p}), and the design could have seen only {seen} (power 80 %); "
        f"equivalence within {within} was not shown ({tost}; its power was "
        f"{percent(details['power_of_equivalence'])})."
    )


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
    verdict = "shown" if p < effects.ALPHA else "not shown"
    plain = on_prompts(study, "cross_parallel_plain", ("visible",))
    return Answer(
        f"A sibling receives {ratio(times)} the attention of a context key at the same place "
        f"(95 % CI {between(low, high)}): more than {ratio(math.exp(sesoi))} is {verdict} "
        f"({probability(p)}, {len(x)} prompts).",
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
        return untested(f"{len(x)} prompts have logits of both modes", len(x))
    if not x.std(ddof=1) > 0:
        why = "all divergences are 0" if not x.any() else "the divergence is the same in all prompts"
        return untested(f"{why}: check your pipeline", len(x))
    found, limit = closed.mean(x), closed.mean(x, null=math.log1p(bound))
    ends = closed.tost(x, 1.0)  # the ends of the 90 % interval are one-sided 95 % bounds
    lower, upper = math.expm1(float(ends.low)), math.expm1(float(ends.high))
    kl, p = math.expm1(float(found.estimate)), float(limit.less)
    verdict, noise = "shown" if p < effects.ALPHA else "not shown", floor(study).get("kl")
    beyond = "noise floor not measured" if noise is None else f"noise floor {number(noise)} nat"
    return Answer(
        f"Next-token distributions of the modes differ by {number(kl)} nat (KL; 95 % bound {number(upper)}): "
        f"less than {number(bound)} nat is {verdict} ({probability(p)}; {beyond}).",
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
            "max": float(rows["kl_max" if "kl_max" in rows.columns else "kl"].max()),
            "beside": _beside(study, rows),
            "noise_floor": dict(floor(study)),
            "warning": too_near(bound, noise, "nat"),
        },
    )


def _beside(study: Study, rows: pd.DataFrame) -> dict[str, float | None]:
    """Means over prompts of what else was compared."""
    names = [name for name in rows.columns if name.startswith(("jaccard_", "cosine", "attention_"))]
    return {name: _average(per_prompt(study, rows, name)) for name in names}


def _average(x: Array) -> float | None:
    return float(x.mean()) if len(x) else None
