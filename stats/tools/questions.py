"""The five analysis questions of seeds/002, asked of a cube: a number over prompts, an interval, a verdict.

>>> asked = ask("cube.zarr", "q2")
>>> asked.verdict, asked.reason, asked.estimate, asked.ci
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import BadInput
from ..subjects import Subjects
from ..view import View, views
from . import of_selection, of_siblings
from .asked import Asked, Row, untestable

__all__ = ["QUESTIONS", "Asked", "ask", "ask_all"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Question:
    """What is taken from each experiment, and how an answer comes of that."""

    text: str
    of: Callable[[View], Row]
    answer: Callable[[Sequence[Row]], Asked]
    attention: bool


_ASKED = {
    "q1": _Question(of_siblings.Q1, of_siblings.positions, of_siblings.shared, False),
    "q2": _Question(of_siblings.Q2, of_siblings.isolation_of, of_siblings.isolated, True),
    "q3": _Question(of_siblings.Q3, of_siblings.context, of_siblings.attended, True),
    "q4": _Question(of_selection.Q4, of_selection.prunings, of_selection.why_pruned, False),
    "q5": _Question(of_selection.Q5, of_selection.curve_of, of_selection.dynamic, False),
}
QUESTIONS = {name: of.text for name, of in _ASKED.items()}


def ask(cube: Any, question: str) -> Asked:
    """One question, of all experiments of a cube or of the part that a Dataset has selected."""
    return ask_all(cube, [question])[0]


def ask_all(
    cube: Any, questions: Iterable[str] = tuple(QUESTIONS), progress: Progress | None = None
) -> tuple[Asked, ...]:
    """Several questions, in one pass over the experiments."""
    names = [_known(name) for name in questions]
    subjects = cube if isinstance(cube, Subjects) else Subjects(cube)
    told = {name: _ASKED[name] for name in names if subjects.attention or not _ASKED[name].attention}
    rows: dict[str, list[Row]] = {name: [] for name in told}
    for done, view in enumerate(views(subjects), 1):
        for name, question in told.items():
            rows[name].append(question.of(view))
        if progress:
            progress(done, len(subjects.indices))
    without = of_siblings.NO_ATTENTION
    control = subjects.cube.attrs["control"]
    answers = (
        told[name].answer(rows[name]) if name in told else untestable(name, QUESTIONS[name], without)
        for name in names
    )
    return tuple(_of_control(each, control) if control else each for each in answers)


def _of_control(of: Asked, control: str) -> Asked:
    return replace(of, reason=f"{of.reason}; this cube is the control {control}, not data")


def _known(name: str) -> str:
    if name.lower() not in _ASKED:
        raise BadInput(f"{name}: no such question; there are {', '.join(_ASKED)}")
    return name.lower()
