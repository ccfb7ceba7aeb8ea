"""What seeds/003 and the study after it say of isolation and of parallel tokens, against what cubes say."""

import math

import numpy as np

from ...words import how_many
from ..questions import number, ratio
from .claim import Claim, Word
from .cubes import FINDING, OTHER_MODEL, Cubes
from .evidence import Evidence

__all__ = [
    "control",
    "default_mode",
    "identical",
    "no_effect",
    "no_need",
    "no_siblings",
    "ratio_formula",
    "same_logits",
    "scenario",
    "weaker",
]

PAIR = "give a cube with isolated and visible mode"
NEAR, FAR = math.log(1.1), 0.9  # the regression finds no effect; the formula finds one


def identical(cubes: Cubes) -> Claim:
    """Finding 1."""
    names = ("mean absolute difference", "largest absolute difference", "correlation of the two patterns")
    held = [of for of in cubes.forced or cubes.pairs if not of.without_treatment()]
    same = [
        bool(of.between["identical"].all())
        for of in held
        if of.between is not None and np.isfinite(of.between["attention_difference"]).any()
    ]
    verdict: Word = "cannot tell" if not same else "confirmed" if all(same) else "refuted"
    return Claim(
        FINDING.format(1),
        "Isolated and visible mode give the same attention, bit for bit: difference 0, correlation 1.",
        verdict,
        cubes.rows(tuple(held), "exp1", names, f"{PAIR} whose treatment checks were made"),
        "The code that made it never passed the mask to the model, so one computation was compared with "
        "itself. Where the mask acts, a hidden sibling has weight 0 and a visible one, by softmax, more.",
        "cube",
    )


def control(cubes: Cubes) -> Claim:
    """What their comparison was, made again on purpose."""

    def say(of: Evidence) -> str:
        pairs = of.between
        if pairs is None or not len(pairs):
            return ""
        most, least = pairs["attention_difference"].max(), pairs["attention_correlation"].min()
        same = int(pairs["identical"].sum())
        return (
            f"{same} of {how_many(len(pairs), 'pair')} of modes are identical, largest difference "
            f"{number(most)}, correlation {number(least)}, KL {number(pairs['kl'].max())} nat"
        )

    pairs = [of.between for of in cubes.unmasked if of.between is not None]
    same = bool(pairs) and all(bool(pair["identical"].all()) for pair in pairs)
    return Claim(
        f"{FINDING.format(1)}, our explanation",
        "Run without its mask, the comparison of modes gives just what was published: difference 0, "
        "correlation 1.",
        "cannot tell" if not pairs else "confirmed" if same else "refuted",
        cubes.said(cubes.unmasked, say, "give a cube captured with control: no_mask"),
        "This is our explanation of the finding, not their claim: with the treatment off, the same numbers "
        "appear.",
        "cube",
    )


def no_effect(cubes: Cubes) -> Claim:
    """What was concluded from finding 1."""
    return Claim(
        FINDING.format(1),
        "Whether parallel tokens see each other has no effect on what the model does: prior context "
        "decides all.",
        "cannot tell",
        cubes.outcome(cubes.forced or cubes.pairs, "exp2", f"{PAIR}, and logits"),
        f"{OTHER_MODEL}, and its runs had no treatment whose effect could be seen.",
    )


def same_logits(cubes: Cubes) -> Claim:
    """The evidence named for scenario A."""
    names = ("KL(isolated || visible)", "largest KL(isolated || visible)", "overlap of the top 10")
    return Claim(
        "seeds/003, scenario A",
        "The distributions of logits of both modes are identical.",
        "cannot tell",
        cubes.rows(cubes.forced or cubes.pairs, "exp2", names, f"{PAIR}, and logits"),
        "It was never measured: no code read the settings that asked for the comparison, and the same page "
        f"lists it as future work. {OTHER_MODEL}.",
    )


def no_siblings(cubes: Cubes) -> Claim:
    """The other evidence for scenario A."""
    names = (
        "cross_parallel_score: per sibling",
        "largest weight on a sibling",
        "per key one position before",
    )
    positive = [of for of in cubes.data if (of.of_mode("visible")["sibling_most"] > 0).any()]
    return Claim(
        "seeds/003, scenario A",
        "Parallel tokens give each other no attention at all, also where they may.",
        "refuted",
        cubes.rows(tuple(positive), "exp3", names, "give a cube with visible mode and sibling rows"),
        "It was not measured: one row a step was kept, the next token's, as the page itself says under "
        "limitations. A softmax gives every key that may be seen a weight above 0, in any model.",
        "argument",
    )


def scenario(cubes: Cubes) -> Claim:
    """The conclusion."""
    return Claim(
        "seeds/003, scenario analysis",
        "Scenario A holds: prior context dominates, and isolation does not matter.",
        "cannot tell",
        cubes.said(cubes.pairs, lambda of: of.report.answers.scenario.sentence, PAIR),
        "Both pieces of its evidence are missing: the logits were not compared, siblings' rows were not "
        f"captured, and the treatment was off. {OTHER_MODEL}.",
    )


def default_mode(cubes: Cubes) -> Claim:
    """Recommendation 1."""
    return Claim(
        "seeds/003, recommendation 1",
        "Isolated mode can be the default without loss, since the modes give identical results.",
        "cannot tell",
        cubes.said(cubes.pairs, lambda of: of.report.answers.scenario.recommendation, PAIR),
        "The reason given is the comparison that had no treatment.",
    )


def no_need(cubes: Cubes) -> Claim:
    """Recommendation 4."""
    return Claim(
        "seeds/003, recommendation 4",
        "There is no need to find out why the modes give the same results.",
        "refuted",
        cubes.outcome(cubes.forced or cubes.pairs, "exp1", PAIR),
        "There was: the mask had not been passed to the model.",
        "argument",
    )


def ratio_formula(cubes: Cubes) -> Claim:
    """The number that followed."""

    def say(of: Evidence) -> str:
        formula, times = _formula(of)
        return (
            f"the formula gives {number(formula)}, the regression on distance within rows {ratio(times)}, of "
            "the same attention"
        )

    # only where the truth was planted can it be seen which of the two is right
    planted = [_formula(of) for of in cubes.simulated]
    misled = [formula < FAR and abs(math.log(times)) < NEAR for formula, times in planted]
    return Claim(
        "the 40-60 % of the study after seeds/003",
        "The ratio of mean attention on parallel over other keys, 0.36 to 0.61, measures down-weighting.",
        "refuted" if any(misled) else "cannot tell",
        cubes.said(cubes.simulated or cubes.data, say, "give a simulated cube"),
        "An attention sink at the first key counts among the others and pulls the ratio down where "
        "parallel keys get as much as single ones; recency moves it too. The regression compares within a "
        "row, at one distance. Only a simulated cube can decide, in which no effect was planted.",
        "cube",
    )


def _formula(of: Evidence) -> tuple[float, float]:
    """The formula's ratio and that of the regression, means over experiments."""
    frame = of.frame
    return float(frame["legacy_ratio"].mean()), math.exp(float(frame["downweighting"].mean()))


def weaker(cubes: Cubes) -> Claim:
    """The claim about the world behind it."""

    def say(of: Evidence) -> str:
        found = of.answer("downweighting")
        return "" if found.not_tested else found.sentence

    return Claim(
        "the 40-60 % of the study after seeds/003; seeds/000",
        "Parallel tokens are attended to 40 to 60 % less than others.",
        "cannot tell",
        cubes.said(cubes.pairs, say, "give a cube with several prompts and both modes"),
        "It rests on one prompt, four steps, and the ratio above; layers, heads and positions were counted "
        "as independent. Their own later run of 13 prompts gave -12 % (+-24, p = 0.16).",
    )
