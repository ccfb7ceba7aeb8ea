"""Which of the four expected findings the numbers speak for, and which mode to take by default.

A  prior context dominates: the same logits, no attention among siblings to speak of
B  subtle cross-attention: siblings attend to each other, the logits stay the same
C  significant interaction: siblings attend to each other, other logits, the same most probable tokens
D  fundamental difference: other logits and attention without attention among siblings, the same tokens
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from . import closed
from .effects import ALPHA
from .questions import Answer, between, number, plain
from .questions_modes import per_prompt
from .study import Study

__all__ = ["Scenario", "verdict"]

Verdict = Literal["A", "B", "C", "D", "undetermined"]
Level = Literal["none", "some", "unclear"]
Logits = Literal["same", "different", "unclear"]

NONE = math.log(0.1)  # a sibling gets less than a tenth of what a context key would
SAME_TOKENS = 9 / 11  # Jaccard of two lists of ten that differ in one token
SAME_ATTENTION = 0.99

MEANING: Mapping[Verdict, str] = {
    "A": "prior context dominates: isolation does not matter",
    "B": "subtle cross-attention: siblings attend to each other, and it does not change the logits",
    "C": "significant interaction: siblings change the logits, and the most probable tokens stay the same",
    "D": "fundamental difference: logits and attention differ, though siblings hardly attend to each other",
    "undetermined": "the numbers do not say",
}


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """The verdict, the numbers behind it, and the mode to take by default (None: there is no basis)."""

    verdict: Verdict
    sentence: str
    evidence: Mapping[str, Any]
    default_mode: str | None
    recommendation: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values only."""
        names = ("verdict", "sentence", "evidence", "default_mode", "recommendation")
        return {name: plain(getattr(self, name)) for name in names}


def verdict(study: Study, answers: Mapping[str, Answer], between_modes: pd.DataFrame | None) -> Scenario:
    """Which scenario the answers speak for; undetermined where one they need was not tested."""
    if not study.logs:
        reason = f"it is about attention, not about {study.response}"
        return Scenario(
            "undetermined", f"Undetermined: {reason}.", {}, None, f"No mode can be recommended: {reason}."
        )
    mode, why = _default(answers["modes"])
    missing = [key for key in ("cross_parallel", "logits") if answers[key].not_tested]
    if missing:
        reason = f"{missing[0]}: {answers[missing[0]].not_tested}"
        return Scenario("undetermined", f"Undetermined: {reason}.", {"missing": missing}, mode, why)
    tokens, attention = _tokens(study, between_modes), _attention(study, between_modes)
    cross, logits = _cross(answers["cross_parallel"]), _logits(answers["logits"])
    found, reason = _which(cross, logits, tokens, attention)
    evidence = {
        "cross_parallel": {"level": cross, "ratio": answers["cross_parallel"].details["ratio"]},
        "logits": {"level": logits, "kl": answers["logits"].estimate},
        "same_most_probable_tokens": tokens,
        "attention_correlation": attention,
        "bounds": {"cross": math.exp(NONE), "kl": answers["logits"].details["bound"], "jaccard": SAME_TOKENS},
    }
    said = f"{'Undetermined' if found == 'undetermined' else f'Scenario {found}'}: {reason}."
    return Scenario(found, said, evidence, mode, why)


def _cross(answer: Answer) -> Level:
    """By the whole interval, not by the point."""
    low, high = answer.ci or (-math.inf, math.inf)
    return "none" if high < NONE else "some" if low > NONE else "unclear"


def _logits(answer: Answer) -> Logits:
    bound = answer.details["bound"]
    if answer.details["upper"] < bound:
        return "same"
    return "different" if answer.details["lower"] > bound else "unclear"


def _tokens(study: Study, between_modes: pd.DataFrame | None) -> Mapping[str, Any] | None:
    """How alike the ten most probable tokens are."""
    x = np.empty(0) if between_modes is None else per_prompt(study, between_modes, "jaccard_10")
    if len(x) < 2:
        return None
    made = closed.tost(x, 1.0)
    return {
        "jaccard_10": float(x.mean()),
        "low": float(made.low),
        "same": bool(made.low >= SAME_TOKENS),
        "different": bool(made.high < SAME_TOKENS),
    }


def _attention(study: Study, between_modes: pd.DataFrame | None) -> float | None:
    x = np.empty(0) if between_modes is None else per_prompt(study, between_modes, "attention_correlation")
    return float(x.mean()) if len(x) else None


def _which(
    cross: Level, logits: Logits, tokens: Mapping[str, Any] | None, attention: float | None
) -> tuple[Verdict, str]:
    """The table of seeds/001, with `undetermined` wherever an interval straddles its bound."""
    if cross == "unclear":
        return "undetermined", "attention among siblings may be negligible or not: more prompts are needed"
    if logits == "unclear":
        return (
            "undetermined",
            "the divergence of logits may be within its bound or not: more prompts are needed",
        )
    if logits == "same":
        found: Verdict = "A" if cross == "none" else "B"
        return found, MEANING[found]
    if tokens is None:
        return "undetermined", "the most probable tokens of the modes were not compared"
    if not tokens["same"]:
        parted = "differ" if tokens["different"] else "may differ"
        return "undetermined", f"logits differ and the most probable tokens {parted}: none of A to D says so"
    if cross == "some":
        return "C", MEANING["C"]
    if attention is None or attention >= SAME_ATTENTION:
        return "undetermined", "logits differ, but neither siblings nor other attention was shown to"
    return "D", MEANING["D"]


def _default(answer: Answer) -> tuple[str | None, str]:
    """The mode to take, with effect, interval and equivalence bound: never from p > 0.05."""
    if answer.not_tested or answer.ci is None or answer.estimate is None or answer.p is None:
        return None, f"No mode can be recommended: {answer.not_tested}."
    tost = answer.details["tost"]
    numbers = (
        f"visible - isolated {number(answer.estimate)}, 95 % CI {between(*answer.ci)}, "
        f"90 % CI {between(*tost['ci90'])} against +-{number(tost['bound'])}"
    )
    if answer.details["equivalent"]:
        return "isolated", (
            f"Take isolated: the modes are equivalent within the bound ({numbers}), and in isolated mode "
            "no token depends on which siblings were taken."
        )
    if answer.details.get("p_holm", answer.p) < ALPHA:
        return "isolated", (
            f"Take isolated, and report visible beside it: the choice changes the result ({numbers}), and in "
            "isolated mode no token depends on which siblings were taken."
        )
    return "isolated", (
        f"Keep both modes, isolated first: neither a difference nor equivalence is shown ({numbers})."
    )
