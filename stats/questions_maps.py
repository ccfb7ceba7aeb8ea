"""Q11: where in the model: one test per layer and head, with the multiplicity of all of them counted."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from statsmodels.stats.multitest import multipletests

from ..errors import BadInput
from ..words import how_many
from . import closed, effects, resampling
from .questions import Answer, number, untested, verb
from .study import Study, mean_over

__all__ = ["map_tests", "maps", "of_named_prompts", "of_prompts"]

Array = npt.NDArray[np.floating[Any]]

LEAST = 4
CELLS = ("layer", "head")


def maps(study: Study, given: xr.DataArray | None, seed: int = 0) -> Answer:
    """Q11: which layers and heads down-weight: BH to find some, max-T to be sure of each."""
    if given is None:
        return untested("no maps came with the frame")
    values = of_prompts(study, given)
    n = len(values)
    there = np.asarray(~np.isnan(values).any(axis=0))
    if n < LEAST or not there.any():
        few = f"{how_many(n, 'prompt')} {verb(n, 'has', 'have')} maps, {LEAST} are needed"
        return untested(few if n < LEAST else "every layer and head lacks a value in some prompt", n)
    found = map_tests(values, seed)
    q_found, sure = int(np.sum(found["q"] < effects.ALPHA)), int(np.sum(found["p_max_t"] < effects.ALPHA))
    below = int(np.sum((found["q"] < effects.ALPHA) & (found["mean"] < 0)))
    left_out = _left_out(there, given.coords["layer"].values.tolist())
    cells = int(there.sum())
    return Answer(
        f"Of {cells} layers x heads, {q_found} {verb(q_found, 'is', 'are')} found at a false discovery rate "
        f"of 5 % ({below} below 0, {q_found - below} above) and {sure} at a family-wise error of 5 % (max-T, "
        f"{n} prompts).{left_out}",
        f"t-tests over {n} prompts; Benjamini-Hochberg; max-T over sign flips "
        f"({'all' if found['exact'] else 'drawn'})",
        n,
        float(q_found),
        None,
        float(n - 1),
        None,
        {
            "layer": given.coords["layer"].values,
            "head": given.coords["head"].values,
            **found,
            "shown": sure,
            "layers": _layers(values, seed),
            "deviating": _deviating(values, seed),
            "left_out": int(there.size - cells),
        },
    )


def of_prompts(study: Study, given: xr.DataArray) -> Array:
    """(prompts, layer, head) means over seeds and modes; prompts without a map are left out."""
    return of_named_prompts(study, given)[1]


def of_named_prompts(study: Study, given: xr.DataArray) -> tuple[list[str], Array]:
    """The same with the prompts' names."""
    swept = [dim for dim in given.dims if dim not in ("prompt", "seed", "mode", *CELLS)]
    if several := [dim for dim in swept if given.sizes[dim] > 1]:
        told = f"the maps are at {given.sizes[several[0]]} values of {several[0]}"
        raise BadInput(f"{told}: choose one value of each swept axis of the maps first")
    chosen = given.isel(dict.fromkeys(swept, 0))
    names = [str(name) for name in chosen.coords["prompt"].values]
    modes = [mode for mode in study.modes if mode in chosen.coords["mode"].values]
    places = [names.index(name) for name in study.prompts if name in names]
    ordered = chosen.sel(mode=modes).isel(prompt=places).transpose("prompt", "seed", "mode", *CELLS)
    values = mean_over(mean_over(np.asarray(ordered.values, dtype=np.float64), 1), 1)
    there = ~np.isnan(values).all(axis=(1, 2))
    return [names[places[i]] for i in np.flatnonzero(there)], values[there]


def map_tests(values: Array, seed: int = 0) -> dict[str, Any]:
    """(layer, head) mean, t, p, q, p_max_t of values (prompts, layer, head); NaN where a prompt lacks it."""
    there = np.asarray(~np.isnan(values).any(axis=0))
    x = values[:, there]
    made = closed.mean(x.T)
    # A cell that no prompt varies in has no t; it must not decide about the others.
    usable = made.se > 0
    p = np.where(usable, made.p, 1.0)
    p_max, exact = resampling.max_t(x * usable, seed)
    told = {
        "mean": made.estimate,
        "t": np.where(usable, made.t, np.nan),
        "p": p,
        "q": multipletests(p, method="fdr_bh")[1],
        "p_max_t": p_max,
    }
    return {name: _placed(there, value) for name, value in told.items()} | {"exact": exact}


def _placed(there: npt.NDArray[np.bool_], values: Array) -> Array:
    full = np.full(there.shape, np.nan)
    full[there] = values
    return full


def _layers(values: Array, seed: int) -> dict[str, Any] | None:
    """Layers have an order: neighbours that lean the same way are tested together. Heads have none."""
    x = mean_over(values, 2)
    if np.isnan(x).any():
        return None
    return {
        "mean": x.mean(axis=0),
        "clusters": [asdict(found) for found in resampling.depth_clusters(x, seed)],
    }


def _deviating(values: Array, seed: int) -> dict[str, Any]:
    """Which cells deviate from their prompt's own level: its median over the map is taken off first."""
    rest = values - np.nanmedian(values, axis=(1, 2), keepdims=True)
    made = map_tests(rest, seed)
    return {
        "q": made["q"],
        "p_max_t": made["p_max_t"],
        "found": int(np.sum(made["q"] < effects.ALPHA)),
        "shown": int(np.sum(made["p_max_t"] < effects.ALPHA)),
    }


def _left_out(there: npt.NDArray[np.bool_], layers: Sequence[Any]) -> str:
    """Which layers hold NaN."""
    bad = [(layers[i], int((~row).sum())) for i, row in enumerate(there) if not row.all()]
    if not bad:
        return ""
    told = ", ".join(f"{number(float(layer))} ({how_many(count, 'head')})" for layer, count in bad)
    return f" Left out, having NaN: layer {told}."
