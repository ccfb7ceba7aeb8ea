"""Rows of an experiment on their way out: finished blocks leave at once, as the cube's shards want them."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..dataset.encoding import row_axis
from ..dataset.schema import BLOCK, CHECKS, DATA

Floats = npt.NDArray[np.float32]


class Sink(Protocol):
    """What takes an experiment in: the cube's `CellWriter`, or `Kept` in memory."""

    def write(self, name: str, block: Floats, start: int) -> None:
        """Rows `start`, `start` + 1, ... of a big array."""

    def finish(self, small: Mapping[str, Any], *, applied_mode: str | None = None) -> Any:
        """All small arrays; nothing follows."""


class Rows:
    """Rows of one big array. Pieces are not copied until a block is full: experiments may share them."""

    def __init__(self, sink: Sink, name: str) -> None:
        self._sink, self._name = sink, name
        self._axis = row_axis(DATA[name])
        self._ragged = DATA[name].dims[-1] == "key"  # a later row has more keys
        self._pieces: list[Floats] = []
        self._waiting = self._start = 0

    def add(self, piece: Floats) -> None:
        """The next rows, with the dims of the variable."""
        self._pieces.append(piece)
        self._waiting += piece.shape[self._axis]
        while self._waiting >= BLOCK:
            self._leave(BLOCK)

    def close(self) -> None:
        """What is left is the last, short block."""
        if self._waiting:
            self._leave(self._waiting)

    def _leave(self, rows: int) -> None:
        taken, have = [], 0
        while have < rows:
            piece = self._pieces.pop(0)
            count = piece.shape[self._axis]
            if have + count > rows:
                piece, rest = np.split(piece, [rows - have], axis=self._axis)
                self._pieces.insert(0, rest)
            taken.append(piece)
            have += piece.shape[self._axis]
        block = _stacked(taken) if self._ragged else np.concatenate(taken, axis=self._axis)
        self._sink.write(self._name, block, self._start)
        self._start, self._waiting = self._start + rows, self._waiting - rows


def _stacked(pieces: list[Floats]) -> Floats:
    """(layer, head, row, key) pieces one below the other; keys that a piece has not are not there: NaN."""
    layers, heads, *_ = pieces[0].shape
    shape = (layers, heads, sum(p.shape[2] for p in pieces), max(p.shape[3] for p in pieces))
    out, row = np.full(shape, np.nan, np.float32), 0
    for piece in pieces:
        out[:, :, row : row + piece.shape[2], : piece.shape[3]] = piece
        row += piece.shape[2]
    return out


class Kept:
    """A sink that keeps an experiment in memory: `data` by variable, `small` as a cube's index has them."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[Floats]] = {}
        self.small: dict[str, Any] = {}
        self.applied_mode: str | None = None

    def write(self, name: str, block: Floats, start: int) -> None:
        """Keep the next rows."""
        self._blocks.setdefault(name, []).append(block)

    def finish(self, small: Mapping[str, Any], *, applied_mode: str | None = None) -> None:
        """Keep the small arrays."""
        self.small, self.applied_mode = dict(small), applied_mode

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name} {values.shape}" for name, values in self.data.items())
        red = [name for name, result in self.checks.items() if result == "fail"]
        return f"Kept({self.small.get('text', '')!r}: {arrays}; checks: {', '.join(red) or 'none'} failed)"

    @property
    def checks(self) -> dict[str, str]:
        """Treatment checks by name: pass, fail or not applicable."""
        results = zip(CHECKS, self.small.get("check_result", ()), strict=False)
        return {name: ("fail", "pass", "not applicable")[result] for name, result in results}

    def blocks(self, name: str) -> list[Floats]:
        """A big array as it was written, 64 rows at a time."""
        return self._blocks.get(name, [])

    @property
    def data(self) -> dict[str, Floats]:
        """The big arrays, whole."""
        return {
            name: _stacked(blocks)
            if DATA[name].dims[-1] == "key"
            else np.concatenate(blocks, axis=row_axis(DATA[name]))
            for name, blocks in self._blocks.items()
        }

    def replay(self, sink: Sink, **small: Any) -> None:
        """Hand it all on, with some small arrays replaced."""
        for name, blocks in self._blocks.items():
            for number, block in enumerate(blocks):
                sink.write(name, block, number * BLOCK)
        sink.finish(self.small | small, applied_mode=self.applied_mode)
