"""How large an effect is for prompts (Q4), and how much prompts agree (Q4b)."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from . import effects
from .questions import Answer, between, number, untested, verb
from .questions_maps import of_named_prompts
from .study import Study, mean_over, per_seed

__all__ = ["consistency", "effect_size"]

Array = npt.NDArray[np.floating[Any]]

DESCRIPTIVE = "descriptive: depends on the number of heads, no interval, no p"
DETERMINISTIC = "undefined (deterministic)"
TOO_NARROW = "; seeds act alike in all prompts, which this interval does not allow for"
ROUNDING = 1e-12  # of the mean: an SD below it is none


def effect_size(study: Study, maps: xr.DataArray | None = None, crossed: bool = False) -> Answer:
    """Q4: Cohen's d over prompts, Hedges g, and how consistent prompts are."""
    x, n = study.means, len(study.prompts)
    if n < 2 or not x.std(ddof=1) > 0:
        return untested(f"{DETERMINISTIC}: prompts do not differ", n)
    d = effects.cohen_d(x)
    ci = effects.d_interval(d, n)
    agree = consistency(study)
    details: dict[str, Any] = {"consistency": agree, "within_prompts": _within_prompts(study, maps)}
    if n > 2:
        details["hedges_g"] = effects.hedges_g(x)
    return Answer(
        f"In SDs of prompt means the mean is d = {number(d)} (95 % CI {between(*ci)}); "
        f"{agree['same_sign']} of {n} prompts {verb(agree['same_sign'], 'has', 'have')} its sign "
        f"(a share of {between(*agree['share_ci'])} of all prompts){TOO_NARROW if crossed else ''}.",
        "mean / SD of prompt means; non-central t",
        n,
        d,
        ci,
        float(n - 1),
        None,
        details,
    )


def _within_prompts(study: Study, maps: xr.DataArray | None) -> dict[str, Any]:
    """d of each prompt by itself, its layers and heads in the place of a sample, which they are not."""
    if maps is None:
        return {"label": DESCRIPTIVE, "not_told": "no maps came with the frame"}
    names, values = of_named_prompts(study, maps)
    d = {name: _of_cells(cells[~np.isnan(cells)]) for name, cells in zip(names, values, strict=True)}
    return {"label": DESCRIPTIVE, "d": d}


def _of_cells(x: Array) -> float | str:
    """d of the cells of one map."""
    if x.size < 2:
        return f"undefined ({x.size} layer-heads have a value)"
    return effects.cohen_d(x) if x.std(ddof=1) > ROUNDING * abs(x.mean()) else DETERMINISTIC


def consistency(study: Study) -> dict[str, Any]:
    """Q4b: signs, range, leave-one-out range, and tau over mean where prompts have errors of their own."""
    x, n = study.means, len(study.prompts)
    same = int(np.sum(np.sign(x) == np.sign(x.mean())))
    left = [float(np.delete(x, i).mean()) for i in range(n)]
    found: dict[str, Any] = {
        "same_sign": same,
        "share_ci": effects.agreement(same, n),
        "range": [x.min(), x.max()],
        "leave_one_out": [min(left), max(left)],
    }
    return found | _heterogeneity(per_seed(study.y))


def _heterogeneity(by_seed: Array) -> dict[str, Any]:
    """tau and I2 of by_seed (prompts, seeds), from each prompt's own standard error, or why not."""
    from statsmodels.stats.meta_analysis import combine_effects

    counts = np.sum(~np.isnan(by_seed), axis=1)
    if len(counts) < 3 or counts.min() < 2:
        few = "fewer than three prompts" if len(counts) < 3 else "a prompt has one seed"
        return {"heterogeneity": f"not told: {few}"}
    means = mean_over(by_seed, 1)
    squares = np.nansum((by_seed - means[:, None]) ** 2, axis=1) / (counts - 1) / counts
    if not squares.min() > 0:
        return {"heterogeneity": "not told: seeds of a prompt do not differ"}
    made = combine_effects(means, squares, method_re="iterated", use_t=True)
    tau = math.sqrt(max(0.0, float(made.tau2)))
    return {
        "tau": tau,
        "tau_over_mean": tau / abs(float(means.mean())) if means.mean() else None,
        "i2": float(made.i2),
        "heterogeneity": "random effects over prompts, within-prompt errors from seeds",
    }
