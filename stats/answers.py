"""From a tidy frame to answers: the gate first, then Q1 to Q12, Holm over the confirmatory four, a verdict.

>>> found = answer(frame, response="downweighting")
>>> found.answers["downweighting"].sentence
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from statsmodels.stats.multitest import multipletests

from ..errors import BadInput
from . import questions_design as design
from . import questions_maps as mapped
from . import questions_modes as contrasts
from . import questions_prompts as prompts
from . import questions_size as sizes
from .controls import shown
from .copies import captures
from .effects import ALPHA
from .fitting import judge_fit
from .gate import ANSWERS, Check, Gate, judge
from .questions import Answer, plain, probability, untested
from .routes import Route, route
from .scenario import Scenario, verdict
from .study import LOGS, MOST_LOG, Study, must_have, read

__all__ = ["Answers", "answer"]

SESOI = math.log(1.1)
CONFIRMATORY = ("downweighting", "category", "modes", "cross_parallel")
PACKAGES = ("numpy", "scipy", "pandas", "statsmodels", "pingouin", "xarray")
PERFECT_P, PERFECT_D, PERFECT_F, PERFECT_R = 1e-30, 10.0, 1e8, 1 - 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """All that is said of a frame.

    control: what a control cube shows, {control, sentence, seen, numbers}; None of data.
    """

    design: Mapping[str, Any]
    gate: tuple[Check, ...]
    answers: Mapping[str, Answer]
    scenario: Scenario
    control: Mapping[str, Any] | None
    warnings: tuple[str, ...]
    versions: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether no check of the gate failed."""
        return all(check.status != "fail" for check in self.gate)

    def to_dict(self) -> dict[str, Any]:
        """The shape of report.json, plain values only."""
        told: dict[str, Any] = plain(
            {
                "schema": 1,
                "design": self.design,
                "gate": [asdict(check) for check in self.gate],
                "answers": {key: found.to_dict() for key, found in self.answers.items()},
                "scenario": self.scenario.to_dict(),
                "control": self.control,
                "warnings": self.warnings,
                "versions": self.versions,
            }
        )
        return told

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def answer(
    frame: pd.DataFrame,
    response: str = "downweighting",
    *,
    between: pd.DataFrame | None = None,
    maps: xr.DataArray | None = None,
    sesoi: float | None = None,
    seed: int = 0,
) -> Answers:
    """Answers to Q1-Q12 from one row per experiment; what the frame lacks is not tested, with the reason.

    sesoi, the smallest difference of interest, is on the response's scale and chosen before the data; where
    the response is the log of a ratio it is log(1.1) by default, else equivalence is tested only if given.
    """
    if sesoi is not None and not (math.isfinite(sesoi) and sesoi > 0):
        raise BadInput(f"sesoi={sesoi}: the smallest difference of interest is a number above 0")
    if sesoi is not None and response in LOGS and sesoi > MOST_LOG:
        raise BadInput(f"sesoi={sesoi}: that is no log of a ratio")
    if between is not None:
        must_have(between, ("prompt", "seed"))
    raw = read(frame, response)
    sesoi = SESOI if sesoi is None and raw.logs else sesoi
    gate = judge(raw, between)
    study = gate.study
    first = _unless_withheld(gate, "seeds", lambda: design.seeds(study, seed))
    way, fitted = judge_fit(study, route(study, seeds_act=first.p is not None and first.p < ALPHA))
    found = _all(gate, way, first, between, maps, sesoi, seed)
    found, perfect = _perfect(found, gate)
    found = _holm(found)
    checks = (*gate.checks, *fitted, *perfect)
    return Answers(
        _design(raw, frame),
        checks,
        found,
        verdict(study, found, between),
        shown(raw),
        _warnings(checks, found),
        {name: version(name) for name in PACKAGES},
    )


def _warnings(checks: Iterable[Check], found: Mapping[str, Answer]) -> tuple[str, ...]:
    """What is suspect, and what an answer says against itself."""
    suspect = [check.detail for check in checks if check.status == "suspect"]
    own = [
        f"{key}: {value.details['warning']}" for key, value in found.items() if value.details.get("warning")
    ]
    return (*suspect, *own)


def _all(
    gate: Gate,
    way: Route,
    of_seeds: Answer,
    between: pd.DataFrame | None,
    maps: xr.DataArray | None,
    sesoi: float | None,
    seed: int,
) -> dict[str, Answer]:
    """Every answer, or why it is withheld; that about seeds has decided the route of the others."""
    study = gate.study
    asked: dict[str, Callable[[], Answer]] = {
        "seeds": lambda: of_seeds,
        "downweighting": lambda: prompts.downweighting(study, way, seed),
        "prompt_variance": lambda: design.prompt_variance(study, way),
        "outliers": lambda: prompts.outliers(study),
        "effect_size": lambda: sizes.effect_size(study, maps, way.crossed),
        "category": lambda: design.category(study, way, seed),
        "generalisation": lambda: prompts.generalisation(study),
        "modes": lambda: contrasts.modes(study, way, sesoi, between, seed),
        "cross_parallel": lambda: contrasts.cross_parallel(study, sesoi or SESOI),
        "logits": lambda: contrasts.logits(study, between),
        "maps": lambda: mapped.maps(study, maps, seed),
        "over_steps": lambda: prompts.over_steps(study),
    }
    return {key: _unless_withheld(gate, key, asked[key]) for key in ANSWERS}


def _unless_withheld(gate: Gate, key: str, ask: Callable[[], Answer]) -> Answer:
    if key not in gate.withheld:
        return ask()
    study = gate.study
    # Categories without a test still have means and, where prompts repeat in some, intervals.
    alone = key == "category" and "downweighting" not in gate.withheld
    means = alone and not np.isnan(study.means).any() and len(study.prompts) > 1
    told = {"means": design.category_means(study)} if means else {}
    return untested(gate.withheld[key], len(study.prompts), **told)


def _perfect(found: dict[str, Answer], gate: Gate) -> tuple[dict[str, Answer], list[Check]]:
    """Numbers too good to be true are told as such, and withheld unless the treatment was verified."""
    verified = any(check.check == "treatment" and check.status == "pass" for check in gate.checks)
    kept, checks = dict(found), []
    for key, value in found.items():
        why = _too_perfect(value)
        if why is None:
            continue
        checks.append(Check("too perfect", "suspect", f"{key}: {why}; check your pipeline"))
        if not verified:
            kept[key] = untested(f"{why}: too perfect, check your pipeline", value.n)
    return kept, checks


def _too_perfect(value: Answer) -> str | None:
    if value.not_tested:
        return None
    if value.p is not None and value.p < PERFECT_P:
        return f"p = {value.p:.0e}"
    details = value.details
    d = details.get("d_z") if "d_z" in details else value.estimate if "hedges_g" in details else None
    if d is not None and abs(d) > PERFECT_D:
        return f"d = {d:.3g}"
    if details.get("F", 0.0) > PERFECT_F:
        return f"F = {details['F']:.3g}"
    correlations = {"ICC": details.get("icc"), "r": details.get("beside", {}).get("attention_correlation")}
    for name, r in correlations.items():
        if isinstance(r, float) and abs(r) > PERFECT_R:
            return f"{name} = {r:.6f}"
    return None


def _holm(found: dict[str, Answer]) -> dict[str, Answer]:
    """p_holm over the confirmatory questions that were tested; the rest is called exploratory."""
    tested = [key for key in CONFIRMATORY if found[key].p is not None]
    adjusted = multipletests([found[key].p for key in tested], method="holm")[1] if tested else []
    holm = dict(zip(tested, map(float, adjusted), strict=True))
    told = {}
    for key, value in found.items():
        status = {"family": "confirmatory" if key in CONFIRMATORY else "exploratory"}
        own = {"p_holm": holm[key], "family_size": len(holm)} if key in holm else {}
        said = (
            _with_holm(key, value, holm[key], len(holm)) if len(holm) > 1 and key in holm else value.sentence
        )
        told[key] = replace(value, sentence=said, details={**value.details, **status, **own})
    return told


def _with_holm(key: str, value: Answer, p_holm: float, tests: int) -> str:
    """The sentence with what remains of it when all confirmatory tests are counted."""
    lost = value.p is not None and value.p < ALPHA <= p_holm
    what, of = ("the difference", " for the difference") if key == "modes" else ("it", "")
    then = f", so that with all of them {what} is not shown" if lost else ""
    holm = f"Holm over the {tests} confirmatory tests{of}: {probability(p_holm)}{then}"
    return f"{value.sentence.removesuffix('.')}; {holm}."


def _design(study: Study, frame: pd.DataFrame) -> dict[str, Any]:
    """What was run and how much of it is distinct."""
    own = study.frame
    distinct, done = captures(study)
    asked: Mapping[str, int] | None = frame.attrs.get("cells")
    modes = tuple(dict.fromkeys(own["mode"]))
    return {
        "response": study.response,
        "prompts": len(study.prompts),
        "categories": len(study.categories),
        "seeds": len(study.seeds),
        "modes": modes,
        "cells": sum(asked.values()) if asked else len(study.prompts) * len(study.seeds) * len(modes),
        "done": done,
        "distinct_captures": distinct,
    }
