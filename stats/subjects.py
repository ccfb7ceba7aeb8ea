"""The experiments of a cube that measures are made of: which are done, and what each one was."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ..dataset.cube import Cube, Index
from ..dataset.place import Place
from ..dataset.schema import DONE, NOT_ASKED, STATUS
from ..errors import BadInput
from .estimand import Ints, Layout, layout

VERSION = 4  # of every measure: raise it when any of them changes, and caches are made anew
SINGLE = "single"  # the mode whose sets have one token: a baseline for the others

SMALL = (
    *("length", "seconds", "digest", "path_digest", "slot_step", "token", "logical", "pruned_at"),
    *("prune_score", "width", "capped", "entropy", "threshold_used"),
)


@dataclass(frozen=True, eq=False)
class Experiment:
    """One done cell: its place, its mode, and its small arrays cut to its length and its sets."""

    index: Index
    mode: str
    small: Mapping[str, Any]
    queries: str
    window: int | None
    key: str

    @cached_property
    def layout(self) -> Layout:
        """Who sees whom."""
        of = self.small
        slots = of["logical"], of["slot_step"], of["pruned_at"], of["width"]
        return layout(self.mode, *slots, self.queries, self.window)

    @property
    def slots(self) -> int:
        """How many there are, the prompt's included."""
        return int(self.small["slot_step"].size)

    def sets(self) -> list[list[int]]:
        """The tokens of each set, in order of rank."""
        step, token = self.small["slot_step"], self.small["token"]
        ends = np.cumsum(self.small["width"]) + int((step < 0).sum())
        return [token[end - n : end].tolist() for end, n in zip(ends, self.small["width"], strict=True)]


class Subjects:
    """The done cells of a cube, or of the part of it that a Dataset from `open_cube` has selected.

    `layers` and `heads` are those that were captured and chosen, `part` the places of the labels
    that were selected. A Dataset stands for the cube on disk: values changed in memory are not looked at.
    """

    def __init__(
        self, cube: Any, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None
    ) -> None:
        dataset = cube if isinstance(cube, xr.Dataset) else None
        self.cube = found = _opened(cube)
        self.dims = found.labels.dims()
        self.layers = _part("layers", found.attrs["captured_layers"], layers, dataset)
        self.heads = _part("heads", found.attrs["captured_heads"], heads, dataset)
        wanted = self._wanted(dataset)
        self.part = {dim: np.flatnonzero(of).tolist() for dim, of in zip(self.dims, wanted, strict=True)}
        self.status = np.where(_all_of(wanted), found.status(), NOT_ASKED).astype(np.uint8)
        self.indices: list[Index] = [
            tuple(int(i) for i in index) for index in np.argwhere(self.status == DONE)
        ]
        if not self.indices:
            told = ", ".join(f"{n} {name}" for name, n in self.counts.items()) or "nothing was asked of it"
            raise BadInput(f"{found.place}: no experiment is done yet ({told}); run tempo-capture first")

    @property
    def counts(self) -> dict[str, int]:
        """How many of the cells asked for have each status."""
        numbers = np.bincount(self.status.ravel(), minlength=len(STATUS))
        return {
            name: int(n)
            for i, (name, n) in enumerate(zip(STATUS, numbers, strict=True))
            if n and i != NOT_ASKED
        }

    @cached_property
    def small(self) -> dict[str, npt.NDArray[Any]]:
        """Small arrays of all cells."""
        return {name: self.cube.read(name) for name in SMALL}

    @cached_property
    def digest(self) -> str:
        """One hash for all that was measured: every done cell's name and digest, and the model."""
        cells = [[self.cube.name(index), str(self.small["digest"][index])] for index in self.indices]
        return _hash([self.cube.facts.sha256, self.cube.attrs["control"], cells])

    @property
    def attention(self) -> str | None:
        """The name of the array that holds attention, if it was captured."""
        return next((name for name in ("log_attention", "attention") if name in self.cube.data), None)

    def named(self, index: Index) -> dict[str, Any]:
        """The coordinates of a cell, its category among them."""
        values = {dim: values[i] for (dim, values), i in zip(self.dims.items(), index, strict=True)}
        prompt = values.pop("prompt")
        return {"prompt": prompt, "category": self.cube.labels.category[index[0]], **values}

    def groups(self) -> dict[Index, dict[str, Index]]:
        """Cells that differ in mode only, by mode; the key is their place without the mode."""
        found: dict[Index, dict[str, Index]] = {}
        for index in self.indices:
            found.setdefault(index[:2] + index[3:], {})[self.dims["mode"][index[2]]] = index
        return found

    def experiment(self, index: Index) -> Experiment:
        """One cell, cut to its length; `key` is a hash of all that its measures depend on."""
        row = {name: self.small[name][index] for name in SMALL}
        sizes = {"slot": int(row["length"]), "step": int(np.count_nonzero(row["width"]))}
        for name in SMALL:
            if np.ndim(row[name]):
                row[name] = row[name][: sizes[self.cube.metas[name]["dimension_names"][-1]]]
        mode = self.dims["mode"][index[2]]
        return Experiment(index, mode, row, self._queries, self._window, self.key(index))

    def key(self, index: Index) -> str:
        """The content key of one cell's measures."""
        return _hash([self._asked, self.dims["mode"][index[2]], str(self.small["digest"][index])])

    @cached_property
    def _asked(self) -> str:
        part = [self.layers, self.heads, self._queries, self._window]
        return _hash([VERSION, self.cube.facts.sha256, part])

    @property
    def _queries(self) -> str:
        return self.cube.attrs["captured_queries"] or "all"

    @cached_property
    def _window(self) -> int | None:
        """The narrowest window of the chosen layers: a key counts if it is visible in all of them."""
        windows = self.cube.facts.windows
        return min(
            (w for layer in self.layers if windows and (w := windows[layer]) is not None), default=None
        )

    def _wanted(self, dataset: xr.Dataset | None) -> list[npt.NDArray[np.bool_]]:
        """Which labels of each dim were selected."""
        if dataset is None:
            return [np.ones(len(values), dtype=bool) for values in self.dims.values()]
        if gone := [dim for dim in self.dims if dim not in dataset.coords]:
            raise BadInput(f"this Dataset has lost its {', '.join(gone)}; select without drop=True")
        return [np.isin(np.asarray(values), dataset[dim].values) for dim, values in self.dims.items()]


def _opened(cube: Any) -> Cube:
    if isinstance(cube, Cube):
        return cube
    if isinstance(cube, xr.Dataset):
        if "url" not in cube.attrs:
            raise BadInput("this Dataset does not know its cube; open it with tempocube.open_cube")
        return Cube.open(cube.attrs["url"])
    if not isinstance(cube, (str, os.PathLike, Place)):
        kind = type(cube).__name__
        raise BadInput(f"a cube is a path, a URL or what open_cube gives, got a {kind}")
    return Cube.open(cube)


def first_difference(one: Experiment, other: Experiment, *, ordered: bool = False) -> int:
    """The first step whose sets differ, or that only one has; -1 if none. `ordered`: rank counts too."""
    pairs = [sets if ordered else [sorted(tokens) for tokens in sets] for sets in (one.sets(), other.sets())]
    same = (a == b for a, b in zip(*pairs, strict=False))
    common = min(map(len, pairs))
    parted = next((step for step, equal in enumerate(same) if not equal), common)
    return -1 if parted == len(pairs[0]) == len(pairs[1]) else parted


def is_meant(label: Any, asked: Any) -> bool:
    """Whether a label is the one asked for, be that text or a number written otherwise."""
    return bool(label == asked or str(label) == str(asked) or _number(label) == _number(asked))


def _number(value: Any) -> float | str:
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def pair_key(one: str, other: str) -> str:
    """The content key of what is measured between two cells, by theirs."""
    return _hash([VERSION, one, other])


def slots_before(experiment: Experiment, step: int) -> int:
    """Slots before a step's set; all of them for -1."""
    if step < 0:
        return experiment.slots
    return int(np.searchsorted(experiment.small["slot_step"], step))


def _all_of(wanted: list[npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    found = np.ones((), dtype=bool)
    for each in wanted:
        found = found[..., None] & each
    return found


def _part(
    name: str, captured: Sequence[int], asked: Sequence[int] | None, dataset: xr.Dataset | None
) -> tuple[int, ...]:
    """The layers or heads to average over: those asked for, else those the Dataset has left."""
    if asked is None:
        here = dataset[name[:-1]].values if dataset is not None and name[:-1] in dataset.coords else captured
        return tuple(sorted(set(captured) & {int(i) for i in np.atleast_1d(here)}))
    if not asked or set(asked) - set(captured):
        told = f"{min(captured)} to {max(captured)}" if captured else "none"
        odd = sorted(set(asked) - set(captured))
        raise BadInput(f"{name}: {', '.join(map(str, odd[:5])) or 'none'} not among those captured ({told})")
    return tuple(sorted(set(asked)))


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def steps_of(step: Ints, rows: npt.NDArray[np.float64], steps: int) -> npt.NDArray[np.float64]:
    """(step,): the mean of rows (query,) over the queries of each step that are finite; NaN without any."""
    use = (step >= 0) & np.isfinite(rows)
    n = np.bincount(step[use], minlength=steps)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(step[use], rows[use], steps) / n)
