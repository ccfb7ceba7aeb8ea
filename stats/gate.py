"""What must hold before anything is tested: each check with a status and a sentence; failures withhold."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..words import how_many
from . import controls
from .copies import are_copies, captures, collapsed, spread_of_seeds
from .questions import number, percent, verb
from .study import PAIR, Study, keep, lacks, mean_over, reason_of

__all__ = ["ANSWERS", "Check", "Gate", "judge"]

Status = Literal["pass", "fail", "suspect"]
Array = npt.NDArray[np.floating[Any]]

ANSWERS = (
    *("downweighting", "prompt_variance", "outliers", "effect_size", "category", "seeds"),
    *("generalisation", "modes", "cross_parallel", "logits", "maps", "over_steps"),
)
OF_MODES = ("modes", "cross_parallel", "logits")
OF_THEMSELVES = ("logits", "maps")  # what they are made of has gaps of its own
OF_ATTENTION = ("cross_parallel", "logits", "maps", "over_steps")
OF_MASKS = ("isolation", "sight")  # treatment checks that say nothing about the rest
SAME = 1e-5  # weights this close are the same (DESIGN section 4)
NEGLIGIBLE = 1e-3  # SD between seeds over SD between prompts: below it a mixed model's errors are wrong
UNDEFINED = 0.1  # share of a prompt's experiments that may be undefined
NAMED = 5  # prompts that a sentence names
FEW_SETS, SHARE_WITH_SETS = 3, 0.3


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold."""

    check: str
    status: Status
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """The checks, the study without copies and undefined prompts, and the reasons to withhold answers."""

    checks: tuple[Check, ...]
    study: Study
    identical: bool
    withheld: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "fail" for check in self.checks)


def judge(study: Study, between: pd.DataFrame | None = None) -> Gate:
    """Every check that a frame allows; `between` compares the two modes of every prompt and seed."""
    withheld: dict[str, str] = {}
    data = _control(study, withheld)
    _response(study, withheld)
    checks = [data, *_treatment(study, withheld), _content(study, withheld)]
    study, defined = _defined(study, withheld)
    study, seeds = _seeds(study)
    study, scale = _scale(study, withheld)
    identical, modes = _modes(study, between, withheld)
    study = _one_mode(study) if identical else study
    checks += [defined, seeds, scale, modes, _completeness(study), _prompts(study, withheld)]
    return Gate(tuple(checks), study, identical, withheld)


def _withhold(withheld: dict[str, str], keys: tuple[str, ...], reason: str) -> None:
    """The first reason is the one to tell."""
    for key in keys:
        withheld.setdefault(key, reason)


def _control(study: Study, withheld: dict[str, str]) -> Check:
    control = study.frame.attrs.get("control")
    if not control:
        return Check("data", "pass", "the experiments are data, not controls")
    reason = f"this is a control cube ({control}): no answer treats it as data"
    _withhold(withheld, ANSWERS, reason)
    found = controls.shown(study) or {}
    failed = control == "no_mask" or found.get("seen") is False
    return Check("data", "fail" if failed else "suspect", reason)


def _response(study: Study, withheld: dict[str, str]) -> None:
    """What is no log of a ratio of attention has no value of no effect, and no part in the rest."""
    if not study.logs:
        _withhold(withheld, OF_ATTENTION, f"it is about attention, not about {study.response}")
        _withhold(withheld, ("effect_size",), f"the mean of {study.response} against 0 is no effect")


def _treatment(study: Study, withheld: dict[str, str]) -> list[Check]:
    """attrs["checks"]: {check: {"pass": experiments, "fail": experiments}}, as captured."""
    told = study.frame.attrs.get("checks") or {}
    if not told:
        lacking = "the frame came without treatment checks: none was verified"
        return [Check("treatment", "suspect", lacking)]
    bad = {name: int(count["fail"]) for name, count in told.items() if count.get("fail", 0)}
    for name, count in bad.items():
        reason = f"treatment check {name!r} failed in {how_many(count, 'experiment')}"
        _withhold(withheld, OF_MODES if name in OF_MASKS else ANSWERS, reason)
    held = [name for name, count in told.items() if count.get("pass", 0) and name not in bad]
    silent = len(told) - len(held) - len(bad)
    detail = f"{len(held)} of {how_many(len(told), 'check')} {verb(len(held), 'holds', 'hold')}"
    if silent:
        detail += f", {silent} {verb(silent, 'does', 'do')} not apply"
    if not held and not bad:
        detail = f"none of {how_many(len(told), 'check')} applies to any experiment: nothing was verified"
    imported = study.frame.attrs.get("imported")
    if imported:
        unseen = ", ".join(name for name in told if name not in held and name not in bad)
        detail = f"imported from {imported['from']}, where nobody looked at {unseen}"
        _withhold(withheld, OF_MODES, f"{detail}: nothing shows what the modes did")
    status: Status = "fail" if bad else "pass" if held and not imported else "suspect"
    checks = [
        Check(name, "fail", f"failed in {how_many(count, 'experiment')}") for name, count in bad.items()
    ]
    return [*checks, Check("treatment", status, detail)]


def _content(study: Study, withheld: dict[str, str]) -> Check:
    """Parallel sets must exist where down-weighting is asked about."""
    frame = study.frame[study.frame["mode"].isin(study.modes)]
    if "parallel_sets" not in frame.columns:
        return Check("parallel sets", "pass", "not told by this frame, so taken for granted")
    most = frame.groupby("prompt")["parallel_sets"].max()
    some, enough = int((most >= 1).sum()), float((most >= FEW_SETS).mean())
    if not some:
        reason = "no experiment has a parallel set (lower the threshold or raise the temperature)"
        _withhold(withheld, ANSWERS, reason)
        return Check("parallel sets", "fail", reason)
    detail = (
        f"{some} of {how_many(len(most), 'prompt')} {verb(some, 'has', 'have')} parallel sets, "
        f"{percent(enough)} at least {FEW_SETS} of them"
    )
    if enough < SHARE_WITH_SETS and study.logs:
        reason = f"too few parallel sets: {detail}; {percent(SHARE_WITH_SETS)} are needed"
        _withhold(withheld, tuple(key for key in ANSWERS if key != "logits"), reason)
        return Check("parallel sets", "fail", reason)
    return Check("parallel sets", "pass", detail)


def _defined(study: Study, withheld: dict[str, str]) -> tuple[Study, Check]:
    """Prompts in which more than a tenth of the experiments have no value are left out."""
    rows = study.frame[study.frame["mode"].isin(study.modes)]
    lacking = rows[study.response].isna().groupby(rows["prompt"]).mean()
    bad = set(lacking.index[lacking > UNDEFINED])
    good = [name for name in study.prompts if name not in bad and not _empty(study, name)]
    if not good:
        reason = _nowhere(rows, study.response)
        _withhold(withheld, tuple(key for key in ANSWERS if key not in OF_THEMSELVES), reason)
        return study, Check("defined", "fail", reason)
    gone = [name for name in study.prompts if name not in good]
    if gone:
        return keep(study, good), Check("defined", "suspect", _left_out(rows, study.response, gone))
    return study, Check("defined", "pass", f"{study.response} is defined in every prompt")


def _nowhere(rows: pd.DataFrame, response: str) -> str:
    """Undefined everywhere, or here and there in every prompt, and why."""
    why = reason_of(rows[rows[response].isna()])
    if rows[response].isna().all():
        return f"{response} is undefined in every prompt{f' ({why})' if why else ''}"
    told = f"more than {percent(UNDEFINED)} of its experiments undefined{f': {why}' if why else ''}"
    return f"{response} has too many gaps in every prompt ({told})"


def _empty(study: Study, prompt: str) -> bool:
    return bool(np.isnan(study.y[study.prompts.index(prompt)]).all())


def _left_out(rows: pd.DataFrame, response: str, gone: list[str]) -> str:
    """p5 (2 of its 10 experiments have no value: why), each for itself, and the rule once."""
    told = [f"{name} ({lacks(rows[rows['prompt'] == name], response)})" for name in gone[:NAMED]]
    more = f" and {len(gone) - NAMED} more" if len(gone) > NAMED else ""
    rule = f"prompts with more than {percent(UNDEFINED)} undefined are left out"
    return f"left out: {', '.join(told)}{more}; {rule}"


def _seeds(study: Study) -> tuple[Study, Check]:
    """Seeds that are copies are one."""
    s = len(study.seeds)
    distinct, of = captures(study)
    told = f"distinct captures: prompt x seed x mode = {distinct} of {of}"
    if s == 1:
        return study, Check("seeds", "pass", f"one seed; {told}")
    if are_copies(study):
        detail = f"selection is deterministic: seeds are copies, n is {_n(study)}; {told}"
        return collapsed(study), Check("seeds", "suspect", detail)
    return study, Check("seeds", "pass", told)


def _n(study: Study) -> str:
    """10 not 50."""
    n = len(study.prompts)
    return f"{n} not {n * len(study.seeds)}"


def _scale(study: Study, withheld: dict[str, str]) -> tuple[Study, Check]:
    """Seeds that vary next to nothing are copies to a mixed model, whose errors would be too small."""
    share = spread_of_seeds(study.y)
    if share is None:
        return study, Check("scale", "pass", "no prompt and mode has two seeds left to compare")
    if share > NEGLIGIBLE:
        detail = f"seeds vary by up to {number(share)} SD between prompts; a model is given units of the SD"
        return study, Check("scale", "pass", detail)
    reason = (
        f"seeds change {study.response} by less than {NEGLIGIBLE} SD between prompts, and count as copies"
    )
    _withhold(withheld, ("seeds",), reason)
    return collapsed(study), Check("scale", "suspect", reason)


def _modes(study: Study, between: pd.DataFrame | None, withheld: dict[str, str]) -> tuple[bool, Check]:
    """Modes that agree in spite of parallel sets: the treatment is not shown to have reached the model."""
    missing = [mode for mode in PAIR if mode not in set(study.frame["mode"])]
    if missing:
        reason = f"there is no experiment in mode {' or '.join(missing)}"
        _withhold(withheld, OF_MODES if len(missing) == 2 else ("modes", "logits"), reason)
        if "visible" in missing:
            _withhold(withheld, ("cross_parallel",), reason)
        return False, Check("modes", "suspect", reason)
    apart, pairs = _differing(study, between)
    if not pairs:
        there = between is not None and len(between) > 0
        none = "no pair of isolated and visible has a parallel set, so that nothing can differ"
        reason = none if there else "no prompt and seed has both isolated and visible"
        _withhold(withheld, ("modes", "logits"), reason)
        return False, Check("modes", "suspect", reason)
    if not apart:
        reason = (
            f"SUSPECT: isolated and visible agree to 1e-5 in all {pairs} pairs with parallel sets: "
            "the intervention is not shown to have reached the model"
        )
        _withhold(withheld, OF_MODES, reason)
        return True, Check("modes", "suspect", reason)
    told = f"isolated and visible differ in {apart} of {how_many(pairs, 'pair')}"
    if odd := _odd(study, between):
        told += f", but also in {odd} without a parallel set, which must be identical"
        return False, Check("modes", "suspect", told)
    return False, Check("modes", "pass", told)


def _one_mode(study: Study) -> Study:
    """Modes that are copies are one."""
    return replace(study, modes=study.modes[:1], y=mean_over(study.y, 2)[..., None])


def _differing(study: Study, between: pd.DataFrame | None) -> tuple[int, int]:
    """How many pairs of modes differ, of how many that can."""
    if between is not None and "identical" in between.columns:
        told, wide = _pairs(study, between)
        return int((wide & ~told["identical"].astype(bool)).sum()), int(wide.sum())
    both = study.table(study.response, PAIR)
    apart = np.abs(both[..., 1] - both[..., 0])
    apart = apart[~np.isnan(apart)]
    if not apart.size:
        return 0, 0
    return int(np.sum(apart > SAME * both[~np.isnan(both)].std())), apart.size


def _odd(study: Study, between: pd.DataFrame | None) -> int:
    """How many pairs differ that cannot: the negative control."""
    if between is None or "identical" not in between.columns:
        return 0
    told, wide = _pairs(study, between)
    return int((~wide & ~told["identical"].astype(bool)).sum())


def _pairs(study: Study, between: pd.DataFrame) -> tuple[pd.DataFrame, "pd.Series[bool]"]:
    """Pairs of the study's prompts, and whether each has a parallel set."""
    told = between[between["prompt"].astype(str).isin(study.prompts)]
    if "parallel_sets" not in study.frame.columns:
        return told, pd.Series(True, index=told.index)
    rows = study.frame[study.frame["parallel_sets"] >= 1]
    wide = set(zip(rows["prompt"], rows["seed"], strict=True))
    names = zip(told["prompt"].astype(str), told["seed"], strict=True)
    return told, pd.Series([name in wide for name in names], index=told.index, dtype=bool)


def _completeness(study: Study) -> Check:
    asked = study.y.size
    done = int(np.sum(~np.isnan(study.y)))
    if not done:
        return Check("completeness", "fail", f"none of {asked} cells has a value")
    if done == asked:
        return Check("completeness", "pass", f"all {asked} cells are there: prompt means are exact")
    gaps = asked - done
    are = verb(gaps, "is", "are")
    detail = f"{gaps} of {asked} cells {are} missing: REML with Kenward-Roger degrees of freedom"
    cells = mean_over(study.y, 1)
    lacking = [name for name, row in zip(study.prompts, cells, strict=True) if np.isnan(row).any()]
    if lacking:
        detail += f"; without a whole mode, and so not in the contrast of modes: {', '.join(lacking)}"
    return Check("completeness", "suspect", detail)


def _prompts(study: Study, withheld: dict[str, str]) -> Check:
    n = len(study.prompts)
    if n == 1:
        reason = "one prompt: nothing can be said about prompts in general"
        _withhold(withheld, ANSWERS, reason)
        return Check("prompts", "fail", reason)
    counts = np.bincount(study.codes)
    alone = [name for name, count in zip(study.categories, counts, strict=True) if count == 1]
    if n < 6 or alone:
        why = f"{n} prompts" if n < 6 else f"one prompt only in {', '.join(alone)}"
        reason = f"{why}: estimates and intervals, but no test of categories"
        _withhold(withheld, ("category",), reason)
        return Check("prompts", "suspect", reason)
    return Check(
        "prompts", "pass", f"{n} prompts in {len(counts)} categories, {counts.min()} or more in each"
    )
