"""What an ablation changes, and what TEMPO changes over standard generation: by pairs of experiments."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from ...errors import BadInput
from .. import closed
from ..measures import experiments
from ..subjects import SINGLE, Subjects
from ..view import View
from . import compare
from .stored import inside

__all__ = ["Contrasts", "ablations", "against_single", "contribution", "over_prompts"]

BASE = "none"  # the label of an experiment without ablation
SIZES = ("same_tokens", "prefix", "kl", "attention")  # never below 0: an interval, and no test
DIFFERENCES = ("to_prompt", "width", "entropy", "logprob")
BASELINE = "attention_ratio"
NOISE = 1e-12  # means closer to 0 are rounding


@dataclass(frozen=True, slots=True, eq=False)
class Contrasts:
    """pairs: one row a pair of experiments. effects: one row a measure and what was changed, over prompts.

    Intervals are cut where no value can be: below 0 of sizes, above 1 of shares, above the steps of a prefix.
    same_tokens is the share of steps with the same best token, prefix the number of them before the first
    other one. kl, in nats, and attention (mean absolute difference) are as far as the sets agree. to_prompt
    (weight that generated tokens put on the prompt), width, entropy and logprob (of the best token) are
    differences, changed - unchanged. attention_ratio, against mode single only: log of the attention that a
    parallel key gets over what the one key at its place gets there.
    """

    pairs: pd.DataFrame
    effects: pd.DataFrame


def ablations(cube: object) -> Contrasts:
    """Every value of the axis `ablate` against none, with the other coordinates the same."""
    subjects = cube if isinstance(cube, Subjects) else Subjects(cube)
    labels = subjects.dims.get("ablate", ())
    if BASE not in labels or len(labels) < 2:
        raise BadInput(
            f"{subjects.cube.place}: has no ablation beside none on an axis; such a grid has ablate: "
            "[null, [L3H5]]"
        )
    rows = [
        _named(base, one) | {"ablate": one.place["ablate"]} | _pair(base, one)
        for base, one in _pairs(subjects, "ablate", BASE)
    ]
    return _contrasts(rows, "ablate", (*SIZES, *DIFFERENCES))


def against_single(cube: object) -> Contrasts:
    """Every mode against mode `single`, standard generation from the same readouts of one token a step."""
    subjects = cube if isinstance(cube, Subjects) else Subjects(cube)
    modes = subjects.dims["mode"]
    if SINGLE not in modes or len(modes) < 2:
        raise BadInput(
            f"{subjects.cube.place}: has mode {', '.join(modes)}; standard generation is mode single beside "
            "another, as in modes: [single, visible]"
        )
    measured = _baselines(subjects)
    rows = [
        _named(base, one) | _pair(base, one) | {BASELINE: measured.get(one.name, float("nan"))}
        for base, one in _pairs(subjects, "mode", SINGLE)
    ]
    # Sets part at the first one that is parallel: readouts and weights before it are the same by design.
    return _contrasts(rows, "mode", (*SIZES[:2], BASELINE, *DIFFERENCES))


def contribution(view: View) -> pd.DataFrame:
    """One row a target of the experiment's ablation: the largest value it still put out, 0 where it is gone.

    NaN, and a reason, where the cube does not hold it.
    """
    rows = [(target, *_left(view, target)) for target in view.cube.cell(view.index).ablate]
    return pd.DataFrame(rows, columns=["target", "largest", "reason"])


def over_prompts(
    pairs: pd.DataFrame, by: str, measures: Sequence[str], untested: Sequence[str] = ()
) -> pd.DataFrame:
    """One row a measure and value of `by`: the mean over prompts, its t interval, p, and Holm's p.

    Holm counts the values of `by` within a measure; those `untested` have an interval only.
    """
    rows = []
    for measure in measures:
        found = [_mean(pairs[pairs[by] == value], measure) for value in pairs[by].unique()]
        if measure in untested:
            found = [each | {"p": float("nan")} for each in found]
        p = np.array([each["p"] for each in found])
        holm = np.full(len(p), np.nan)
        there = np.isfinite(p)
        if there.any():
            holm[there] = multipletests(p[there], method="holm")[1]
        values = zip(pairs[by].unique(), found, holm, strict=True)
        rows += [{"measure": measure, by: value, **each, "p_holm": p} for value, each, p in values]
    return pd.DataFrame(rows, columns=["measure", by, "n", "estimate", "low", "high", "p", "p_holm"])


def _contrasts(rows: list[dict[str, object]], by: str, measures: Sequence[str]) -> Contrasts:
    pairs = pd.DataFrame(rows)
    if pairs.empty:
        raise BadInput(f"no two experiments that are done differ in {by} only")
    effects = over_prompts(pairs, by, measures, untested=SIZES)
    sizes = effects["measure"].isin(SIZES)  # an interval does not reach where no value can be
    effects.loc[sizes, "low"] = effects.loc[sizes, "low"].clip(lower=0.0)
    for measure, most in {
        "same_tokens": 1.0,
        "attention": 1.0,
        "prefix": float(pairs["steps"].max()),
    }.items():
        of = effects["measure"] == measure
        effects.loc[of, "high"] = effects.loc[of, "high"].clip(upper=most)
    parts = effects["measure"] == "to_prompt"  # a difference of two shares
    effects.loc[parts, ["low", "high"]] = effects.loc[parts, ["low", "high"]].clip(-1.0, 1.0)
    return Contrasts(pairs, effects)


def _baselines(subjects: Subjects) -> dict[str, float]:
    """What `measures` has of each experiment beside its partner in mode single, by the experiment's name."""
    if subjects.attention is None:
        return {}
    frame = experiments(subjects.cube)
    dims = list(subjects.dims)
    names = (" ".join(f"{dim}={row[dim]}" for dim in dims) for row in frame.to_dict("records"))
    return dict(zip(names, frame["single_baseline"].astype(float), strict=True))


def _mean(rows: pd.DataFrame, measure: str) -> dict[str, float]:
    """The t interval over prompt means; none below two prompts, and no p where no prompt varies."""
    x = rows.groupby("prompt", sort=False)[measure].mean().dropna().to_numpy(dtype=np.float64)
    nothing = dict.fromkeys(("low", "high", "p"), float("nan"))
    if x.size < 2:
        return {"n": x.size, "estimate": float(x.mean()) if x.size else float("nan"), **nothing}
    found = closed.mean(x)
    value = float(found.estimate)
    ends = {"low": float(found.low), "high": float(found.high), "p": float(found.p)}
    return {"n": x.size, "estimate": value if abs(value) > NOISE else 0.0, **ends}


def _pairs(subjects: Subjects, dim: str, base: str) -> Iterator[tuple[View, View]]:
    """An experiment at the base of a dim, and each that differs from it in that dim only."""
    at = list(subjects.dims).index(dim)
    first = subjects.dims[dim].index(base)
    done = set(subjects.indices)
    for index in subjects.indices:
        if index[at] != first:
            continue
        unchanged = View(subjects, subjects.experiment(index))
        for i in range(len(subjects.dims[dim])):
            other = (*index[:at], i, *index[at + 1 :])
            if i != first and other in done:
                yield unchanged, View(subjects, subjects.experiment(other))


def _named(base: View, one: View) -> dict[str, object]:
    return {**base.place, "mode": one.mode}


def _pair(base: View, one: View) -> dict[str, float]:
    """What is told of two experiments; NaN where nothing of it was captured."""
    steps = min(base.steps, one.steps)
    logits = compare.logits(base, one)
    weights = compare.attention(base, one).mean if base.has_attention else float("nan")
    same = np.equal(*(_best(view)[:steps] for view in (base, one)))
    return {
        "steps": steps,
        "same_tokens": float(same.mean()) if steps else float("nan"),
        "prefix": float(np.logical_and.accumulate(same).sum()),
        "kl": float(logits["kl"].mean()),
        "attention": weights,
        "to_prompt": _to_prompt(one) - _to_prompt(base),
        "width": float(one.width.mean() - base.width.mean()),
        "entropy": float(one.entropy.mean(dtype=np.float64) - base.entropy.mean(dtype=np.float64)),
        "logprob": float(np.mean(one.top_logprob[:, 0]) - np.mean(base.top_logprob[:, 0])),
    }


def _best(view: View) -> "np.ndarray[tuple[int], np.dtype[np.integer]]":
    """(step,): the first token of each set."""
    return np.array([view.token[view.of_step(step)[0]] for step in range(view.steps)])


def _to_prompt(view: View) -> float:
    """The share of weight on prompt tokens, over captured rows of generated tokens."""
    if not view.has_attention:
        return float("nan")
    rows = view.attention()[view.slot_step >= 0].astype(np.float64)
    rows = rows[np.isfinite(rows).any(axis=1)][:, view.slot_step < 0]
    return float(np.nansum(rows, axis=1).mean()) if len(rows) else float("nan")


def _left(view: View, target: str) -> tuple[float, str]:
    """What a head or MLP still adds to the residual stream, as far as the cube can tell."""
    layer = int(target[1:].partition("H")[0].partition(".")[0])
    mlp = target.endswith(".mlp")
    held = view.cube.data.keys()
    if mlp and "mlp_down" in held and layer in (kept := inside(view, "mlp_down")).layers:
        return float(np.abs(kept.values[kept.layers.index(layer)]).max()), ""
    if not {"residual", "after_attention"} <= held:
        return float("nan"), "the residual stream was not captured"
    stream, after = inside(view, "residual").values, inside(view, "after_attention").values
    if mlp:
        return float(np.abs(stream[layer + 1] - after[layer]).max()), ""
    gone = {each for each in view.cube.cell(view.index).ablate if each.startswith(f"L{layer}H")}
    if len(gone) < view.cube.facts.heads:
        return float("nan"), "the cube has the sum of a layer's heads, and the others of this layer run"
    return float(np.abs(after[layer] - stream[layer]).max()), ""
