"""The methods as one would write them in a paper: from the numbers, and from the route that was taken."""

import math
from typing import TYPE_CHECKING

from ...words import how_many
from ..answers import CONFIRMATORY, SESOI
from ..questions import number, ratio
from ..routes import KENWARD
from ..titles import TITLES
from .generation import made
from .parts import categories
from .provenance import ranges
from .used import Used, listed, used

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["paragraphs"]

ESTIMAND = (
    "The response was the down-weighting of parallel tokens: in rows of generated query tokens that saw both "
    "a single and a parallel key of earlier sets, log attention, averaged over {where}, was regressed on "
    "row, distance and whether the key was parallel, with each set weighted once; the coefficient of the "
    "last is the log of the attention per parallel key over that per single key at the same distance. All "
    "tokens of the prompt and the keys of the row's own set were left out."
)


def paragraphs(report: "Report") -> list[str]:
    """Design and capture, response and unit, tests, multiplicity, software."""
    of = used(report)
    told = [
        _design(report, of),
        _response(report, of),
        _tests(report),
        _multiplicity(report),
        _software(report),
    ]
    return [each for each in told if each]


def _design(report: "Report", of: Used) -> str:
    asked = report.answers.design
    told = (
        f"{how_many(asked['prompts'], 'prompt')} from {categories(asked['categories'])} were crossed with "
        f"{how_many(asked['seeds'], 'seed')} and the mode{'s' * (len(asked['modes']) != 1)} "
        f"{listed(asked['modes'])}: {asked['done']:,} of {how_many(asked['cells'], 'experiment')} were done, "
        f"and {of.count:,} of these, of {how_many(of.prompts, 'prompt')}, were used to answer."
    )
    told += "".join(f" {left[0].upper()}{left[1:]}." for left in of.left)
    told = f"{told} {made(report)}".strip()
    if report.at:
        held = ", ".join(f"{axis} = {value}" for axis, value in report.at.items())
        told += f" Swept options were held at {held}."
    if report.source.get("replay"):
        told += f" Modes followed the sets that {report.source['replay']} had chosen (replay)."
    return told


def _response(report: "Report", of: Used) -> str:
    response = report.source["response"]
    said = (
        ESTIMAND.format(where=_where(report))
        if response == "downweighting"
        else f"The response was {response}."
    )
    return f"{said} The unit of analysis was the prompt: {_averaged(report, of)} {_copies(report, of)}"


def _where(report: "Report") -> str:
    """6 layers and heads 1,4-5."""
    cube, source = report.part.cube, report.source
    told = []
    for what in ("layers", "heads"):
        chosen = list(source.get(what) or ())
        every = chosen if cube is None else list(cube.attrs.get(f"captured_{what}") or ())
        some = f"{what[:-1]}{'s' * (len(chosen) != 1)} {ranges(chosen)}"
        told.append(some if chosen != every else how_many(len(chosen), what[:-1]) if chosen else what)
    return " and ".join(told)


def _averaged(report: "Report", of: Used) -> str:
    """How experiments become one number a prompt, on the route that was taken."""
    found = report.answers.answers.get("downweighting")
    method = found.method if found else ""
    if KENWARD in method:
        return (
            "its experiments were not averaged beforehand but entered a linear mixed model with random "
            f"prompts ({method}); where prompt means are shown, a mode's seeds were averaged first and then "
            "modes, without those that are missing."
        )
    modes = f"the modes {listed(of.study.modes)}" if len(of.study.modes) > 1 else f"mode {of.study.modes[0]}"
    how = f" ({method})" if method else ""
    return f"its experiments in {modes} were averaged with equal weight, and prompts counted equally{how}."


def _copies(report: "Report", of: Used) -> str:
    """What is done about copies: seeds that are all alike are one, a copy here and there stays."""
    hashed = "path_digest" in report.part.frame.columns
    by = "a hash of the path each experiment took" if hashed else "their values alone, as no hash was told"
    if of.study.copies:
        return f"Seeds were copies of each other, by {by} or for want of any difference, and counted as one."
    distinct, done = report.answers.design["distinct_captures"], report.answers.design["done"]
    if distinct == done:
        return f"No two experiments were copies, by {by}."
    return (
        f"{distinct:,} of {done:,} experiments were distinct, by {by}; seeds would have counted as one if "
        "all of them had been copies in every prompt and mode; single copies were averaged like the rest."
    )


def _tests(report: "Report") -> str:
    found = report.answers.answers
    tested = [key for key in found if found[key].not_tested is None and key != "downweighting"]
    listed = "; ".join(f"{TITLES[key].lower()}: {found[key].method}" for key in tested)
    told = (
        f"Further questions were answered over prompts as follows. {listed[:1].upper()}{listed[1:]}."
        if tested
        else ""
    )
    modes = found.get("modes")
    bound = modes.details["tost"]["bound"] if modes and modes.not_tested is None else None
    if bound is not None:
        scale = _bound(report, bound)
        told += (
            f" Equivalence of the modes was tested by two one-sided tests at 5 % within {scale}, fixed "
            "beforehand."
        )
    if any(KENWARD in each.method for each in found.values()):
        told += (
            " Where experiments were missing, or seeds acted alike in all prompts, a linear mixed model with "
            "random "
            "prompts was fitted by REML, with Kenward-Roger degrees of freedom and every variance kept in."
        )
    untested = [key for key in found if found[key].not_tested is not None]
    if untested:
        reasons = "; ".join(f"{TITLES[key].lower()} ({found[key].not_tested})" for key in untested)
        told += f" Not tested: {reasons}."
    return told.strip()


def _bound(report: "Report", bound: float) -> str:
    if report.source["response"] != "downweighting":
        return f"+-{number(bound)}"
    chosen = "" if math.isclose(bound, SESOI) else ", a bound chosen by us"
    return f"a ratio of {ratio(math.exp(bound))} (+-{number(bound)} on the log scale{chosen})"


def _multiplicity(report: "Report") -> str:
    found = report.answers.answers
    holm = [key for key in CONFIRMATORY if key in found and "p_holm" in found[key].details]
    if not holm:
        return ""
    listed = ", ".join(TITLES[key].lower() for key in holm)
    return (
        "Tests were two-sided at 5 % unless said otherwise. p-values of the confirmatory questions "
        f"({listed}) were "
        "adjusted by Holm's method together; all other analyses were exploratory. Intervals are 95 % and not "
        "adjusted."
    )


def _software(report: "Report") -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.answers.versions.items())
    return f"Analyses were done with tempocube {report.source['tempocube']} ({versions})."
