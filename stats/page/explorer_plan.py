"""Which experiments and which maps of attention the explorer embeds, so that it stays under its limit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from ...dataset.schema import INDEX
from ...errors import BadInput
from ...words import in_bytes
from ..subjects import Subjects
from ..view import View
from .explorer_data import MEAN, Map, embedded, labels, layers, pairs, record

__all__ = ["NoRoom", "Piece", "Plan", "planned", "usual"]

MOST_PROMPTS = 5  # of those nobody chose
FEW_HEADS = 4


class NoRoom(BadInput):
    """Not even one experiment fits."""


@dataclass(frozen=True, eq=False)
class Piece:
    """An experiment with its small values and the texts of its tokens, as they will be embedded.

    `anew` gives its view again: one that has read attention may hold on to it.
    """

    seen: View
    anew: Callable[[], View]
    record: dict[str, Any]
    labels: dict[str, str]

    @classmethod
    def of(cls, anew: Callable[[], View]) -> "Piece":
        """The piece of an experiment."""
        seen = anew()
        made = record(seen)
        return cls(seen, anew, made, labels(seen, made))

    @property
    def prompt(self) -> str:
        """The id of its prompt."""
        return str(self.seen.place["prompt"])

    def attention_bytes(self, maps: int, prompt_rows: bool = False) -> int:
        """How long so many maps are in base64."""
        return 4 * -(-maps * pairs(self.seen, self.first_row(prompt_rows))[0].size // 3)

    def first_row(self, prompt_rows: bool) -> int:
        """The first slot whose row of attention is embedded."""
        return 0 if prompt_rows else self.seen.prompt_slots


Group = list[Piece]  # experiments that differ in mode only


@dataclass(slots=True)
class Plan:
    """What is embedded: which experiments, which maps of attention, whether rows of prompt tokens too."""

    limit: int
    size: int
    groups: list[Group] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)
    prompt_rows: bool = False

    @property
    def pieces(self) -> list[Piece]:
        """All experiments."""
        return [piece for group in self.groups for piece in group]

    @property
    def first(self) -> View:
        """One experiment, for what all have in common."""
        return self.groups[0][0].seen

    @property
    def prompts(self) -> list[str]:
        """The ids of the prompts."""
        return list(dict.fromkeys(piece.prompt for piece in self.pieces))

    def fits(self, more: int) -> bool:
        """Whether so many bytes more stay under the limit."""
        return self.size + more <= self.limit


def usual(subjects: Subjects) -> list[str]:
    """The first prompt of each category that has a parallel set; the very first one if there is none."""
    prompts, categories = subjects.dims["prompt"], subjects.cube.labels.category
    first: dict[str, int] = {}
    for index in subjects.indices:
        if (subjects.small["width"][index] > 1).any():
            first.setdefault(categories[index[0]], index[0])
    found = list(first.values())[:MOST_PROMPTS] or [subjects.indices[0][0]]
    return [str(prompts[prompt]) for prompt in found]


def planned(subjects: Subjects, prompts: Sequence[str], limit: int, fixed: int) -> Plan:
    """First one group of every prompt, then as much of their attention as fits, then their other groups.

    `fixed` are the bytes that are there whatever is embedded.
    """
    plan = Plan(limit, fixed)
    small = {variable.name: subjects.cube.read(variable.name) for variable in INDEX}
    others = [queue for prompt in prompts if (queue := _begun(plan, _queue(subjects, small, prompt)))]
    if not plan.fits(0):
        raise NoRoom(
            f"limit_bytes: the explorer takes at least {in_bytes(plan.size)}, got {in_bytes(max(limit, 0))}"
        )
    plan.maps = _maps(plan) if plan.first.has_attention else []
    plan.size += sum(piece.attention_bytes(len(plan.maps)) for piece in plan.pieces)
    _fill(plan, others)
    _add_prompt_rows(plan)
    return plan


def _queue(subjects: Subjects, small: Mapping[str, Any], prompt: str) -> Iterator[Group]:
    """The groups of a prompt, first seed first, made when they are asked for."""
    number = [str(each) for each in subjects.dims["prompt"]].index(prompt)
    for key, modes in subjects.groups().items():
        if key[0] == number:
            experiments = map(subjects.experiment, modes.values())
            yield [Piece.of(partial(View, subjects, each, small)) for each in experiments]


def _begun(plan: Plan, queue: Iterator[Group]) -> Iterator[Group] | None:
    """Take the first group of a prompt if it fits with its mean attention, or is the very first; the rest."""
    group = next(queue)
    attention = sum(piece.attention_bytes(1) for piece in group if piece.seen.has_attention)
    mean = sum(piece.attention_bytes(1) for piece in plan.pieces if piece.seen.has_attention)
    if plan.groups and not plan.fits(_small(group) + attention + mean):
        return None
    plan.groups.append(group)
    plan.size += _small(group)
    return queue


def _fill(plan: Plan, queues: Sequence[Iterator[Group]]) -> None:
    """Further seeds and swept values, in turn from every prompt, until one does not fit."""
    for group in (group for turn in zip_longest(*queues) for group in turn if group):
        more = _small(group) + sum(piece.attention_bytes(len(plan.maps)) for piece in group)
        if not plan.fits(more):
            return
        plan.groups.append(group)
        plan.size += more


def _add_prompt_rows(plan: Plan) -> None:
    number = len(plan.maps)
    more = sum(
        piece.attention_bytes(number, prompt_rows=True) - piece.attention_bytes(number)
        for piece in plan.pieces
    )
    if number and plan.first.cube.attrs["captured_queries"] == "all" and plan.fits(more):
        plan.prompt_rows, plan.size = True, plan.size + more


def _maps(plan: Plan) -> list[Map]:
    """All layers and heads, else all layers and a few heads, else the mean and some layers, if even that."""
    seen, room = plan.first, _room(plan)
    every: list[Map] = [(layer, head) for layer in seen.layers for head in (None, *seen.heads)]
    if room > len(every):
        return [MEAN, *every]
    means = [of for of in every if of[1] is None]
    spare = room - 1 - len(means)
    if spare < 0:
        spread = np.linspace(0, len(means) - 1, max(room - 1, 0)).round().astype(int)
        return [MEAN, *(means[layer] for layer in spread)][:room]
    heads = _telling(plan.groups[0], min(FEW_HEADS, spare))
    return [MEAN, *(of for of in every if of in heads or of[1] is None)]


def _room(plan: Plan) -> int:
    """How many maps of the planned experiments fit."""
    one = sum(pairs(piece.seen, piece.first_row(False))[0].size for piece in plan.pieces)
    padding = 4 * len(plan.pieces)
    return max(0, int((plan.limit - plan.size - padding) * 3 / 4 // one)) if one else 0


def _telling(group: Group, number: int) -> set[Map]:
    """The heads in which siblings give each other most."""
    if not number:
        return set()
    seen = next((piece for piece in group if piece.seen.mode == "visible"), group[0]).anew()
    step = seen.slot_step
    siblings = (step[:, None] == step[None, :]) & (step >= 0)[:, None] & ~np.eye(seen.slots, dtype=bool)
    given: dict[Map, float] = {
        (layer, head): float(np.nansum(weight[siblings]))
        for layer, heads in layers(seen)
        for head, weight in zip(seen.heads, heads, strict=True)
    }
    return set(sorted(given, key=lambda of: -given[of])[:number])


def _small(group: Group) -> int:
    """Bytes of a group without attention; texts are counted anew, though they are embedded once."""
    names = {token: text for piece in group for token, text in piece.labels.items()}
    return sum(len(embedded(piece.record)) + 20 for piece in group) + len(embedded(names)) + 700
