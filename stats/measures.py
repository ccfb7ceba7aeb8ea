"""A cube as tidy tables: what was measured of every experiment, and between its modes.

>>> frame = experiments(cube)                  # one row an experiment: prompt, category, seed, mode, measures
>>> pairs = between(cube)                      # one row a pair of modes of the same prompt and seed
>>> maps(cube).sel(layer=8)                    # the down-weighting of every head
>>> steps(cube)                                # one row a set: for pictures, never for tests

`cube` is a path, a URL, or what `open_cube` gives, whole or a part of it. Each pair of tokens is read once
for all of them; the measures are kept beside the cube, so the next call takes a moment. For several tables of
one cube let `once(cube)` read it, and hand what that gives to the others.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..dataset.cube import Index
from ..dataset.schema import CHECKS, DIFFERENCES, DONE, FAIL, FAILED, PASS, TREATMENT_CHECKS
from ..errors import BadInput
from .findings import MASSES
from .subjects import SINGLE, Subjects
from .survey import Progress, Survey, survey

__all__ = ["between", "differences", "experiments", "maps", "once", "steps"]

EXPERIMENT = (
    *("downweighting", "downweighting_per_set", "legacy_ratio", "cross_parallel", "cross_parallel_plain"),
    *("recency", "slope", "placebo_share", "placebo_low", "placebo_high", "sibling_most"),
    "sibling_spread",
    *(f"mass_{name}" for name in MASSES),
    *("heavy_keys", "prune_correlation", "rows", "zero_weights", "reason", "cross_reason"),
)
PAIR = (
    *("same_sets", "first_difference", "compared_steps", "kl", "kl_max", "cosine", "cosine_logits"),
    *("cosine_logprobs", "jaccard_1", "jaccard_5", "jaccard_10", "jaccard_20", "attention_difference"),
    *("attention_mean_difference", "attention_correlation", "apart_most", "identical"),
)
Numbers = Sequence[int] | None


def once(
    cube: Any,
    pairs: Sequence[tuple[str, str]] = (),
    *,
    layers: Numbers = None,
    heads: Numbers = None,
    progress: Progress | None = None,
) -> Survey:
    """What all tables are made of, in one pass; every function here takes it in place of the cube."""
    if isinstance(cube, Survey):
        return cube
    return survey(Subjects(cube, layers, heads), pairs, progress)


def experiments(
    cube: Any, *, layers: Numbers = None, heads: Numbers = None, progress: Progress | None = None
) -> pd.DataFrame:
    """One row for each experiment that is done.

    downweighting is on the log scale: 0 means that a parallel key is attended to like a singleton at the
    same distance, log(0.5) half as much. It is NaN where it is not defined, and `reason` says why.
    single_baseline is the same beside the one key there in mode `single`; NaN where that was not captured.
    """
    found = once(cube, layers=layers, heads=heads, progress=progress)
    subjects, baseline = found.subjects, _baselines(found)
    rows = [
        subjects.named(index)
        | _facts(subjects, index)
        | {name: found.cells[index][name] for name in EXPERIMENT}
        | {"single_baseline": baseline.get(index, np.nan)}
        for index in subjects.indices
    ]
    return _frame(rows, subjects)


def between(
    cube: Any,
    one: str = "isolated",
    other: str = "visible",
    *,
    layers: Numbers = None,
    heads: Numbers = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """One row for each prompt, seed and axis value where both modes are done.

    Readouts are compared up to and including the first set that differs (all of them under `replay`),
    attention up to that set. KL is of `one` from `other`, in nats.
    """
    found = _pairs(cube, one, other, layers, heads, progress)
    rows = []
    for (index, _), record in found.pairs.items():
        named = found.subjects.named(index)
        del named["mode"]
        rows.append(named | {name: record[name] for name in PAIR})
    columns = [name for name in _labels(found.subjects) if name != "mode"]
    return _frame(rows, found.subjects, [*columns, *PAIR])


def differences(
    cube: Any,
    one: str = "isolated",
    other: str = "visible",
    *,
    layers: Numbers = None,
    heads: Numbers = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """The largest difference of a weight that both modes have: by_layer (..., layer), by_step (..., step)."""
    found = _pairs(cube, one, other, layers, heads, progress)
    subjects = found.subjects
    records = {index[:2] + index[3:]: record for (index, _), record in found.pairs.items()}
    dims = {dim: values for dim, values in subjects.dims.items() if dim != "mode"}
    ends = {"layer": list(subjects.layers), "step": list(range(subjects.cube.sizes["step"]))}
    made = xr.Dataset(
        {
            f"by_{end}": _array(dims, {end: there}, {i: r[f"{end}_difference"] for i, r in records.items()})
            for end, there in ends.items()
        },
        attrs=_attrs(subjects) | {"one": one, "other": other},
    )
    return made.isel({dim: subjects.part[dim] for dim in dims})


def maps(
    cube: Any, *, layers: Numbers = None, heads: Numbers = None, progress: Progress | None = None
) -> xr.DataArray:
    """The down-weighting of every head: (prompt, seed, mode, axes, layer, head); NaN where undefined."""
    found = once(cube, layers=layers, heads=heads, progress=progress)
    subjects = found.subjects
    ends = {"layer": list(subjects.layers), "head": list(subjects.heads)}
    made = _array(subjects.dims, ends, {index: record["map"] for index, record in found.cells.items()})
    category = ("prompt", list(subjects.cube.labels.category))
    made = made.assign_coords(category=category).isel(subjects.part)
    return made.assign_attrs(_attrs(subjects)).rename("downweighting")


def steps(
    cube: Any, *, layers: Numbers = None, heads: Numbers = None, progress: Progress | None = None
) -> pd.DataFrame:
    """One row for each set of each experiment: width, readout, down-weighting, where the weight goes."""
    found = once(cube, layers=layers, heads=heads, progress=progress)
    subjects, rows = found.subjects, []
    small = ("width", "capped", "entropy", "threshold_used")
    for index in subjects.indices:
        record, of = found.cells[index], {name: subjects.small[name][index] for name in small}
        measured = {"downweighting": record["step_delta"]}
        measured |= {f"mass_{name}": record[f"step_{name}"] for name in MASSES}
        for step in range(int(np.count_nonzero(of["width"]))):
            values = {name: each[step] for name, each in (of | measured).items()}
            rows.append(subjects.named(index) | {"step": step} | values)
    return _frame(rows, subjects)


def _pairs(
    cube: Any, one: str, other: str, layers: Numbers, heads: Numbers, progress: Progress | None
) -> Survey:
    """A survey whose pairs are these two modes', with mode `one` first."""
    subjects = cube.subjects if isinstance(cube, Survey) else Subjects(cube, layers, heads)
    modes = subjects.dims["mode"]
    for mode in (one, other):
        if mode not in modes:
            raise BadInput(f"{subjects.cube.place}: has no mode {mode!r}; it has {', '.join(modes)}")
    if one == other:
        raise BadInput(f"two modes are compared, both are {one!r}; the cube has {', '.join(modes)}")
    asked = modes.index(one), modes.index(other)

    def of(found: Survey) -> Survey:
        pairs = {pair: record for pair, record in found.pairs.items() if (pair[0][2], pair[1][2]) == asked}
        return Survey(subjects, found.cells, dict(sorted(pairs.items())))

    if isinstance(cube, Survey) and (known := of(cube)).pairs:
        return known
    return of(survey(subjects, [(one, other)], progress))


def _baselines(found: Survey) -> dict[Index, float]:
    """What each experiment has beside its partner in mode `single`."""
    modes = found.subjects.dims["mode"]
    return {
        one: record["single_baseline"]
        for (one, other), record in found.pairs.items()
        if modes[other[2]] == SINGLE
    }


def _facts(subjects: Subjects, index: tuple[int, ...]) -> dict[str, Any]:
    """What the cube itself says of an experiment."""
    small = {name: values[index] for name, values in subjects.small.items()}
    sets = int(np.count_nonzero(small["width"]))
    width, entropy = small["width"][:sets], small["entropy"][:sets].astype(np.float64)
    return {
        "path_digest": str(small["path_digest"]),
        "sets": sets,
        "parallel_sets": int((width >= 2).sum()),
        "width": float(width.mean()) if sets else np.nan,
        "widest": int(width.max(initial=0)),
        "capped": int(small["capped"][:sets].sum()),
        "pruned": int((small["pruned_at"] >= 0).sum()),
        "entropy": float(entropy.mean()) if sets else np.nan,
        "seconds": float(small["seconds"]),
    }


def _labels(subjects: Subjects) -> list[str]:
    return ["prompt", "category", *(dim for dim in subjects.dims if dim != "prompt")]


def _frame(rows: list[dict[str, Any]], subjects: Subjects, columns: list[str] | None = None) -> pd.DataFrame:
    made = pd.DataFrame(rows, columns=columns)
    made.attrs.update(_attrs(subjects))
    return made


def _attrs(subjects: Subjects) -> dict[str, Any]:
    """What a table says of the cube it was made from; `cells` counts those asked for, by status."""
    attrs = subjects.cube.attrs
    return {
        "url": subjects.cube.place.url,
        "control": attrs["control"],
        "imported": attrs.get("imported"),
        "digest": subjects.digest,
        "model": subjects.cube.facts.id,
        "replay": attrs["grid"][0].get("replay"),
        "cells": subjects.counts,
        "used": len(subjects.indices),
        "layers": list(subjects.layers),
        "heads": list(subjects.heads),
        "checks": _checks(subjects),
        "noise_floor": _noise_floor(subjects),
    }


def _checks(subjects: Subjects) -> dict[str, dict[str, int]]:
    """How often each treatment check passed and failed, over the experiments that were captured."""
    cube = subjects.cube
    captured = np.isin(cube.status(), (DONE, FAILED))
    results = cube.read("check_result")[captured]
    return {
        name: {"pass": int((results[:, i] == PASS).sum()), "fail": int((results[:, i] == FAIL).sum())}
        for i, name in enumerate(TREATMENT_CHECKS)
    }


def _noise_floor(subjects: Subjects) -> dict[str, float | int | None]:
    """The largest difference of a second capture (cross-check or `control: repeat`), over all done cells."""
    cube = subjects.cube
    values = cube.read("check_value")[cube.status() == DONE]
    found = {name: values[:, CHECKS.index(name)] for name in DIFFERENCES}
    cells = int(np.isfinite(list(found.values())).any(axis=0).sum())
    if not cells:
        return {}
    floor: dict[str, float | int | None] = {}
    for of in ("attention", "logprob", "kl"):
        both = np.concatenate([each for name, each in found.items() if name.endswith(f"_{of}")])
        floor[of] = float(np.nanmax(both)) if np.isfinite(both).any() else None
    return floor | {"cells": cells}


def _array(
    dims: dict[str, tuple[Any, ...]],
    ends: dict[str, list[int]],
    records: dict[tuple[int, ...], Any],
) -> xr.DataArray:
    """Arrays of cells, put where they belong; NaN elsewhere."""
    shape = [len(values) for values in (*dims.values(), *ends.values())]
    values = np.full(shape, np.nan)
    for index, record in records.items():
        values[index] = record
    coordinates = {
        dim: list(labels) for dim, labels in (dims | {k: tuple(v) for k, v in ends.items()}).items()
    }
    return xr.DataArray(values, coordinates, list(coordinates))
