"""How the text was made that a report is about: captured, simulated or imported; or nothing, of a table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...dataset.simulated import MODEL as SIMULATED
from ...words import how_many

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["imported", "kind", "made"]

CONTROLS = {
    "clone": "every sibling carried the token id of the best one, so that all must be treated alike",
    "repeat": "each experiment was captured twice, to see how far two captures are apart",
    "no_mask": "isolation was declared and not applied, so that the treatment checks must see it",
}


def kind(report: "Report") -> str:
    """`captured`, `simulated`, `imported`, or `table`."""
    cube = report.part.cube
    if cube is None:
        return "table"
    if cube.attrs.get("imported"):
        return "imported"
    return "simulated" if (cube.attrs.get("model") or {}).get("id") == SIMULATED else "captured"


def imported(report: "Report") -> list[str]:
    """What the files of an imported cube did not hold."""
    cube = report.part.cube
    told = {} if cube is None else cube.attrs.get("imported") or {}
    return [
        f"{each['what']} (in {how_many(each['experiments'], 'experiment')})"
        for each in told.get("missing") or []
    ]


def made(report: "Report") -> str:
    """One to three sentences; none where there is no cube."""
    cube = report.part.cube
    if cube is None:
        return ""
    of = kind(report)
    if of == "simulated":
        return (
            "These data are made up: no model was run, and attention and predictions were drawn from "
            "distributions whose truth is known."
        )
    if of == "imported":
        lacking = "; ".join(imported(report))
        where = cube.attrs["imported"]["from"]
        told = f"The experiments were imported from {where}, not captured by this program"
        return f"{told}; missing there: {lacking}." if lacking else f"{told}."
    return _captured(report, {**cube.attrs["grid"][0], **report.at})


def _captured(report: "Report", grid: Mapping[str, Any]) -> str:
    told = (
        f"Text was generated with the model {report.source.get('model')} in parallel sets, in at most "
        f"{grid.get('max_tokens')} steps. {_selection(grid)} Each step predicted from the "
        f"{grid.get('readout')} of the last set's predictions; tokens of a set shared one position."
    )
    names = ("max_slots", "prune", "ablate", "stop_at_eos")
    more = [f"{name} {_told(grid[name])}" for name in names if grid.get(name)]
    told += f" Options beside that: {'; '.join(more)}." if more else ""
    control = grid.get("control")
    return f"{told} This was a control ({control}): {CONTROLS[control]}." if control in CONTROLS else told


def _selection(grid: Mapping[str, Any]) -> str:
    """What was taken at a step: by probability or, above temperature 0, by what noise makes of it."""
    at_least, temperature = _told(grid.get("threshold")), float(grid.get("temperature") or 0)
    rest = f"(at most {grid.get('max_width')}, the best one if none passed; in mode single the best one only)"
    if not temperature:
        return (
            f"At each step every token with a probability of at least {at_least} was taken {rest}, at "
            "temperature 0: without noise."
        )
    return (
        f"At each step every token was taken {rest} whose share of softmax(l + T G) was at least {at_least}, "
        f"with l the log-probabilities, T = {temperature:g} the temperature, and G Gumbel noise that seed, "
        "step and prompt determine, the same in every mode. Probabilities that are shown are those without "
        "noise, exp(l), and may be below the threshold."
    )


def _told(value: Any) -> str:
    """A value of the grid in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
