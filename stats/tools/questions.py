"""The five analysis questions of seeds/002, asked of a cube: a number over prompts, an interval, a verdict.

>>> asked = ask("cube.zarr", "q2")
>>> asked.verdict, asked.reason, asked.estimate, asked.ci
>>> ask("cube.zarr", "q4", at={"prune": "0.02"})     # the first value of each swept axis where none is said
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from ...dataset.grid import SWEPT
from ...errors import BadInput
from ..subjects import Subjects, is_meant
from ..view import View, views
from . import of_selection, of_siblings
from .asked import Asked, Row, origin, untestable

__all__ = ["QUESTIONS", "Asked", "ask", "ask_all"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Question:
    """What is taken from each experiment, and how an answer comes of that; across: an axis it is about."""

    text: str
    of: Callable[[View], Row]
    answer: Callable[[Sequence[Row]], Asked]
    attention: bool
    across: str = ""


_ASKED = {
    "q1": _Question(of_siblings.Q1, of_siblings.positions, of_siblings.shared, False),
    "q2": _Question(of_siblings.Q2, of_siblings.isolation_of, of_siblings.isolated, True),
    "q3": _Question(of_siblings.Q3, of_siblings.context, of_siblings.attended, True),
    "q4": _Question(of_selection.Q4, of_selection.prunings, of_selection.why_pruned, False),
    "q5": _Question(of_selection.Q5, of_selection.curve_of, of_selection.dynamic, False, "threshold"),
}
QUESTIONS = {name: of.text for name, of in _ASKED.items()}


def ask(cube: Any, question: str, at: Mapping[str, Any] | None = None) -> Asked:
    """One question, of all experiments at a value of each swept axis: the one said, else the first."""
    return ask_all(cube, [question], at=at)[0]


def ask_all(
    cube: Any,
    questions: Iterable[str] = tuple(QUESTIONS),
    progress: Progress | None = None,
    at: Mapping[str, Any] | None = None,
) -> tuple[Asked, ...]:
    """Several questions, in one pass over the experiments."""
    names = [_known(name) for name in questions]
    subjects = cube if isinstance(cube, Subjects) else Subjects(cube)
    chosen = _chosen(subjects, at or {})
    places = {name: _place(name, chosen, at or {}) for name in names}
    told = [name for name in names if subjects.attention or not _ASKED[name].attention]
    part = _part(subjects, [places[name] for name in told])
    rows: dict[str, list[Row]] = {name: [] for name in told}
    for done, view in enumerate(views(part), 1):
        for name in told:
            if _is_at(view.place, places[name]):
                rows[name].append(_ASKED[name].of(view))
        if progress:
            progress(done, len(part.indices))
    notes = _notes(subjects)
    several = [axis for axis in chosen if len(subjects.part[axis]) > 1]
    return tuple(
        replace(
            found := _answer(name, rows.get(name)),
            reason=found.reason + _elsewhere(subjects, found, places[name], several) + notes,
            at={axis: places[name][axis] for axis in several if axis in places[name]},
        )
        for name in names
    )


def _answer(name: str, rows: Sequence[Row] | None) -> Asked:
    if rows is None:
        return untestable(name, QUESTIONS[name], of_siblings.NO_ATTENTION)
    if not rows:
        return untestable(name, QUESTIONS[name], "no experiment is done at this value")
    return _ASKED[name].answer(rows)


def _elsewhere(subjects: Subjects, of: Asked, place: Mapping[str, Any], several: Sequence[str]) -> str:
    """Where else one could ask what cannot be told here."""
    if of.verdict != "not testable":
        return ""
    found = ""
    for axis in (axis for axis in several if axis in place):
        labels = [subjects.dims[axis][i] for i in subjects.part[axis]]
        others = ", ".join(str(label) for label in labels if label != place[axis])
        found += f"; at {axis}={place[axis]}, there are also {others}"
    return found


def _notes(subjects: Subjects) -> str:
    """What belongs to every verdict on a cube that is not a capture of data."""
    control, made = subjects.cube.attrs["control"], origin(subjects.cube)
    told = f"; this cube is the control {control}, not data" if control else ""
    return told + (f"; this cube is {made}" if made else "")


def _chosen(subjects: Subjects, at: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each swept axis: as asked for, else the first of those that were selected."""
    axes = {
        axis: [labels[i] for i in subjects.part[axis]]
        for axis, labels in subjects.dims.items()
        if axis in SWEPT
    }
    if odd := [axis for axis in at if axis not in axes]:
        there = f"its axes are {', '.join(axes)}" if axes else "it has no swept axis"
        raise BadInput(f"{subjects.cube.place}: {odd[0]!r} is not swept; {there}")
    return {
        axis: _meant(axis, labels, at[axis]) if axis in at else labels[0] for axis, labels in axes.items()
    }


def _meant(axis: str, labels: Sequence[Any], asked: Any) -> Any:
    for label in labels:
        if is_meant(label, asked):
            return label
    raise BadInput(f"{axis}={asked}: no such value; {axis} has {', '.join(map(str, labels))}")


def _place(name: str, chosen: Mapping[str, Any], at: Mapping[str, Any]) -> dict[str, Any]:
    """Where a question is answered: at all values of the axis that it is about, unless one is said."""
    return {axis: value for axis, value in chosen.items() if axis in at or axis != _ASKED[name].across}


def _part(subjects: Subjects, places: Sequence[Mapping[str, Any]]) -> Subjects:
    """The experiments that any question is about, so that others are not read."""
    found = copy(subjects)
    found.indices = [
        index for index in subjects.indices if any(_is_at(subjects.named(index), place) for place in places)
    ]
    return found


def _is_at(here: Mapping[str, Any], place: Mapping[str, Any]) -> bool:
    return all(here[axis] == value for axis, value in place.items())


def _known(name: str) -> str:
    if name.lower() not in _ASKED:
        raise BadInput(f"{name}: no such question; there are {', '.join(_ASKED)}")
    return name.lower()
