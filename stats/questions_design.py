"""Questions about the design: variance between prompts (Q2), categories (Q5), seeds (Q6)."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from . import closed, effects, resampling
from .fitting import ZERO
from .questions import Answer, between, number, percent, probability, ratio, untested
from .routes import KENWARD, Route, model, variances
from .study import Study, mean_over, per_seed

__all__ = ["category", "category_means", "prompt_variance", "seeds"]

Array = npt.NDArray[np.floating[Any]]

BOOTSTRAPS = 4_000


def prompt_variance(study: Study, route: Route) -> Answer:
    """Q2: how much prompts differ, and what part of all variance that is."""
    x, n = study.means, len(study.prompts)
    if n < 2 or not x.std(ddof=1) > 0:
        return untested("all prompts have the same mean: check your pipeline", n)
    sd, low, high = (float(value) for value in closed.spread(x))
    unit = " on the log scale" if study.logs else ""
    parts = route.doubt or variances(study, route.crossed)
    own = None if isinstance(parts, str) else _own(parts)
    details: dict[str, Any] = {"components": parts, "sd_beyond_seeds": own, "icc": _icc(study)}
    return Answer(
        f"Prompt means scatter with an SD of {number(sd)}{unit} (95 % CI {between(low, high)}, {n} prompts; "
        f"the interval assumes normal prompts){_beyond(study, own)}.",
        "SD of prompt means, chi-square interval: assumes normal prompts",
        n,
        sd,
        (low, high),
        float(n - 1),
        None,
        details,
    )


def _own(parts: Mapping[str, float]) -> float:
    """The SD between prompts themselves; 0 where its variance is rounding."""
    return math.sqrt(parts["prompt"]) if parts["prompt"] > ZERO * sum(parts.values()) else 0.0


def _beyond(study: Study, own: float | None) -> str:
    """How much of the scatter of prompt means is prompts and not what they are means of."""
    _, seeds, modes = study.y.shape
    what = " and ".join(["seeds"] * (seeds > 1) + ["modes"] * (modes > 1))
    if own is None or not what:
        return ""
    if not own:
        return f"; no difference between prompts beyond what their {what} explain is seen (variance 0)"
    return f"; beyond what {what} explain prompts differ with an SD of {number(own)}"


def _icc(study: Study) -> float | str:
    """How alike seeds of a prompt are: absolute agreement of single seeds."""
    x = mean_over(study.y, 2)
    if x.shape[1] == 1:
        return "not applicable: seeds are copies" if study.copies else "not applicable: one seed"
    if np.isnan(x).any():
        return "not applicable: experiments are missing"
    return float(closed.agreement_of_raters(x))


def category(study: Study, route: Route, seed: int = 0) -> Answer:
    """Q5: whether categories differ."""
    x, codes, n = study.means, study.codes, len(study.prompts)
    if len(study.categories) < 2:
        return untested("there is one category", n)
    made = closed.groups(x, codes)
    if made.den_df < 1 or not made.sd > 0:
        return untested("prompts of a category do not differ: nothing to compare categories with", n)
    f, dfs, p = float(made.f), (float(made.num_df), float(made.den_df)), float(made.p)
    method, note = f"F-test of {n} prompt means", ""
    fit = None if study.complete else route.doubt or model(study, route.crossed, category=True)
    if isinstance(fit, str):
        note = f" ({fit})"
    elif fit is not None:
        row = fit.anova[fit.anova["term"] == "category"].iloc[0]
        f, dfs, p, method = float(row["F"]), (row["num_df"], row["den_df"]), float(row["p"]), KENWARD
    permuted = resampling.category_labels(x, codes, seed)
    details = {
        "F": f,
        "permutation": {"p": permuted.p, "arrangements": permuted.arrangements, "exact": permuted.exact},
        "means": _means(study, made),
        "pairs": _pairs(study, made),
        **_power(n, len(study.categories)),
    }
    ci = effects.f_interval(float(made.f), made.num_df, made.den_df)
    estimate = effects.f_estimate(float(made.f), made.num_df, made.den_df)
    sentence = _of_category(study.logs, f, dfs, p, details)
    return Answer(sentence, method + note, n, estimate, ci, dfs, p, details)


def category_means(study: Study) -> list[dict[str, Any]]:
    """Means of categories and, where prompts allow it, their intervals."""
    return _means(study, closed.groups(study.means, study.codes))


def _means(study: Study, made: closed.Groups) -> list[dict[str, Any]]:
    """One row a category; all intervals from the spread within categories."""
    rows = []
    for k, name in enumerate(study.categories):
        row: dict[str, Any] = {"category": name, "mean": made.means[k], "prompts": made.sizes[k]}
        if made.den_df > 0:
            reach = stats.t.ppf(0.975, made.den_df) * made.sd / math.sqrt(made.sizes[k])
            row |= {"low": made.means[k] - reach, "high": made.means[k] + reach, "df": made.den_df}
        rows.append(row)
    return rows


def _pairs(study: Study, made: closed.Groups) -> list[dict[str, Any]]:
    """Tukey's comparisons of all pairs of categories, Kramer's where they differ in size."""
    first, second = np.triu_indices(len(made.sizes), 1)
    apart = made.means[second] - made.means[first]
    se = made.sd * np.sqrt((1 / made.sizes[first] + 1 / made.sizes[second]) / 2)
    p = stats.studentized_range.sf(np.abs(apart) / se, len(made.sizes), made.den_df)
    reach = closed.range_edge(len(made.sizes), made.den_df) * se
    names = study.categories
    return [
        {
            "pair": f"{names[j]} - {names[i]}",
            "difference": apart[at],
            "low": apart[at] - reach[at],
            "high": apart[at] + reach[at],
            "p": p[at],
        }
        for at, (i, j) in enumerate(zip(first, second, strict=True))
    ]


def _power(prompts: int, categories: int) -> dict[str, Any]:
    return {
        "power": {f: effects.category_power(f, prompts, categories) for f in (0.4, 0.8)},
        "detectable": effects.category_detectable(prompts, categories),
        "prompts_per_category_for": {f: effects.prompts_per_category(f, categories) for f in (0.4, 0.8)},
    }


def _of_category(logs: bool, f: float, dfs: tuple[float, float], p: float, details: dict[str, Any]) -> str:
    test = f"F({number(dfs[0])}, {number(dfs[1])}) = {number(f)}, {probability(p)}"
    if p < effects.ALPHA:
        return f"Categories are shown to differ ({test}): {_ends(logs, details['means'])}."
    seen = ", ".join(f"{percent(power)} for f = {size}" for size, power in details["power"].items())
    return (
        f"No category effect was shown ({test}), and this design could have seen only "
        f"f >= {number(details['detectable'])} (its power is {seen})."
    )


def _ends(logs: bool, means: list[dict[str, Any]]) -> str:
    """Which category is the highest, which the lowest."""
    low, high = (chosen(means, key=lambda row: row["mean"]) for chosen in (min, max))
    told = [ratio(math.exp(row["mean"])) if logs else number(row["mean"]) for row in (high, low)]
    return f"highest in {high['category']} ({told[0]}), lowest in {low['category']} ({told[1]})"


def seeds(study: Study, seed: int = 0) -> Answer:
    """Q6: what seeds add, and whether a seed does the same in every prompt."""
    n, count = len(study.prompts), len(study.seeds)
    if study.copies:
        reason = f"selection is deterministic: seeds are copies, n is {n} not {n * count}"
        return untested(reason, n, distinct_seeds=1, seeds=count)
    if count < 2:
        return untested("there is one seed", n)
    means = per_seed(study.y)
    whole = means[~np.isnan(means).any(axis=1)]
    if len(whole) < 2:
        return untested("fewer than two prompts have all seeds", n)
    found = resampling.seed_labels(whole, seed)
    share, ci, how = _share(study, seed)
    left = whole - whole.mean(axis=1, keepdims=True) - whole.mean(axis=0) + whole.mean()
    noise = math.sqrt(float(np.sum(left**2)) / ((len(whole) - 1) * (count - 1)))
    seen = effects.seeds_detectable(noise, len(whole), count) if noise > 0 else 0.0
    verdict = "shown" if found.p < effects.ALPHA else "not shown"
    could = (
        ""
        if found.p < effects.ALPHA
        else f", and the design could have seen only an SD of {number(seen)}"
        f"{' on the log scale' if study.logs else ''} or more (power 80 %)"
    )
    within = f" (95 % CI {between(*ci)})" if ci else ""
    share_told = f"a share of {number(share)}" if math.isfinite(share) else "an unknown share"
    return Answer(
        f"Seeds are {share_told} of the variance{within}; that a seed acts alike in all "
        f"prompts is {verdict} ({probability(found.p)}, {count} seeds in {len(whole)} prompts){could}.",
        f"seed labels permuted within {len(whole)} prompts ({found.arrangements} draws); {how}",
        n,
        share,
        ci,
        None,
        found.p,
        {"label_p": found.p, "seeds": count, "prompts_with_all_seeds": len(whole), "detectable": seen},
    )


def _share(study: Study, seed: int) -> tuple[float, tuple[float, float] | None, str]:
    """The share of prompt:seed in all variance, with a parametric bootstrap where the design is complete."""
    if not study.complete:
        found = variances(study, crossed=False)
        if isinstance(found, str):
            return math.nan, None, f"share: {found}"
        key = "prompt:seed" if "prompt:seed" in found else "Residual"
        return found[key] / sum(found.values()), None, "share by REML, no interval: experiments are missing"
    made = closed.components(study.y)
    _, seeds, modes = study.y.shape
    random = np.random.default_rng([seed, 5])
    drawn = {
        name: square * random.chisquare(made.dfs[name], BOOTSTRAPS) / made.dfs[name]
        if made.dfs[name]
        else np.zeros(BOOTSTRAPS)
        for name, square in made.squares.items()
    }
    shares = _part(closed.variances(drawn, seeds, modes), modes)
    low, high = np.quantile(shares, [0.025, 0.975])
    share = float(_part(made.variances, modes))
    return share, (float(low), float(high)), f"share by ANOVA, {BOOTSTRAPS} parametric bootstraps"


def _part(found: dict[str, Array], modes: int) -> Array:
    """(...,) the share of seeds within prompts; with one mode they are all the residual there is."""
    kept = {name: np.maximum(value, 0.0) for name, value in found.items()}
    key = "prompt:seed" if modes > 1 else "Residual"
    return np.asarray(kept[key] / sum(kept.values()))
