"""Experiment 4: the positions that RoPE applied, and what the cache held at each step."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...dataset.visibility import asked_rows
from ...words import how_many
from ..view import View
from .evidence import Evidence
from .result import Experiment, Hypothesis, Measure, Series, Verdict, count, series

__all__ = ["Found", "experiment", "look"]

TITLE = "Positions and the KV cache"
QUESTION = "Do parallel tokens really share a position, and does the cache hold all of them?"
SHARED = "Parallel tokens are at the same RoPE position, and each set is one position after the last."
STORED = "The cache stores all parallel tokens: it is as long as the prompt and all widths so far."
QUERIED = "The next token queries all cached tokens that it may see."
MOST_LINES = 12
SIMULATED = "this cube is simulated: no RoPE applied a position, and there was no cache"


@dataclass(frozen=True, slots=True)
class Found:
    """What one experiment shows: sets, those at one position, those one after the last, rows and full rows.

    cached: keys that the best token's row of each set found (0: row not captured); stored: rows where that is
    the prompt and all widths so far; full: rows with weight on every key they may see; lines list the
    parallel sets.
    """

    positioned: bool
    sets: int
    wide: int
    shared: int
    following: int
    rows: int
    stored: int
    full: int
    cached: tuple[int, ...]
    lines: tuple[str, ...]


def experiment(of: Evidence) -> Experiment:
    """Its measures, hypotheses and outcome."""
    seen = {view.name: look(view) for view in of.views()}
    found = list(seen.values())
    hypotheses = (_shared(of, found), _stored(of, found), _queried(of, found))
    return Experiment(
        "exp4",
        TITLE,
        QUESTION,
        tuple(_measures(of, found)),
        hypotheses,
        _outcome(found, hypotheses),
        tuple(_not_measured(of, found)),
        _series(seen),
        _listing(seen),
    )


def look(view: View) -> Found:
    """Positions, and the keys that rows of attention had, as they were recorded of the model's passes."""
    members = [view.of_step(step) for step in range(view.steps)]
    at = [view.logical[slots] for slots in members]
    positioned = bool((view.logical >= 0).all())
    start = int(view.logical[view.prompt_slots - 1])
    cached, full = _rows(view)
    ends = view.prompt_slots + np.cumsum(view.width)
    return Found(
        positioned,
        view.steps,
        len(view.wide_steps),
        sum(int(np.ptp(at[step]) == 0) for step in view.wide_steps) if positioned else 0,
        sum(int(each[0]) == start + 1 + step for step, each in enumerate(at)) if positioned else 0,
        int((cached > 0).sum()),
        int((cached == ends).sum()),
        full,
        tuple(cached.tolist()),
        tuple(f"Logical position {at[step][0]}: slots {members[step]}" for step in view.wide_steps),
    )


def _rows(view: View) -> tuple[npt.NDArray[np.intp], int]:
    """(step,): keys there were for the best token's row of each set; rows with weight on all they may see."""
    cached = np.zeros(view.steps, dtype=np.intp)
    if not view.has_attention:
        return cached, 0
    weights = view.attention()
    best = np.flatnonzero(asked_rows("last", view.slot_step) & (view.slot_step >= 0))
    cached[:] = np.isfinite(weights[best]).sum(axis=1)
    best = best[cached > 0]
    return cached, int(((weights[best] > 0) | ~view.visible[best]).all(axis=1).sum())


def _sum(found: list[Found], name: str) -> int:
    return sum(getattr(each, name) for each in found)


def _measures(of: Evidence, found: list[Found]) -> list[Measure]:
    sets, wide = _sum(found, "sets"), _sum(found, "wide")
    rows = [
        count(
            "sets of two or more at one position",
            _sum(found, "shared"),
            wide,
            "sets",
            _source(of),
        ),
        count("sets one position after the last", _sum(found, "following"), sets, "sets"),
        count(
            "rows whose keys are the prompt and all widths so far",
            _sum(found, "stored"),
            _sum(found, "rows"),
            "rows",
        ),
        count("rows with weight on every key they may see", _sum(found, "full"), _sum(found, "rows"), "rows"),
    ]
    told = {
        "positions": "the position that RoPE was given, against what the mode says",
        "cache": "every layer took in every token, and every row reached all keys it should",
        "distinct_keys": "siblings that are different tokens have different keys",
    }
    for name, note in told.items():
        held, tried = of.checks[name]["pass"], of.checks[name]["pass"] + of.checks[name]["fail"]
        made = "simulated: " * (of.origin == "simulated")
        rows.append(count(f"treatment check {name}", held, tried, "experiments", f"{made}{note}"))
    return rows


def _source(of: Evidence) -> str:
    """Where the positions of this cube come from."""
    if of.origin == "simulated":
        return "positions as they were simulated"
    if not of.tried("positions"):
        return "positions as the cube says them: nobody looked at what RoPE was given"
    return "positions as RoPE got them"


def _verdict(held: bool, tried: bool) -> Verdict:
    return "cannot tell" if not tried else "supported" if held else "not supported"


def _unseen(of: Evidence, check: str) -> str:
    """Why nothing can be said of what the model did; empty where its check was made while it ran."""
    if of.origin == "simulated":
        return SIMULATED
    where = f"{of.imported}: " if of.imported else ""
    return "" if of.tried(check) else f"{where}the check {check!r} was made of no experiment"


def _shared(of: Evidence, found: list[Found]) -> Hypothesis:
    if not all(each.positioned for each in found):
        return Hypothesis(
            SHARED, "cannot tell", "no position was recorded: this model applies none, or this cube lacks it"
        )
    wide, sets = _sum(found, "wide"), _sum(found, "sets")
    held = _sum(found, "shared") == wide and _sum(found, "following") == sets
    held &= not of.checks["positions"]["fail"]
    told = (
        f"{_sum(found, 'shared'):,} of {how_many(wide, 'parallel set')} share a position, "
        f"{_sum(found, 'following'):,} of {how_many(sets, 'set')} follow the last"
    )
    if why := _unseen(of, "positions"):
        return Hypothesis(SHARED, "cannot tell", f"{told}, but {why}")
    told += f"; the check of positions held in {of.checks['positions']['pass']} of {of.tried('positions')}"
    return Hypothesis(SHARED, _verdict(held, wide > 0), told)


def _stored(of: Evidence, found: list[Found]) -> Hypothesis:
    rows, stored, check = _sum(found, "rows"), _sum(found, "stored"), of.checks["cache"]
    told = f"so in {stored:,} of {how_many(rows, 'row')}"
    if why := _unseen(of, "cache"):
        return Hypothesis(STORED, "cannot tell", f"{told}, but {why}")
    held = stored == rows and not check["fail"]
    told += f"; the check of the cache itself held in {check['pass']} of {of.tried('cache')}"
    return Hypothesis(STORED, _verdict(held, True), f"{told} experiments")


def _queried(of: Evidence, found: list[Found]) -> Hypothesis:
    rows, full = _sum(found, "rows"), _sum(found, "full")
    if not rows:
        return Hypothesis(QUERIED, "cannot tell", "no whole row of attention is there (capture.attention)")
    told = f"{full:,} of {how_many(rows, 'row')} have weight on every such key"
    if why := _unseen(of, "cache"):
        return Hypothesis(QUERIED, "cannot tell", f"{told}, but {why}")
    held = full == rows and not of.checks["cache"]["fail"]
    return Hypothesis(QUERIED, _verdict(held, True), told)


def _outcome(found: list[Found], hypotheses: tuple[Hypothesis, ...]) -> str:
    verdicts = [each.verdict for each in hypotheses]
    wide, most = _sum(found, "wide"), max(each.wide for each in found)
    told = f"{how_many(wide, 'parallel set')} in {how_many(len(found), 'experiment')}, at most {most} in one"
    if all(verdict == "supported" for verdict in verdicts):
        return f"Positions are shared and the cache holds all tokens: {told}."
    if "not supported" in verdicts:
        return f"Positions or cache are not what they should be: {told}; see the measures."
    return f"Not all of it can be told of this cube: {told}; see the hypotheses."


def _not_measured(of: Evidence, found: list[Found]) -> list[str]:
    told = []
    if "cached_key" not in of.subjects.cube.data:
        made = "; their check was made while capturing" * bool(of.tried("cache") and of.origin == "captured")
        told.append(f"no cached keys in this cube (capture.keys_values){made}")
    if not any(each.wide for each in found):
        told.append("no set of two or more tokens: nothing shares a position")
    return told


def _series(seen: dict[str, Found]) -> tuple[Series, ...]:
    """How the cache of the first experiment grows."""
    name, first = next(iter(seen.items()))
    lengths = [float(keys) if keys else math.nan for keys in first.cached]
    return (series(f"cache length by step, {name}", "keys", "step", range(len(lengths)), lengths),)


def _listing(seen: dict[str, Found]) -> tuple[str, ...]:
    """The sets of the first experiments that have some."""
    told = {name: found.lines for name, found in seen.items() if found.lines}
    lines = [line for name, sets in told.items() for line in (name, *(f"  {each}" for each in sets))]
    if len(lines) <= MOST_LINES:
        return tuple(lines)
    kept = lines[: MOST_LINES - 1] if lines[MOST_LINES - 1] in told else lines[:MOST_LINES]
    sets = sum(map(len, told.values())) - sum(line not in told for line in kept)
    return (*kept, f"... and {how_many(sets, 'set')} more")
