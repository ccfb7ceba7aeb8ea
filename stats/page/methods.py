"""The methods as one would write them in a paper: from the numbers, and from the route that was taken."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...words import how_many
from ..answers import CONFIRMATORY, SESOI
from ..questions import number, ratio
from ..routes import KENWARD
from ..titles import TITLES
from .parts import categories

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["paragraphs"]

ESTIMAND = (
    "The response was the down-weighting of parallel tokens: in rows of generated query tokens that saw both "
    "a single and a parallel key of earlier sets, log attention, averaged over {where}, was regressed on "
    "row, distance and whether the key was parallel, with each set weighted once; the coefficient of the "
    "last is the log of the attention per parallel key over that per single key at the same distance. The "
    "first token of the prompt and the keys of the row's own set were left out."
)


def paragraphs(report: "Report") -> list[str]:
    """Design and capture, response and unit, tests, multiplicity, software."""
    told = [_design(report), _response(report), _tests(report), _multiplicity(report), _software(report)]
    return [each for each in told if each]


def _design(report: "Report") -> str:
    of = report.answers.design
    modes = " and ".join(of["modes"])
    told = (
        f"{how_many(of['prompts'], 'prompt')} from {categories(of['categories'])} were crossed with "
        f"{how_many(of['seeds'], 'seed')} and the "
        f"mode{'s' * (len(of['modes']) != 1)} {modes}: {of['done']:,} of "
        f"{how_many(of['cells'], 'experiment')} were "
        f"used, {of['distinct_captures']:,} of them distinct."
    )
    told += _generation(report)
    if report.at:
        held = ", ".join(f"{axis} = {value}" for axis, value in report.at.items())
        told += f" Swept options were held at {held}."
    if report.source.get("replay"):
        told += f" Modes followed the sets that {report.source['replay']} had chosen (replay)."
    return told


def _generation(report: "Report") -> str:
    """How text was made; nothing is known of it where there is no cube."""
    grid = _grid(report)
    if not grid:
        return ""
    told = (
        f" Text was generated with the model {report.source.get('model')} in parallel sets: at each of at "
        "most "
        f"{grid.get('max_tokens')} steps every token with a probability of at least "
        f"{_told(grid.get('threshold'))} was taken "
        f"(at most {grid.get('max_width')}), at temperature {grid.get('temperature')}, from the "
        f"{grid.get('readout')} of the "
        "last set's predictions; tokens of a set shared one position."
    )
    more = [
        f"{name} {_told(grid[name])}"
        for name in ("max_slots", "prune", "ablate", "stop_at_eos")
        if grid.get(name)
    ]
    return f"{told} Options beside that: {'; '.join(more)}." if more else told


def _told(value: Any) -> str:
    """A value of the grid in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _grid(report: "Report") -> Mapping[str, Any]:
    """The first grid with the swept options where they were held."""
    cube = report.part.cube
    grids = [] if cube is None else cube.attrs.get("grid") or []
    return {**grids[0], **report.at} if grids else {}


def _response(report: "Report") -> str:
    response, attrs = report.source["response"], report.part.frame.attrs
    heads = attrs.get("heads")
    where = f"{len(attrs['layers'])} layers and {len(heads)} heads" if heads else "layers and heads"
    said = ESTIMAND.format(where=where) if response == "downweighting" else f"The response was {response}."
    found = report.answers.answers.get("downweighting")
    how = f" ({found.method})" if found and found.method else ""
    return (
        f"{said} The unit of analysis was the prompt: experiments of a prompt were averaged with equal "
        "weight of its "
        f"seeds and modes, and prompts counted equally{how}. Copies, found by a hash of what each experiment "
        "was, "
        "counted once."
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
