"""One experiment of a cube, to be looked at: its tokens, its sets, and what attends to what.

>>> seen = view("demo.zarr", prompt="p0", seed=42, mode="visible")
>>> seen.labels[-1], seen.of_step(3)                 # the last token's text, the slots of a set
>>> seen.attention(layer=1)[seen.of_step(3)]         # the set's rows, mean over heads
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from textwrap import shorten
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ..dataset.cube import Cube
from ..dataset.encoding import decode
from ..dataset.schema import CHECKS, INDEX, VOCABULARY
from ..dataset.visibility import visibility
from ..errors import BadInput
from .subjects import Experiment, Subjects, is_meant

__all__ = ["Candidate", "View", "view", "views"]

MOST_KEPT = 1 << 24  # stored weights of an experiment that a view holds on to
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that a readout offered; pruned: it was taken, and hidden later."""

    token: int
    label: str
    probability: float
    kept: bool
    pruned: bool


class View:
    """A done experiment; arrays are cut to its slots and its sets, and big ones are read when asked for.

    (slot,): token, logical, slot_step, probability, prune_score, pruned_at. (step,): width, capped,
    threshold_used, entropy, margin_kept, margin_dropped, margin_order. (step, rank): top_token, top_logprob.
    """

    token: Ints
    logical: Ints
    slot_step: Ints
    probability: Floats
    prune_score: Floats
    pruned_at: Ints
    width: Ints
    capped: npt.NDArray[np.bool_]
    threshold_used: npt.NDArray[np.float64]
    entropy: Floats
    margin_kept: npt.NDArray[np.float64]
    margin_dropped: npt.NDArray[np.float64]
    margin_order: npt.NDArray[np.float64]
    top_token: Ints
    top_logprob: Floats

    def __init__(
        self, subjects: Subjects, experiment: Experiment, small: Mapping[str, Any] | None = None
    ) -> None:
        self.cube, self.index, self.mode = subjects.cube, experiment.index, experiment.mode
        self.layers, self.heads, self.window = subjects.layers, subjects.heads, experiment.window
        self.place: Mapping[str, Any] = subjects.named(experiment.index)
        self.name = self.cube.name(experiment.index)
        self.prompt_text = self.cube.labels.prompt_text[experiment.index[0]]
        self._array = subjects.attention
        row = self.cube.row(experiment.index, small)
        self.rendered: str = row["text"]
        self.checks = dict(zip(CHECKS, row["check_result"].tolist(), strict=True))
        for name in View.__annotations__:
            setattr(self, name, row[name])

    def __repr__(self) -> str:
        return f"<View of {self.name}: {self.slots} slots, {self.steps} sets>"

    @property
    def slots(self) -> int:
        """How many there are, the prompt's included."""
        return int(self.token.size)

    @property
    def steps(self) -> int:
        """How many sets there are."""
        return int(self.width.size)

    @property
    def prompt_slots(self) -> int:
        """How many tokens the prompt has."""
        return int((self.slot_step < 0).sum())

    @property
    def wide_steps(self) -> list[int]:
        """The steps whose sets have more than one token."""
        return [int(step) for step in np.flatnonzero(self.width > 1)]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """(slot,): the text of each token."""
        return tuple(self.label_of(token) for token in self.token)

    def label_of(self, token: int) -> str:
        """The text of a token; its number in a cube that has no vocabulary."""
        words = _vocabulary(self.cube)
        return words[token] if 0 <= token < len(words) else f"#{token}"

    def of_step(self, step: int) -> list[int]:
        """The slots of a set, in order of rank."""
        if not 0 <= step < self.steps:
            raise BadInput(f"step {step}: {self.name} has steps 0 to {self.steps - 1}")
        return [int(slot) for slot in np.flatnonzero(self.slot_step == step)]

    def candidates(self, step: int) -> tuple[Candidate, ...]:
        """The members of a set, then the best tokens that were not taken."""
        own = self.of_step(step)
        taken = [
            Candidate(
                token, self.labels[slot], float(self.probability[slot]), True, bool(self.pruned_at[slot] >= 0)
            )
            for slot in own
            for token in [int(self.token[slot])]
        ]
        members = {candidate.token for candidate in taken}
        offered = zip(self.top_token[step].tolist(), np.exp(self.top_logprob[step]).tolist(), strict=True)
        dropped = [
            Candidate(token, self.label_of(token), probability, False, False)
            for token, probability in offered
            if token >= 0 and token not in members
        ]
        return (*taken, *dropped)

    @property
    def has_attention(self) -> bool:
        """Whether attention was captured."""
        return self._array is not None

    @cached_property
    def visible(self) -> npt.NDArray[np.bool_]:
        """(query, key): who sees whom."""
        own = self.logical, self.slot_step, self.pruned_at
        return visibility(self.mode, *own, self.window)

    def attention(self, layer: int | None = None, head: int | None = None) -> Floats:
        """(query, key): weights of a layer and head, means over those captured where None is said.

        NaN where there is no such pair or its row was not captured, 0 where the key was hidden.
        """
        layers = self.layers if layer is None else (_must("layer", layer, self.layers),)
        heads = self.heads if head is None else (_must("head", head, self.heads),)
        total = np.zeros((self.slots, self.slots), dtype=np.float64)
        for each in layers:
            total += self.by_head(each, heads).mean(axis=0, dtype=np.float64)
        return (total / len(layers)).astype(np.float32)

    def cube_attention(self) -> Floats:
        """(layer, head, query, key): all that was captured."""
        return np.stack([self.by_head(layer) for layer in self.layers])

    def by_head(self, layer: int, heads: Sequence[int] | None = None) -> Floats:
        """(head, query, key): weights of one layer, of those heads that were captured where none are said."""
        if self._array is None:
            raise BadInput(
                f"{self.cube.place}: attention was not captured; set capture.attention in the grid"
            )
        stored = self._stored(slice(layer, layer + 1))[0] if self._whole is None else self._whole[layer]
        codec = self.cube.data[self._array].codec
        chosen = stored[list(self.heads if heads is None else heads)]
        return cast(Floats, decode(chosen, codec, logs=False) if codec else chosen)

    @cached_property
    def _whole(self) -> npt.NDArray[Any] | None:
        """All layers as stored, where memory does not mind: a chunk holds several, and is decoded once."""
        one = self.cube.facts.layers * self.cube.facts.heads * self.slots**2
        return self._stored(slice(None)) if one <= MOST_KEPT else None

    def _stored(self, layers: slice) -> npt.NDArray[Any]:
        """(layer, head, query, key) codes or weights."""
        place: Any = (*self.index, layers, slice(None), slice(self.slots), slice(self.slots))
        return np.asarray(self.cube.array(str(self._array))[place])


def view(
    cube: Any, prompt: str | None = None, seed: int | None = None, mode: str | None = None, **axes: Any
) -> View:
    """The first done experiment that fits what is said; a prompt goes by its id or its text."""
    subjects = cube if isinstance(cube, Subjects) else Subjects(cube)
    asked = {"prompt": prompt, "seed": seed, "mode": mode, **axes}
    wanted = {dim: label_in(subjects, dim, value) for dim, value in asked.items() if value is not None}
    for index in subjects.indices:
        here = subjects.named(index)
        if all(here[dim] == value for dim, value in wanted.items()):
            return View(subjects, subjects.experiment(index))
    told = " ".join(f"{dim}={value}" for dim, value in wanted.items())
    raise BadInput(f"{subjects.cube.place}: {told} is not done; run tempo-capture to its end")


def views(cube: Any) -> Iterator[View]:
    """All done experiments, one after the other."""
    subjects = cube if isinstance(cube, Subjects) else Subjects(cube)
    small = {variable.name: subjects.cube.read(variable.name) for variable in INDEX}
    return (View(subjects, subjects.experiment(index), small) for index in subjects.indices)


def label_in(subjects: Subjects, dim: str, value: Any) -> Any:
    """The label of a dim that is meant, be it as text; a prompt goes by its text too."""
    if dim not in subjects.dims:
        raise BadInput(f"{subjects.cube.place}: has no {dim!r}; it has {', '.join(subjects.dims)}")
    labels = subjects.dims[dim]
    texts = subjects.cube.labels.prompt_text if dim == "prompt" else ()
    for label in labels:
        if is_meant(label, value):
            return label
    if value in texts:
        return labels[texts.index(value)]
    named = {str(label): label for label in labels}
    if texts:
        named = {f"{label} ({shorten(text, 40)})": label for label, text in zip(labels, texts, strict=True)}
    few = list(named) if len(labels) < 9 else get_close_matches(str(value), named, 5, 0.0)
    more = ", ..." * (len(few) < len(named))
    raise BadInput(f"{dim} {value!r}: not in this cube; it has {', '.join(few)}{more}")


def _must(kind: str, number: int, captured: tuple[int, ...]) -> int:
    if number not in captured:
        told = f"{min(captured)} to {max(captured)}" if captured else "none"
        raise BadInput(f"{kind} {number}: not captured; there are {told}")
    return number


@lru_cache(maxsize=4)
def _vocabulary(cube: Cube) -> tuple[str, ...]:
    return tuple(map(str, cube.read(VOCABULARY))) if VOCABULARY in cube.metas else ()
