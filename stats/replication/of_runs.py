"""What seeds/003 says of positions, readouts, width and its own limits, against what cubes say."""

import numpy as np
import pandas as pd

from ...words import how_many
from ..tools.compare import entropy
from .claim import Claim
from .cubes import FINDING, OTHER_MODEL, Cubes
from .evidence import Evidence
from .result import over_prompts

__all__ = [
    "confident",
    "lower",
    "mean_entropy",
    "narrow",
    "only_next",
    "physical",
    "positions",
    "quick",
    "stable",
    "stress",
    "top_tokens",
]

CUBE = "give a cube"


def positions(cubes: Cubes) -> Claim:
    """Finding 2."""
    return Claim(
        FINDING.format(2),
        "Sharing of RoPE positions was verified: 5 logical positions hold 2 to 4 tokens each.",
        "refuted",
        cubes.outcome(cubes.data, "exp4", CUBE),
        "The map was written by the recorder from the step's number, and their code passed no positions to "
        "the model: the verification was true by construction. Ours reads what RoPE was given.",
        "argument",
    )


def physical(cubes: Cubes) -> Claim:
    """The numbers of finding 2."""

    def say(of: Evidence) -> str:
        lines = [line.strip() for line in cubes.experiment(of, "exp4").listing if "slots" in line]
        return "; ".join(list(dict.fromkeys(lines))[:5])

    return Claim(
        FINDING.format(2),
        "Logical position 2 holds the tokens in slots 8 and 9.",
        "refuted",
        cubes.said(cubes.widest[::-1], say, CUBE),
        "By the listing itself steps 0 and 1 took slots 6 and 7, so the prompt took 6, and the numbers are "
        "steps, not positions: with a shared position slots 8 and 9 would be at 8.",
        "argument",
    )


def mean_entropy(cubes: Cubes) -> Claim:
    """Finding 3."""

    def say(of: Evidence) -> str:
        return f"mean entropy {over_prompts('', of.frame, 'entropy', 'nat').text}"

    return Claim(
        FINDING.format(3),
        "The mean entropy of the readouts is 2.0895 (nat), over 10 steps of one prompt.",
        "cannot tell",
        cubes.said(cubes.data, say, CUBE),
        f"{OTHER_MODEL}; its first readout came after the prompt's last token was fed twice.",
    )


def confident(cubes: Cubes) -> Claim:
    """The trend of finding 3."""

    def say(of: Evidence) -> str:
        steps = of.report.part.steps
        if steps is None:
            return ""
        slopes = [
            {"prompt": prompt, "slope": np.polyfit(own["step"], own["entropy"].astype(float), 1)[0]}
            for (prompt, *_), own in steps.groupby(["prompt", "seed", "mode"])
            if own["step"].nunique() > 1
        ]
        return (
            f"entropy changes by {over_prompts('', pd.DataFrame(slopes), 'slope', 'nat a step').text}"
            if slopes
            else ""
        )

    return Claim(
        FINDING.format(3),
        "The model becomes more confident as it goes on: entropy falls over the steps.",
        "cannot tell",
        cubes.said(cubes.data, say, CUBE),
        f"Three of ten steps of one prompt were shown, and no slope. {OTHER_MODEL}.",
    )


def top_tokens(cubes: Cubes) -> Claim:
    """The sample probabilities of finding 3."""

    def say(of: Evidence) -> str:
        tables = [entropy(view).assign(prompt=view.place["prompt"]) for view in of.views()]
        every = pd.concat(tables)
        told = []
        for step in (0, 2, 5):
            own = every[every["step"] == step]
            if len(own):
                told.append(f"step {step}: {over_prompts('', own, 'top_probability').text}")
        return "; ".join(told)

    return Claim(
        FINDING.format(3),
        "The most probable token has 9.64 % at step 0, 60.61 % at step 2 and 65.01 % at step 5.",
        "cannot tell",
        cubes.said(cubes.data, say, CUBE),
        f"{OTHER_MODEL}; these are three chosen steps of one prompt.",
    )


def stress(cubes: Cubes) -> Claim:
    """Finding 4."""

    def say(of: Evidence) -> str:
        return f"{cubes.experiment(of, 'exp5').hypotheses[0].reason}, at threshold {_threshold(of)}"

    return Claim(
        FINDING.format(4),
        "The stress test of high parallelism was passed, with sets of at most 8 tokens.",
        "refuted",
        cubes.said(cubes.widest, say, CUBE),
        "The design of experiment 5 (seeds/001) asks for 10 or more tokens a step: 8 is not reached.",
        "argument",
    )


def stable(cubes: Cubes) -> Claim:
    """Of finding 4."""
    names = (
        "treatment check finite",
        "NaN or infinite values among the readouts",
        "smallest log-probability",
    )
    return Claim(
        FINDING.format(4),
        "No numerical instability appears with many tokens at one position.",
        "cannot tell",
        cubes.rows(cubes.widest, "exp5", names, CUBE),
        f"How it was looked for is not said. {OTHER_MODEL}.",
    )


def quick(cubes: Cubes) -> Claim:
    """Of finding 4, and what seeds/001 expected."""
    names = ("seconds a token, isolated", "seconds a token, visible", "seconds a step against width")

    def say(of: Evidence) -> str:
        found = cubes.experiment(of, "exp5")
        told = {each.name: each.text for each in found.measures}
        return "; ".join(
            [*(f"{name} {told[name]}" for name in names if name in told), found.hypotheses[3].reason]
        )

    return Claim(
        "seeds/003, finding 4; seeds/001, experiment 5",
        "A run takes 1.09 s whatever the width, isolated mode is slower and takes more memory.",
        "cannot tell",
        cubes.said(cubes.pairs, say, "give a cube with isolated and visible mode"),
        f"One run was timed. {OTHER_MODEL}.",
    )


def lower(cubes: Cubes) -> Claim:
    """Recommendation 3."""

    def say(of: Evidence) -> str:
        mean, most = over_prompts("", of.frame, "width", "tokens").text, int(of.frame["widest"].max())
        return f"mean width {mean}, widest set {most}, threshold {_threshold(of)}"

    return Claim(
        "seeds/003, recommendation 3",
        "Sets of 8 work, so lower thresholds (0.01, 0.005) will as well.",
        "cannot tell",
        cubes.said(cubes.widest, say, CUBE),
        "Up to 1/threshold tokens pass, 100 and 200 a step, and nobody ran that on their model. Here a "
        "threshold is an axis of the grid, and a set that max_width cuts is counted.",
    )


def only_next(cubes: Cubes) -> Claim:
    """Limitation 1."""

    def say(of: Evidence) -> str:
        rows = int(of.frame["rows"].sum())
        which = of.subjects.cube.attrs["captured_queries"] or "not known"
        return f"rows captured: {which}; {rows:,} enter the estimate"

    return Claim(
        "seeds/003, limitation 1",
        "Attention was captured from the next token only, not from parallel tokens to each other.",
        "confirmed",
        cubes.said(cubes.data, say, CUBE),
        "Their arrays have one query a step: (28 layers, 1, 24 heads, 1 query, N keys).",
        "argument",
    )


def narrow(cubes: Cubes) -> Claim:
    """Limitations 2 to 4."""

    def say(of: Evidence) -> str:
        steps = how_many(int(of.frame["sets"].max()), "step")
        return f"{how_many(len(of.frame), 'experiment')}, threshold {_threshold(of)}, {steps}"

    return Claim(
        "seeds/003, limitations 2 to 4",
        "One model, 10 to 15 tokens and thresholds from 0.03 to 0.1 were tried.",
        "confirmed",
        cubes.said(cubes.data, say, CUBE),
        "So it is by their own configuration; and one prompt, which the page does not name as a limitation.",
        "argument",
    )


def _threshold(of: Evidence) -> str:
    told = np.unique(np.concatenate([view.threshold_used for view in of.views()]))
    told = told[np.isfinite(told)]
    if not len(told):
        return "not known"
    return f"{told[0]:g}" if len(told) == 1 else f"{told[0]:g} to {told[-1]:g}"
