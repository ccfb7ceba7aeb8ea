"""Q1 to Q3 of seeds/002: do parallel tokens share positions, are they isolated, what do they attend to?"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ...dataset.schema import FAIL, NOT_APPLICABLE
from ...words import how_many
from ..questions import number, percent, verb
from ..view import View
from .analyzer import isolation
from .asked import Asked, Row, agreement, answered, origin, over, untestable
from .cross import kinds

__all__ = ["attended", "context", "isolated", "isolation_of", "positions", "shared"]

Q1 = "Do parallel tokens share logical positions?"
Q2 = "Are parallel tokens isolated from each other?"
Q3 = "What context do parallel tokens attend to?"

KINDS = ("sink", "prompt", "generated", "own", "siblings")
SHARES = tuple(f"to_{kind}" for kind in KINDS)
HIDING = ("isolated", "causal")
WHOLE = 0.01  # how far from 1 the shares of a row may be, by rounding of stored weights
TOP = 10
PROMPTS, WEIGHT = "share of the prompts", "share of the weight"
NO_SET = "no set has more than one token"
NO_ATTENTION = "attention was not captured"
NOT_ROWS = "the rows of all tokens of a set were not captured; capture.attention.queries: generated has them"
NAMES = {"prompt": "prompt but its first token", "sink": "first token"}  # as a sentence has the kinds


def positions(view: View) -> Row:
    """What q1 needs of an experiment."""
    prompt = view.prompt_slots
    wide = view.wide_steps
    same = [bool((view.logical[view.of_step(step)] == prompt + step).all()) for step in wide]
    sets = [(step, view.of_step(step), view.logical[view.of_step(step)].tolist()) for step in wide]
    return {
        "prompt": view.place["prompt"],
        "experiment": view.name,
        "wide": len(wide),
        "shared": float(np.mean(same)) if wide else float("nan"),
        "check": NOT_APPLICABLE if origin(view.cube) else view.checks["positions"],
        "sets": sets,
    }


def shared(rows: Sequence[Row]) -> Asked:
    """Q1: every set at one position, the one after the set before, as RoPE applied it."""
    wide = [row for row in rows if row["wide"]]
    if not wide:
        return untestable("q1", Q1, NO_SET)
    looked = [row for row in wide if row["check"] != NOT_APPLICABLE]
    spread, red = any(row["shared"] < 1 for row in wide), [row for row in wide if row["check"] == FAIL]
    told = (
        "the positions that RoPE applied were checked in "
        f"{len(looked)} of {how_many(len(wide), 'experiment')} with such sets"
    )
    found = agreement(wide if spread else looked, "shared")
    if found is None:
        return untestable("q1", Q1, f"{told}: those that the cube lists are as it was told")
    sets = how_many(sum(row["wide"] for row in wide), "set")
    reason = f"{sets} of two tokens or more; {told}"
    reason += f", and are wrong in {red[0]['experiment']}" if red else ""
    sentence = f"The tokens of each set share one logical position in {percent(found.value)} of the prompts."
    details = [
        {"experiment": row["experiment"], "step": step, "slots": slots, "logical": logical}
        for row in rows
        for step, slots, logical in row["sets"]
    ]
    return answered("q1", Q1, sentence, found, not (spread or red), reason, PROMPTS, details)


def isolation_of(view: View) -> Row:
    """What q2 needs of an experiment."""
    found = isolation(view)
    pairs, mean = found["visible_pairs"], found["visible_mean"]
    return {
        "prompt": view.place["prompt"],
        "experiment": view.name,
        "mode": view.mode,
        "rows": found["rows"],
        "captured_rows": found["captured_rows"],
        "hidden_pairs": found["hidden_pairs"],
        "hidden_weight": found["hidden_weight"],
        "zero": float("nan") if found["holds"] is None else float(found["holds"]),
        "visible_pairs": pairs,
        "visible_mean": float("nan") if mean is None else mean,
        "red": [name for name in ("isolation", "sight") if view.checks.get(name) == FAIL],
    }


def isolated(rows: Sequence[Row]) -> Asked:
    """Q2: hidden siblings get exactly 0, in every layer and head; those that may be seen get more."""
    hiding = [row for row in rows if row["mode"] in HIDING]
    found = agreement(hiding, "zero")
    seen = over([row for row in rows if row["visible_pairs"]], "visible_mean", 0, 1)
    if found is None:
        return untestable("q2", Q2, _nothing_hidden(rows, hiding))
    pairs, weight = (sum(row[name] for row in hiding) for name in ("hidden_pairs", "hidden_weight"))
    red = next((row for row in rows if row["red"]), None)
    blind = next((row for row in rows if row["visible_pairs"] and not row["visible_mean"] > 0), None)
    reason = f"the weight on {how_many(pairs, 'hidden pair')} of siblings sums to {number(weight)}"
    reason += _of_rows(rows)
    if seen:
        reason += f"; where siblings are visible a pair has {seen}"
    if red:
        reason += f"; the check {red['red'][0]} failed in {red['experiment']}"
    if blind:
        reason += f"; siblings that may be seen get nothing in {blind['experiment']}"
    good = found.value == 1 and not red and not blind
    sentence = f"Hidden siblings get a weight of exactly 0 in {percent(found.value)} of the prompts."
    keep = ("experiment", "mode", "hidden_pairs", "hidden_weight", "visible_pairs", "visible_mean")
    details = [{name: row[name] for name in keep} for row in rows]
    return answered("q2", Q2, sentence, found, good, reason, PROMPTS, details)


def _nothing_hidden(rows: Sequence[Row], hiding: Sequence[Row]) -> str:
    """Why no hidden sibling was looked at."""
    if not hiding:
        return f"no siblings are hidden in mode {', '.join(dict.fromkeys(row['mode'] for row in rows))}"
    return "no row of a parallel token was captured" if any(row["rows"] for row in hiding) else NO_SET


def _of_rows(rows: Sequence[Row]) -> str:
    """What of the sets was looked at, where it is not all."""
    looked, there = (sum(row[name] for row in rows) for name in ("captured_rows", "rows"))
    if looked == there:
        return ""
    return (
        f"; {looked} of {there} rows of parallel tokens {verb(looked, 'was', 'were')} captured and looked at"
    )


def context(view: View) -> Row:
    """What q3 needs of an experiment: where the weight of parallel tokens goes; a set counts once."""
    weights = np.nan_to_num(view.attention().astype(np.float64))
    row: Row = {"prompt": view.place["prompt"], "mode": view.mode, "labels": Counter()}
    row |= {"sets": 0, "wide": len(view.wide_steps)}
    shares, alike = [], []
    for step in view.wide_steps:
        slots, of = view.of_step(step), kinds(view, step)
        rows = weights[slots]
        if not rows.any(axis=1).all():  # rows that were not captured
            continue
        shares.append([float((rows * of[name]).sum(axis=1).mean()) for name in KINDS])
        before = rows[:, view.slot_step < step]
        alike.append(_alike(before / before.sum(axis=1, keepdims=True)))
        for slot, weight in enumerate(rows[:, : before.shape[1]].mean(axis=0)):
            row["labels"]["(first token)" if slot == 0 else view.labels[slot]] += float(weight)
    row["sets"] = len(shares)
    if not shares:
        return row
    mean = dict(zip(SHARES, np.mean(shares, axis=0).tolist(), strict=True))
    before = mean["to_sink"] + mean["to_prompt"] + mean["to_generated"]
    return row | mean | {"before": before, "alike": float(np.mean(alike))}


def attended(rows: Sequence[Row]) -> Asked:
    """Q3: the shares of a parallel token's weight, the tokens that get most, how alike siblings look."""
    found, alike = (over(rows, name, 0, 1) for name in ("before", "alike"))
    if found is None or alike is None:
        return untestable("q3", Q3, NOT_ROWS if any(row["wide"] for row in rows) else NO_SET)
    parts = {name: over(rows, f"to_{name}", 0, 1) for name in KINDS}
    total = sum(part.value for part in parts.values() if part)
    labels: Counter[str] = Counter()
    for row in rows:
        labels.update(row["labels"])
    best = labels.most_common(TOP)
    sets, wide = (sum(row[name] for row in rows) for name in ("sets", "wide"))
    told = ", ".join(f"{NAMES.get(name, name)} {percent(part.value)}" for name, part in parts.items() if part)
    sentence = (
        f"Parallel tokens put {percent(found.value)} of their weight on what came before their set ({told}); "
        f"siblings agree in {percent(alike.value)} of it."
    )
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    details = [
        {"mode": mode, "kind": name, "share": part.value, "ci": part.ci, "prompts": part.n}
        for mode in modes
        for name in KINDS
        if (part := over([row for row in rows if row["mode"] == mode], f"to_{name}", 0, 1))
    ]
    details += [{"token": label, "share": weight / sets} for label, weight in best]
    good = abs(total - 1) <= WHOLE
    reason = f"the shares of {how_many(sets, 'set')} sum to {number(total)}, so " + (
        "no weight but rounding is unaccounted for"
        if good
        else "weight is missing or doubled: verify the cube"
    )
    reason += f"; rows of {how_many(wide - sets, 'other set')} were not captured" if wide > sets else ""
    return answered("q3", Q3, sentence, found, good, reason, WEIGHT, details)


def _alike(shares: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> float:
    """The weight that two siblings have in common, over pairs; shares (sibling, key) sum to 1 in each row."""
    pairs = [(i, j) for i in range(len(shares)) for j in range(i)]
    return float(np.mean([np.minimum(shares[i], shares[j]).sum() for i, j in pairs]))
