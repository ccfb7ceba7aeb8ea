"""Real maps for the storage benchmark: the embedded model's, over many texts, stacked to a larger shape.

A cell of the larger shape takes more maps than the small model has, so it gets those of several texts, one
after the other, all under the one mask that the cell has. Every text is first written by the model itself, a
token at a time at temperature 0.7, after a prompt of its own; then it is captured with sets as wide as the
cell's: the token that was drawn, and the best of the others. Prompts are pieces of what the model wrote
before, after the prompts of the presets; no two are alike.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import planted
from planted import Floats, Profile

from tempocube.dataset.cell import Cell
from tempocube.dataset.grid import Grid
from tempocube.dataset.visibility import NEVER

if TYPE_CHECKING:
    from tempocube.capture.experiment import Track
    from tempocube.capture.model import Model
    from tempocube.capture.rows import Sink

ABOUT = (
    "maps of the embedded model over texts that it wrote, stacked to this shape, isolated and visible mode, "
    "prompt + sets"
)
MODES = ("isolated", "visible")  # of one text, along the same sets
BOOKS = ("powered", "seeds100", "traits")  # presets whose prompts begin what prompts are cut from
LENGTH, HOTTER = 240, 1.0  # tokens of each of those texts, and their temperature
PIECES = 8  # prompts that are counted on from each
WORDS = 6  # the most in a prompt

Number = tuple[int, int]  # of a text: the structure it lies under, and which of its texts


def captured(folder: Path, profile: Profile, cells: int, workers: int = 1) -> tuple[Profile, dict[str, Any]]:
    """The profile with real maps for so many cells, which are captured into a new folder; what they are."""
    folder.mkdir()
    numbers = range(ceil(cells / len(profile.modes)))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:  # processes of their own: they load MLX
        prompts = pool.submit(written, profile, numbers).result()
        parts = [numbers[i::workers] for i in range(workers) if numbers[i::workers]]
        jobs = [pool.submit(kept, folder, profile, part, prompts) for part in parts]
        found = [digest for job in jobs for digest in job.result()]
    counts = {"texts": len(prompts), "captured": len(found), "distinct": len(set(found))}
    told = "{texts:,} texts, {distinct:,} of {captured:,} maps distinct".format(**counts)
    return replace(profile, real=str(folder)), {"maps": f"{ABOUT}; {told}"} | counts


def written(profile: Profile, numbers: Sequence[int]) -> dict[Number, str]:
    """In a worker: a prompt for every text, all different, with as many tokens as its structure has."""
    model, each = _model(), planted.texts(profile)
    pieces = _pieces(_book(model, ceil(len(numbers) * each / PIECES)))
    waiting: dict[int, list[str]] = defaultdict(list)
    seen, found = set[str](), dict[Number, str]()
    for number in numbers:
        own = waiting[int(planted.structure(profile, number).prompt)]
        while len(own) < each:
            text = next(pieces, None)
            if text is None:
                raise RuntimeError(f"too little was written for {len(numbers) * each} different prompts")
            if text not in seen:
                seen.add(text)
                waiting[len(model.prompt_tokens(text))].append(text)
        found |= {(number, i): own.pop() for i in range(each)}
    return found


def kept(
    folder: Path, profile: Profile, numbers: Sequence[int], prompts: Mapping[Number, str]
) -> list[bytes]:
    """In a worker: capture these structures' texts in every mode; a digest of every map."""
    from tempocube.capture.wanted import Wanted

    model, found = _model(), list[bytes]()
    asked = Grid.from_dict({"prompts": ["any"], "capture": {"attention": {}, "logits": False}})
    wanted = Wanted.of(asked.capture, asked.storage, model.facts)
    for number in numbers:
        own = [prompts[number, i] for i in range(planted.texts(profile))]
        tracks: dict[Cell, Track] = {}
        sinks: dict[Cell, Stored] = {}
        for i, (prompt, track) in enumerate(zip(own, _tracks(model, profile, number, own), strict=True)):
            for mode in profile.modes:
                cell = Cell(prompt, "", number, mode, max_tokens=len(track.sets))
                tracks[cell], sinks[cell] = track, Stored(folder, profile, number, mode, i)
        _run(model, sinks, wanted, tracks)
        found += [digest for sink in sinks.values() for digest in sink.digests]
    return found


class Stored:
    """A sink that puts the maps of a text into files of its own, 64 rows at a time."""

    def __init__(self, folder: Path, profile: Profile, number: int, mode: str, text: int) -> None:
        self._where = (folder, number, mode, text)
        self._slots = planted.structure(profile, number).slots
        self._last: Floats
        self.digests: list[bytes] = []

    def write(self, name: str, block: Floats, start: int) -> None:
        """(layer, head, row, key) log weights."""
        self._last = block.reshape(-1, *block.shape[2:])
        np.save(planted.stored(*self._where, start), self._last)

    def finish(self, small: Mapping[str, Any], *, applied_mode: str | None = None) -> None:
        """All must be as planned. Maps whose last rows differ are different ones."""
        if len(small["token"]) != self._slots or not np.all(small["check_result"]):
            raise RuntimeError(f"{small['text'][:60]!r} was not captured as planned")
        self.digests = [hashlib.blake2b(part.tobytes(), digest_size=16).digest() for part in self._last]


def _model() -> "Model":
    from tempocube.capture import blas

    blas.prepare(1)
    from tempocube.capture.model import load

    model = load("embedded")
    if model.facts.layers * model.facts.heads != planted.SMALL:
        raise RuntimeError(f"the embedded model has not the {planted.SMALL} maps of a text that it had")
    return model


def _run(
    model: "Model",
    sinks: "Mapping[Cell, Sink]",
    wanted: Any = None,
    tracks: "Mapping[Cell, Track] | None" = None,
) -> None:
    from tempocube.capture.engine import capture
    from tempocube.capture.wanted import Wanted

    capture(model, list(sinks), list(sinks.values()), wanted or Wanted(), tracks=tracks)


def _book(model: "Model", texts: int) -> list[str]:
    """So many texts by the model, as many as possible after different prompts."""
    from tempocube.capture.rows import Kept

    starts = list(dict.fromkeys(text for name in BOOKS for text in Grid.load(name).prompt_texts))
    sinks = {
        Cell(
            starts[i % len(starts)], "", i // len(starts), "single", temperature=HOTTER, max_tokens=LENGTH
        ): Kept()
        for i in range(texts)
    }
    _run(model, sinks)
    return [str(kept.small["text"]) for kept in sinks.values()]


def _pieces(texts: Sequence[str]) -> Iterator[str]:
    """Pieces of one to six words, the first of every text before the second of any."""
    words = [text.split() for text in texts]
    for start in range(0, LENGTH, WORDS):
        for count in range(1, WORDS + 1):
            for own in words:
                if len(own) >= start + count:
                    yield " ".join(own[start : start + count])


def _tracks(model: "Model", profile: Profile, number: int, prompts: Sequence[str]) -> "list[Track]":
    """The sets that each text is captured along: what the model wrote, and what else it might have."""
    from tempocube.capture.experiment import Track
    from tempocube.capture.rows import Kept
    from tempocube.capture.select import Choice

    shape = planted.structure(profile, number)
    sinks = {
        Cell(text, "", number, "single", temperature=0.7, max_tokens=shape.width.size): Kept()
        for text in prompts
    }
    _run(model, sinks)
    tracks = []
    for kept in sinks.values():
        drawn = kept.small["token"][shape.prompt :]
        ranked = zip(drawn, kept.small["top_token"], shape.width, strict=True)
        sets = [[token, *best[best != token][: width - 1]] for token, best, width in ranked]
        chosen = [Choice(np.array(each, np.int32), np.ones(len(each)), False, 0.1) for each in sets]
        tracks.append(Track(chosen, np.full(shape.slots, NEVER, np.int32), closed=True))
    return tracks
