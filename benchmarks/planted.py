"""The data that the storage benchmark stores: profiles, and softmax maps in their shape, planted or real.

`maps` is the one place that attention comes from, `readouts` makes logits. Real maps are captured before by
`scale_maps`, and read here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tempocube.dataset.schema import BLOCK, NOT_APPLICABLE
from tempocube.dataset.visibility import NEVER, PROMPT, existence, visibility

MODE = "isolated"
ABOUT = (
    "planted softmax maps: sink + recency + head-specific noise, isolated mode, prompt + sets, none repeated"
)
SMALL = 48  # maps of the embedded model over one text: 6 layers x 8 heads
RANK = 32  # head dim of the planted queries and keys
WIDTHS = np.repeat([1, 2, 3, 4], [9, 6, 3, 2])  # how wide sets are

Floats = npt.NDArray[np.float32]
Blocks = Iterator[tuple[int, Floats]]  # first row, log weights (layer, head, row, key)


@dataclass(frozen=True)
class Profile:
    """A shape of experiment; `slots` is where every one ends, None lets the sets decide.

    Cells take turns through the modes, and have the same structure in all. `real`: the folder where maps are
    that were captured; None: they are planted.
    """

    name: str
    layers: int
    heads: int
    vocab: int
    sets: int
    slots: int | None
    cells: int
    repeats: int
    modes: tuple[str, ...] = (MODE,)
    real: str | None = None

    def split(self, cell: int) -> tuple[int, str]:
        """Which structure a cell has, and its mode."""
        number, mode = divmod(cell, len(self.modes))
        return number, self.modes[mode]


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("tiny", layers=3, heads=4, vocab=500, sets=80, slots=90, cells=3, repeats=2),
        Profile("seeds", layers=28, heads=24, vocab=128_256, sets=10, slots=None, cells=100, repeats=5),
        Profile("long", layers=28, heads=24, vocab=128_256, sets=334, slots=334, cells=4, repeats=3),
    )
}
PROMPT_TOKENS = (3, 8)  # a prompt has at least and fewer than so many


@dataclass(frozen=True)
class Structure:
    """Slots of one experiment: which step each belongs to, and its position."""

    slot_step: npt.NDArray[np.int64]
    width: npt.NDArray[np.int64]

    @property
    def slots(self) -> int:
        """How many there are."""
        return self.slot_step.size

    @property
    def prompt(self) -> int:
        """Slots of the prompt."""
        return self.slots - int(self.width.sum())

    @property
    def logical(self) -> npt.NDArray[np.int64]:
        """The position of each: one for all of a set."""
        return np.where(self.slot_step == PROMPT, np.arange(self.slots), self.prompt + self.slot_step)

    def masks(self, mode: str = MODE) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """(query, key): which keys existed, and which of them were visible."""
        never = np.full(self.slots, NEVER)
        return existence(self.slot_step), visibility(mode, self.logical, self.slot_step, never)


def structure(profile: Profile, number: int) -> Structure:
    """Prompt and sets of one experiment; modes do not come into it."""
    rng = np.random.default_rng([1, number])
    prompt = int(rng.integers(*PROMPT_TOKENS))
    width = rng.choice(WIDTHS, profile.sets)
    if profile.slots is not None:
        left = profile.slots - prompt - np.r_[0, np.cumsum(width)[:-1]]
        width = np.minimum(width, left)[left > 0]
    step = np.r_[np.full(prompt, PROMPT), np.repeat(np.arange(width.size), width)]
    return Structure(step, width)


@cache
def slots(profile: Profile, cell: int) -> int:
    """Slots of one experiment."""
    return structure(profile, profile.split(cell)[0]).slots if profile.slots is None else profile.slots


def maps(profile: Profile, cell: int) -> Blocks:
    """Log weights of one experiment, 64 rows at a time, to the last key they have: as the engine gives them.

    Hidden pairs are -inf, keys not yet there NaN. Only one block is in memory. The score of a pair is
    sharpness x <q, k> / sqrt(32) + sink (key 0 only) - recency x log(1 + distance). Sharpness, sink and
    recency belong to the head and are the same in every cell; q and k are drawn anew for each cell and head.

    The embedded model, over 334 tokens of its corpus, has log weights with quantiles (1, 5, 16, 50, 84, 95 %)
    -24.8, -18.7, -14.0, -9.1, -5.8, -4.2; the planted ones (long: -31.0, -22.4, -16.1, -9.9, -6.2, -4.3) are
    a little wider and rougher, and so a little harder to compress.
    """
    if profile.real:
        yield from _captured(profile, cell)
        return
    sharp, sink, recency = _heads(profile)
    shape = structure(profile, cell)
    there, seen = shape.masks()
    rng = np.random.default_rng([2, cell])
    q, k = (_draw(rng, (profile.layers, profile.heads, shape.slots, RANK)) for _ in range(2))
    q *= sharp / np.float32(RANK**0.5)
    position = shape.logical
    for start in range(0, shape.slots, BLOCK):
        rows = slice(start, start + BLOCK)
        keys = slice(int(np.flatnonzero(there[rows].any(axis=0))[-1]) + 1)
        scores = q[..., rows, :] @ k[..., keys, :].swapaxes(-1, -2)
        distance = np.log1p(np.abs(position[rows, None] - position[None, keys])).astype(np.float32)
        scores -= recency * distance
        scores[..., :1] += sink
        scores += np.where(seen[rows, keys], 0, -np.inf).astype(np.float32)
        _normalise(scores)
        scores += np.where(there[rows, keys], 0, np.nan).astype(np.float32)
        yield start, scores


def texts(profile: Profile) -> int:
    """How many texts a cell takes, where maps are real."""
    return ceil(profile.layers * profile.heads / SMALL)


def stored(folder: Path, number: int, mode: str, text: int, start: int) -> Path:
    """The file with some rows of a text's maps (map, row, key)."""
    return folder / f"{number}-{mode}-{text}-{start}.npy"


def _captured(profile: Profile, cell: int) -> Blocks:
    """Real maps of one experiment: those of its texts, one after the other."""
    number, mode = profile.split(cell)
    shape = profile.layers, profile.heads
    for start in range(0, slots(profile, cell), BLOCK):
        files = [stored(Path(profile.real or ""), number, mode, i, start) for i in range(texts(profile))]
        maps = np.concatenate([np.load(file) for file in files])[: profile.layers * profile.heads]
        yield start, maps.reshape(*shape, *maps.shape[1:])


def readouts(profile: Profile, cell: int) -> Blocks:
    """Log-probabilities (step, vocab) of one experiment, 64 steps at a time: common part, noise, peaks."""
    common = 2 * _draw(np.random.default_rng(3), (profile.vocab,))
    rng = np.random.default_rng([4, cell])
    sets = structure(profile, profile.split(cell)[0]).width.size
    for start in range(0, sets, BLOCK):
        logits = common + 2.4 * _draw(rng, (min(BLOCK, sets - start), profile.vocab))
        logits[:, rng.choice(profile.vocab, 20)] += rng.normal(8, 3, (len(logits), 20)).astype(np.float32)
        _normalise(logits)
        yield start, logits


def small(profile: Profile, cell: int) -> dict[str, object]:
    """The small arrays of one experiment."""
    number, _ = profile.split(cell)
    shape = structure(profile, number)
    rng = np.random.default_rng([6, number])
    return {
        "token": rng.integers(0, profile.vocab, shape.slots),
        "logical": shape.logical,
        "slot_step": shape.slot_step,
        "width": shape.width,
        "check_result": NOT_APPLICABLE,
        "probability": rng.random(shape.slots, dtype=np.float32),
        "text": f"planted {cell}",
    }


def _draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.standard_normal(shape, dtype=np.float32)


@cache
def _heads(profile: Profile) -> tuple[Floats, Floats, Floats]:
    """Sharpness, sink and recency of every head, (layer, head, 1, 1): in all cells the same, as a model's."""
    rng = np.random.default_rng(5)
    shape = (profile.layers, profile.heads, 1, 1)
    sharp = np.exp(rng.normal(np.log(3.0), 0.45, shape))
    sink = rng.normal(2.0, 2.0, shape)
    recency = rng.gamma(1.0, 1.0, shape)
    return sharp.astype(np.float32), sink.astype(np.float32), recency.astype(np.float32)


def _normalise(scores: Floats) -> None:
    """Scores to log-softmax over the last axis, in place, part by part."""
    for part in scores:
        part -= part.max(axis=-1, keepdims=True)
        part -= np.log(np.exp(part).sum(axis=-1, keepdims=True))
