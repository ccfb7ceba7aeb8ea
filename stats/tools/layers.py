"""Layer by layer: the down-weighting of each, with the multiplicity of all of them counted."""

from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from ...errors import BadInput
from .. import closed
from ..measures import maps
from ..view import View
from .cross import kinds, must_have_attention

__all__ = ["by_layer", "shares"]

LEAST = 3  # prompts
OWN = ("prompt", "layer", "head", "seed", "mode")


def shares(view: View) -> pd.DataFrame:
    """One row a captured layer: where the weight of generated tokens goes; heads and sets are averaged.

    Rows that were not captured have no part in it, and a set without any is left out.
    """
    must_have_attention(view)
    rows = []
    for layer in view.layers:
        weights = view.attention(layer).astype(np.float64)
        of = [found for step in range(view.steps) if (found := _of_set(view, weights, step))]
        names = kinds(view, 0) if view.steps else ()
        means = {name: float(np.mean([each[name] for each in of])) if of else np.nan for name in names}
        rows.append({"layer": layer} | means)
    return pd.DataFrame(rows)


def _of_set(view: View, weights: Any, step: int) -> dict[str, float]:
    """Empty where no row of the set was captured."""
    rows = weights[view.of_step(step)]
    there = np.isfinite(rows).any(axis=1)
    if not there.any():
        return {}
    return {
        name: float((np.nan_to_num(rows) * mask)[there].sum(axis=1).mean())
        for name, mask in kinds(view, step).items()
    }


def by_layer(cube: Any) -> pd.DataFrame:
    """One row a layer: the down-weighting over prompts (log scale), its t interval, p, Holm's p and BH's q.

    The heads, seeds and modes of a prompt are averaged; layers that lack a value in some prompt have none.
    """
    found = maps(cube)
    if several := [dim for dim in found.dims if dim not in OWN and found.sizes[dim] > 1]:
        values = ", ".join(str(value) for value in found[several[0]].values)
        raise BadInput(f"choose one value of {several[0]}: {values}")
    means = found.mean([dim for dim in found.dims if dim not in ("prompt", "layer")], skipna=True)
    x = means.dropna("prompt", how="all").transpose("layer", "prompt")
    n = x.sizes["prompt"]
    if n < LEAST:
        raise BadInput(f"the down-weighting of layers is defined in {n} prompts, {LEAST} are needed")
    made = closed.mean(x.values)
    p = np.asarray(made.p)
    holm, q = (_adjusted(p, method) for method in ("holm", "fdr_bh"))
    return pd.DataFrame(
        {"layer": x["layer"].values, "n": n, "estimate": made.estimate, "ratio": np.exp(made.estimate)}
        | {"low": made.low, "high": made.high, "t": made.t, "p": p, "p_holm": holm, "q": q}
    )


def _adjusted(p: Any, method: str) -> Any:
    """p over the layers that have one."""
    full, there = np.full(p.shape, np.nan), np.isfinite(p)
    if there.any():
        full[there] = multipletests(p[there], method=method)[1]
    return full
