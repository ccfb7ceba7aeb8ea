"""The tables behind the answer to each of the twelve questions."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..effects import ALPHA
from ..questions import Answer, ratio
from ..questions import number as said_number
from .cells import Cell, Table, chance, exact, interval, number, table, times

__all__ = ["facts", "p_of", "tables"]

Details = Mapping[str, Any]

MOST_MAPPED = 12


def facts(key: str, answer: Answer, logs: bool) -> list[tuple[str, str]]:
    """The numbers of an answer by name: estimate, interval, df, p, n."""
    if answer.not_tested is not None:
        return []
    as_ratio = logs and key in ("downweighting", "generalisation", "modes", "cross_parallel", "over_steps")
    what, unit = _estimated(key, as_ratio)
    counted = key in ("outliers", "maps")
    estimate = (times if as_ratio else exact if counted else number)(answer.estimate)
    dfs = answer.df if isinstance(answer.df, tuple | list) else (answer.df,)
    told = [
        (what, f"{estimate.text}{unit}" if estimate.text else ""),
        (
            "95 % prediction interval"
            if key == "generalisation"
            else f"95 % CI{', two-sided' * bool(p_of(key, answer))}",
            interval(answer.ci, as_ratio).text,
        ),
        ("df", ", ".join(exact(df).text for df in dfs if df is not None)),
        *_bounds(key, answer),
        (f"p ({test})" if (test := p_of(key, answer)) else "p", chance(answer.p).text),
        ("p after Holm", chance(answer.details.get("p_holm")).text),
        ("prompts", exact(answer.n).text),
    ]
    return [(name, text) for name, text in told if text]


def p_of(key: str, answer: Answer) -> str:
    """What an answer's p is for, where the test was one-sided; empty for all others."""
    if answer.p is None or "bound" not in answer.details:
        return ""
    bound = answer.details["bound"]
    if key == "logits":
        return f"one-sided, for less than {said_number(bound)} nat"
    return f"one-sided, for more than {ratio(math.exp(bound))}" if key == "cross_parallel" else ""


def _bounds(key: str, answer: Answer) -> list[tuple[str, str]]:
    """The one-sided bounds that the sentence about logits rests on."""
    if key != "logits":
        return []
    ends = (answer.details["lower"], answer.details["upper"])
    return [
        (f"95 % {side} bound, one-sided", f"{number(end).text} nat")
        for side, end in zip(("lower", "upper"), ends, strict=True)
    ]


def _estimated(key: str, as_ratio: bool) -> tuple[str, str]:
    """What the estimate is, and its unit."""
    named = {
        "prompt_variance": ("SD of prompt means", ""),
        "outliers": ("prompts flagged", ""),
        "effect_size": ("d", " SD"),
        "category": ("f", ""),
        "seeds": ("share of variance", ""),
        "logits": ("KL", " nat"),
        "maps": ("cells found (FDR 5 %)", ""),
        "over_steps": ("ratio a step", "x"),
    }
    return named.get(key, ("ratio", "x") if as_ratio else ("estimate", ""))


def tables(key: str, answer: Answer, logs: bool) -> list[Table]:
    """What stands behind an answer, if it was tested; of categories, means are there in any case."""
    if answer.not_tested is not None and not answer.details.get("means"):
        return []
    made = MAKERS[key](answer.details, times if logs else number, logs) if key in MAKERS else []
    return [each for each in made if each is not None]


Shown = Callable[[float | None], Cell]
Made = Sequence[Table | None]


def _downweighting(details: Details, shown: Shown, logs: bool) -> Made:
    of = "ratio" if logs else "mean"
    rows: list[list[Any]] = []
    for mode, found in (details.get("by_mode") or {}).items():
        rows += [_estimate_row(f"mode {mode}", found, shown, logs)] if found else []
    for name, said in (
        ("single_baseline", "over the one token in mode single"),
        ("downweighting_per_set", "a whole set over a single token"),
    ):
        if name in details:
            rows.append(_estimate_row(said, details[name], shown, logs))
    if "legacy_ratio" in details:
        said = "formula of earlier code (an attention sink alone brings it to 0.35)"
        rows.append(_estimate_row(said, details["legacy_ratio"], number, False))
    prompts = details.get("prompts") or []
    modes = [name for name in (prompts[0] if prompts else ()) if name not in ("prompt", "category", "mean")]
    by_prompt = [
        [each["prompt"], each["category"], shown(each["mean"]), *(shown(each[mode]) for mode in modes)]
        for each in prompts
    ]
    head = ("prompt", "category", of, *modes)
    return [
        table(
            "By mode, and other readings of the same experiments", ("what", of, "95 % CI", "df", "n"), rows
        ),
        table(f"Each prompt ({of}, mean over its seeds)", head, by_prompt),
    ]


def _estimate_row(said: str, found: Details, shown: Shown, logs: bool) -> list[Any]:
    ends = interval((found["low"], found["high"]), logs)
    return [said, shown(found["estimate"]), ends, exact(found["df"]), exact(found["n"])]


def _prompt_variance(details: Details, shown: Shown, logs: bool) -> Made:
    parts = details.get("components")
    if not isinstance(parts, Mapping):
        return []
    whole = sum(parts.values())
    rows = [
        [name, value, math.sqrt(max(value, 0.0)), value / whole if whole else None]
        for name, value in parts.items()
    ]
    return [table("Components of variance", ("what varies", "variance", "SD", "share"), rows)]


def _outliers(details: Details, shown: Shown, logs: bool) -> Made:
    of = "ratio" if logs else "mean"
    rows = [
        [row["prompt"], shown(row["mean"]), row["t"], chance(row["p"]), shown(row["mean_without"])]
        for row in sorted(details["prompts"], key=lambda row: -abs(row["t"]))
    ]
    head = ("prompt", of, "t", "p (Bonferroni)", f"{of} of all without it")
    return [table("Prompts, the most unlike the others first", head, rows)]


def _effect_size(details: Details, shown: Shown, logs: bool) -> Made:
    agree = details["consistency"]
    rows: list[list[Any]] = [
        ["Hedges' g", details.get("hedges_g")],
        ["prompts with the sign of the mean", agree["same_sign"]],
    ]
    rows.append(["share of prompts with that sign, 95 % CI", interval(agree["share_ci"])])
    rows.append(["lowest and highest prompt", interval(agree["range"], logs)])
    rows.append(["mean when one prompt is left out, range", interval(agree["leave_one_out"], logs)])
    if "tau" in agree:
        rows += [["tau, SD between prompts (log scale)" if logs else "tau, SD between prompts", agree["tau"]]]
        rows += [["share of variance between prompts (I2)", agree["i2"]]]
    return [table("How much prompts agree", ("what", "value"), rows)]


def _category(details: Details, shown: Shown, logs: bool) -> Made:
    of = "ratio" if logs else "mean"
    means = [
        [
            row["category"],
            exact(row["prompts"]),
            shown(row["mean"]),
            interval((row.get("low"), row.get("high")), logs),
        ]
        for row in details.get("means") or []
    ]
    pairs = [
        [row["pair"], shown(row["difference"]), interval((row["low"], row["high"]), logs), chance(row["p"])]
        for row in details.get("pairs") or []
    ]
    apart = "ratio of the two" if logs else "difference"
    return [
        table("Means of categories", ("category", "prompts", of, "95 % CI"), means),
        table("Pairs of categories (Tukey)", ("pair", apart, "95 % CI", "p"), pairs),
    ]


def _generalisation(details: Details, shown: Shown, logs: bool) -> Made:
    left = details.get("leave_one_category_out")
    if not left:
        return []
    rows = [[name, shown(value)] for name, value in left["by_category"].items()]
    head = ("category", "ratio to the mean of the others" if logs else "difference to the mean of the others")
    return [table("Each category against what all others predict", head, rows)]


def _modes(details: Details, shown: Shown, logs: bool) -> Made:
    tost, flips = details["tost"], details["sign_flip"]
    rows: list[list[Any]] = [
        [
            "sign flips",
            chance(flips["p"]),
            f"{flips['arrangements']:,} arrangements{', all' if flips['exact'] else ''}",
        ],
        ["difference in SDs of prompts (d_z)", number(details["d_z"]), ""],
    ]
    if tost["bound"] is not None:
        ends = f"90 % CI {interval(tost['ci90'], logs).text}, bound {shown(tost['bound']).text}{'x' * logs}"
        rows.insert(0, ["equivalence (TOST)", chance(tost["p"]), ends])
    claims = [
        [row["level"], row["claim"], {True: "yes", False: "no"}.get(row["holds"], "cannot tell"), row["told"]]
        for row in details["levels"]["claims"]
    ]
    return [
        table("Beside the t-test", ("what", "value", "which"), rows),
        table("How much the same the modes are", ("level", "claim", "holds", "seen"), claims),
    ]


def _cross_parallel(details: Details, shown: Shown, logs: bool) -> Made:
    rows: list[list[Any]] = [["visible, at the same place", details["ratio"], interval(details["ratio_ci"])]]
    if details.get("plain") is not None:
        rows.append(["visible, over keys at distance 1", times(details["plain"]), ""])
    if details.get("causal") is not None:
        rows.append(["causal, at the same place", details["causal"], ""])
    return [table("Attention to a sibling over that to a context key", ("which", "ratio", "95 % CI"), rows)]


SAID = {
    "cosine": "cosine of the distributions",
    "cosine_logits": "cosine of the logits",
    "cosine_logprobs": "cosine of the log-probabilities",
    "attention_difference": "largest difference of a weight",
    "attention_mean_difference": "mean difference of weights",
    "attention_correlation": "correlation of weights",
}


def _logits(details: Details, shown: Shown, logs: bool) -> Made:
    rows: list[list[Any]] = [["largest KL of a step (nat)", details["max"]]]
    for name, value in (details.get("beside") or {}).items():
        top = name.removeprefix("jaccard_")
        said = f"overlap of the {top} most probable tokens (Jaccard)" if top != name else SAID.get(name, name)
        lacking = "no attention was captured" if name.startswith("attention_") else "not measured"
        rows.append([said, lacking if value is None else number(value)])
    return [table("Isolated against visible, mean over prompts", ("measure", "value"), rows)]


def _maps(details: Details, shown: Shown, logs: bool) -> Made:
    cells = [
        (layer, head, i, j)
        for i, layer in enumerate(details["layer"])
        for j, head in enumerate(details["head"])
        if math.isfinite(details["t"][i][j])
    ]
    cells.sort(key=lambda cell: -abs(details["t"][cell[2]][cell[3]]))
    rows = [
        [
            *(exact(int(layer)), exact(int(head)), shown(details["mean"][i][j]), details["t"][i][j]),
            *(chance(details["q"][i][j]), chance(details["p_max_t"][i][j])),
        ]
        for layer, head, i, j in cells[:MOST_MAPPED]
    ]
    found = sum(details["q"][i][j] < ALPHA for _, _, i, j in cells)
    caption = f"The {len(rows)} of {len(cells)} layers x heads with the largest |t| ({found} have q < 0.05)"
    head = ("layer", "head", "ratio" if logs else "mean", "t", "q (FDR)", "p (max-T)")
    return [table(caption, head, rows)]


MAKERS: Mapping[str, Callable[[Details, Shown, bool], Made]] = {
    "downweighting": _downweighting,
    "prompt_variance": _prompt_variance,
    "outliers": _outliers,
    "effect_size": _effect_size,
    "category": _category,
    "generalisation": _generalisation,
    "modes": _modes,
    "cross_parallel": _cross_parallel,
    "logits": _logits,
    "maps": _maps,
}
