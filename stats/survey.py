"""Measuring a cube: what is cached is taken from there, the rest in one pass on a few threads."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from ..dataset.cube import Index
from ..dataset.verify import missing_shards
from ..errors import DamagedError
from . import cache, findings
from .findings import Record
from .subjects import SINGLE, VERSION, Experiment, Subjects, pair_key
from .sweep import sweep

MAIN_PAIR = ("isolated", "visible")
THREADS = 4
SAVE_SECONDS = 10.0

Pair = tuple[Index, Index]
Progress = Callable[[int, int], None]  # cells measured, cells in all; cached ones count


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What was measured of every cell, and between every pair of modes asked for."""

    subjects: Subjects
    cells: dict[Index, Record] = field(default_factory=dict)
    pairs: dict[Pair, Record] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Task:
    """Cells that are read together, and the pairs among them, by number."""

    indices: tuple[Index, ...]
    pairs: tuple[tuple[int, int], ...]


def survey(
    subjects: Subjects,
    pairs: Sequence[tuple[str, str]] = (),
    progress: Progress | None = None,
    *,
    threads: int | None = None,
    cached: bool = True,
) -> Survey:
    """Measure every cell, and the pairs of modes: those asked for, isolated with visible, all with single.

    What is finished is kept in the cache every ten seconds and when it is stopped, so Ctrl-C loses little.
    """
    where = cache.folder(subjects.cube.place) if cached else None
    keys = _keys(subjects, {MAIN_PAIR, *_baselines(subjects), *pairs})
    kinds = {kind: f"{kind}-{_shape(subjects)}" for kind in keys}
    found = _kept(subjects, where, kinds, keys)
    tasks = _tasks(subjects, found, keys["pairs"])
    keeper = _Keeper(where, kinds, keys)
    total = len(subjects.indices)
    if progress:
        progress(len(found.cells), total)
    try:
        for made in _each(subjects, tasks, threads or min(THREADS, os.cpu_count() or 1)):
            found.cells.update(made.cells)
            found.pairs.update(made.pairs)
            keeper.add(made)
            if progress:
                progress(len(found.cells), total)
    finally:
        keeper.flush()
    if where:
        for kind in kinds.values():
            cache.tidy(where, kind)
    return found


def _baselines(subjects: Subjects) -> list[tuple[str, str]]:
    """Every mode with `single`."""
    return [(mode, SINGLE) for mode in subjects.dims["mode"] if mode != SINGLE]


def _kept(
    subjects: Subjects, where: Path | None, kinds: dict[str, str], keys: dict[str, dict[Any, str]]
) -> Survey:
    """What the cache has of it."""
    found = Survey(subjects)
    for kind, into in (("cells", found.cells), ("pairs", found.pairs)):
        known = cache.load(where, kinds[kind], keys[kind].values()) if where else {}
        into.update({place: known[key] for place, key in keys[kind].items() if key in known})
    return found


class _Keeper:
    """Saves what is new, now and then."""

    def __init__(self, where: Path | None, kinds: dict[str, str], keys: dict[str, dict[Any, str]]) -> None:
        self._where, self._kinds, self._keys = where, kinds, keys
        self._new: dict[str, cache.Records] = {kind: {} for kind in kinds}
        self._saved = time.monotonic()

    def add(self, made: Survey) -> None:
        """Remember what a task made."""
        for kind, records in (("cells", made.cells), ("pairs", made.pairs)):
            for place, record in records.items():
                self._new[kind][self._keys[kind][place]] = record
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Save what is not saved yet."""
        for kind, records in self._new.items():
            if self._where:
                cache.save(self._where, self._kinds[kind], records)
            records.clear()
        self._saved = time.monotonic()


def _keys(subjects: Subjects, pairs: set[tuple[str, str]]) -> dict[str, dict[Any, str]]:
    """Content keys of all cells, and of all pairs that are there."""
    cells = {index: subjects.key(index) for index in subjects.indices}
    between = {}
    for modes in subjects.groups().values():
        for one, other in pairs:
            if one in modes and other in modes:
                pair = modes[one], modes[other]
                between[pair] = pair_key(cells[pair[0]], cells[pair[1]])
    return {"cells": cells, "pairs": between}


def _shape(subjects: Subjects) -> str:
    """What decides the shapes of records, so that those of one kind of file can be stacked."""
    cube = subjects.cube
    asked = [VERSION, cube.facts.sha256, subjects.layers, subjects.heads, cube.sizes["step"]]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]


def _tasks(subjects: Subjects, found: Survey, pairs: dict[Pair, str]) -> list[_Task]:
    """What is missing, by groups of cells that differ in mode only."""
    tasks = []
    by_group: dict[Index, list[Pair]] = {}
    for pair in pairs:
        if pair not in found.pairs:
            by_group.setdefault(pair[0][:2] + pair[0][3:], []).append(pair)
    for group, modes in subjects.groups().items():
        missing = by_group.get(group, [])
        wanted = {index for index in modes.values() if index not in found.cells}
        indices = tuple(sorted(wanted.union(*missing)))
        if indices:
            numbers = tuple((indices.index(a), indices.index(b)) for a, b in missing)
            tasks.append(_Task(indices, numbers))
    return tasks


def _each(subjects: Subjects, tasks: list[_Task], threads: int) -> Any:
    """The results of all tasks as they come; whatever ends it, no thread goes on."""
    if not tasks:
        return
    _ = subjects.small  # read once, before there are threads
    stop = Event()
    pool = ThreadPoolExecutor(threads, "measure")
    try:
        futures = [pool.submit(_measure, subjects, task, stop) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _measure(subjects: Subjects, task: _Task, stop: Event) -> Survey:
    group = [subjects.experiment(index) for index in task.indices]
    try:
        for of in group:
            _must_be_whole(subjects, of)
        return _measured(subjects, group, task.pairs, stop)
    except DamagedError as error:
        names = "; ".join(subjects.cube.name(index) for index in task.indices)
        raise DamagedError(f"{error} (in {names}); tempo-stats verify says what is damaged") from error


def _must_be_whole(subjects: Subjects, of: Experiment) -> None:
    """A lost shard reads as values that are not there, which no measure could tell from those."""
    needed: dict[str, Sequence[int]] = {
        str(subjects.attention): np.flatnonzero(of.layout.kept).tolist(),
        "logits": range(of.small["width"].size - 1),  # the last set has no readout
    }
    for name, variable in subjects.cube.data.items():
        if lost := missing_shards(subjects.cube, of.index, variable, needed.get(name, ())):
            raise DamagedError(lost[0])


def _measured(
    subjects: Subjects, group: list[Experiment], pairs: tuple[tuple[int, int], ...], stop: Event
) -> Survey:
    steps = subjects.cube.sizes["step"]
    tallies, matches = None, None
    if subjects.attention and subjects.layers and subjects.heads:
        parted = [(i, j, findings.parting(group[i], group[j])) for i, j in pairs]
        tallies, matches = sweep(subjects, group, parted, stop.is_set)
    made = Survey(subjects)
    for i, of in enumerate(group):
        made.cells[of.index] = findings.of_experiment(tallies[i] if tallies else None, of, subjects, steps)
    for n, (i, j) in enumerate(pairs):
        match = matches[n] if matches else None
        made.pairs[group[i].index, group[j].index] = findings.between(group[i], group[j], match, subjects)
    return made
