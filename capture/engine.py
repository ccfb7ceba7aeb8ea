"""The engine: many experiments in one forward pass a step; a batch of one is the sequential engine."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..dataset.fit import must_fit
from ..dataset.grid import Cell, Grid
from ..dataset.visibility import PROMPT, asked_rows
from ..errors import BadInput
from .again import difference
from .checks import seen_in
from .experiment import Experiment, Readout, Track
from .forest import Branch, Feed, Forest, Growth
from .model import Model, find
from .rows import Kept, Sink
from .select import Select, log_softmax, readout, selection
from .tap import Passed, Tap, Watched
from .wanted import Wanted

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Work:
    """What a batch took: forward passes, nodes fed, seconds."""

    passes: int
    nodes: int
    seconds: float

    def __add__(self, more: "Work") -> "Work":
        return Work(self.passes + more.passes, self.nodes + more.nodes, self.seconds + more.seconds)


def capture(
    model: Model,
    cells: Sequence[Cell],
    sinks: Sequence[Sink],
    wanted: Wanted,
    *,
    tracks: Mapping[Cell, Track] | None = None,
    worker: str = "",
    alive: Callable[[], None] = lambda: None,
) -> Work:
    """Run a batch of experiments, each into its sink.

    A cell with `replay` follows its leader, which is in the batch or has its track in `tracks`; a cell that
    has one there itself is forced along it. Under `control: repeat` each cell is then captured again,
    in other company, and goes into its sink with the differences. `alive` is called after every pass.
    """
    if not cells:
        return Work(0, 0, 0.0)
    twice = [cell.control == "repeat" for cell in cells]
    first = [Kept() if again else sink for again, sink in zip(twice, sinks, strict=True)]
    work = Batch(model, cells, first, wanted, tracks or {}, worker).run(alive)
    for cell, kept, sink in zip(cells, first, sinks, strict=True):
        if isinstance(kept, Kept) and kept is not sink:
            company = [_stranger(cell)] if len(cells) == 1 else []
            second, more = again(model, cell, Track.recorded(kept.small), wanted, company, alive)
            value = difference(kept, second).values("repeat", kept.small["check_value"])
            kept.replay(sink, check_value=value)
            work += more
    return work


def keep(model: Model, grid: Grid) -> dict[Cell, Kept]:
    """Every cell of a grid in one batch, in memory: for a look, without a cube."""
    if find(grid.model).resolve() != model.path.resolve():
        raise BadInput(
            f"the grid asks for model {grid.model!r}, and this one is {model.name!r}: name it there"
        )
    must_fit(grid, model.facts, max(len(model.prompt_tokens(text)) for text in grid.prompt_texts))
    sinks = {cell: Kept() for cell in grid.cells()}
    wanted = Wanted.of(grid.capture, grid.storage, model.facts)
    capture(model, list(sinks), list(sinks.values()), wanted)
    return sinks


def again(
    model: Model,
    cell: Cell,
    track: Track,
    wanted: Wanted,
    company: Sequence[Cell] = (),
    alive: Callable[[], None] = lambda: None,
) -> tuple[Kept, Work]:
    """A cell captured once more along the sets it took, alone or with others that are not kept."""
    sinks = [Kept() for _ in (cell, *company)]
    return sinks[0], Batch(model, [cell, *company], sinks, wanted, {cell: track}, "").run(alive)


def _stranger(cell: Cell) -> Cell:
    """Company for a cell that was alone: another prompt, whose nodes it does not share."""
    shorter = max(1, cell.max_tokens - 1)
    return replace(cell, prompt=f"{cell.prompt}.", max_tokens=shorter, replay=None, control=None)


class Batch:
    """One batch: its experiments, the forest they share, and the readouts of the last pass."""

    def __init__(
        self,
        model: Model,
        cells: Sequence[Cell],
        sinks: Sequence[Sink],
        wanted: Wanted,
        tracks: Mapping[Cell, Track],
        worker: str,
    ) -> None:
        self.model, self.wanted, self.worker = model, wanted, worker
        self.forest = Forest(model.facts.windows)
        self.experiments: list[Experiment] = []
        mine: dict[Cell, Track] = dict(tracks)
        select: dict[Cell, Select] = {}
        sets: dict[str, int] = {}
        for cell in cells:
            sets[cell.prompt] = max(sets.get(cell.prompt, 0), cell.max_tokens)
        prompts = {text: model.prompt_tokens(text, most) for text, most in sets.items()}
        order = sorted(range(len(cells)), key=lambda i: cells[i].replay is not None)
        for i in order:  # leaders first: a follower takes the set its leader has just taken
            cell, leader = cells[i], cells[i].leader
            follows = tracks.get(cell) or (None if leader is None else mine.get(leader))
            if leader is not None and follows is None:
                raise BadInput(
                    f"prompt {cell.prompt[:40]!r}, seed {cell.seed}: {cell.mode} follows {leader.mode}, "
                    "which is neither in this batch nor recorded; run them together"
                )
            alike = cell if cell.temperature else replace(cell, seed=0)
            chosen = select.setdefault(alike, selection(cell))
            experiment = Experiment(cell, prompts[cell.prompt], chosen, sinks[i], model, wanted, follows)
            mine[cell] = experiment.track
            self.experiments.append(experiment)
        self._logits: dict[int, dict[int, npt.NDArray[np.float64]]] = {}  # member -> place in its set -> row

    def run(self, alive: Callable[[], None] = lambda: None) -> Work:
        """All of it, from the prompts to the last set."""
        began = time.perf_counter()
        self._clock = began
        prompts = [each.prompt for each in self.experiments]
        ablations = [each.cell.ablate for each in self.experiments]
        prunes = any(each.cell.prune is not None for each in self.experiments)
        targets = frozenset(target for each in ablations for target in each)
        with Tap(self.model, self.wanted, ablations=targets, by_layer=prunes) as tap:
            for feed in self.forest.plant(prompts, ablations):
                self._gather(feed, self._forward(tap, feed))
                alive()
            while sets := self._select(alive):
                feed = self.forest.grow(sets, *self._histories())
                passed = self._forward(tap, feed)
                self._gather(feed, passed)
                self._prune(feed, passed)
                alive()
            return Work(tap.passes, tap.nodes, time.perf_counter() - began)

    def _select(self, alive: Callable[[], None]) -> dict[int, tuple[int, ...]]:
        """The next set of every experiment that goes on; the others are finished."""
        sets: dict[int, tuple[int, ...]] = {}
        shared: dict[tuple[int, str, tuple[int, ...]], Readout] = {}
        branch_of = {member: branch for branch in self.forest.branches for member in branch.members}
        for member in sorted(branch_of):
            experiment = self.experiments[member]
            tokens = experiment.take(self._readout(member, shared)) if experiment.goes_on else None
            if tokens is None:
                experiment.finish(branch_of[member], self.worker)
                alive()  # what is written to a slow store takes its time
            else:
                sets[member] = tokens
        self._logits.clear()  # not before: a short prompt's are of an earlier pass than a long one's
        return sets

    def _readout(self, member: int, shared: dict[tuple[int, str, tuple[int, ...]], Readout]) -> Readout:
        experiment, rows = self.experiments[member], self._logits[member]
        survivors = experiment.survivors()
        key = id(rows), experiment.cell.readout, survivors
        if key not in shared:
            asked = {"top": survivors[:1], "last": survivors[-1:]}.get(key[1], survivors)
            logprob = np.stack([rows[place] for place in asked])
            shared[key] = Readout.of(readout(key[1], logprob, experiment.weights()))
        return shared[key]

    def _histories(self) -> tuple[list[str], list[npt.NDArray[np.int32]]]:
        return [each.applied for each in self.experiments], [
            each.track.pruned_at for each in self.experiments
        ]

    def _forward(self, tap: Tap, feed: Feed) -> Passed:
        """One pass; the logits that the next readouts need are kept."""
        reads = [(growth, self._places(growth)) for growth in feed.growths]
        passed = tap.forward(feed, [growth.nodes.stop + place for growth, own in reads for place in own])
        rows = iter(log_softmax(passed.logits))
        for growth, own in reads:
            shared = {place: next(rows) for place in own}
            for member in growth.branch.members:
                self._logits[member] = shared
        return passed

    def _places(self, growth: Growth) -> list[int]:
        """Which of its rows are read, counted from the end: the last of a prompt, or those of a set."""
        members = [self.experiments[member] for member in growth.branch.members]
        members = [each for each in members if each.goes_on]
        if not members or growth.rows.stop < growth.branch.slots:
            return []
        if growth.branch.slot_step[-1] == PROMPT:
            return [-1]
        kinds = {"mixture" if each.cell.stop_at_eos else each.cell.readout for each in members}
        if "mixture" in kinds:
            return list(range(-growth.count, 0))
        return sorted({{"top": -growth.count, "last": -1}[kind] for kind in kinds})

    def _gather(self, feed: Feed, passed: Passed) -> None:
        """Hand every experiment its rows of the pass, and what they prove."""
        elapsed, self._clock = time.perf_counter() - self._clock, time.perf_counter()
        for block, watched in zip(feed.blocks, passed.blocks, strict=True):
            for place, growth in enumerate(block.growths):
                pieces = self._pieces(passed, watched, place, growth)
                members = [self.experiments[member] for member in growth.branch.members]
                modes = {each.cell.mode for each in members}
                shown = {mode: seen_in(passed, watched, place, growth, mode) for mode in modes}
                for each in members:
                    each.evidence += shown[each.cell.mode]
                    each.seconds += elapsed * growth.count / feed.token.size / len(members)
                    each.fed(passed.position[growth.nodes], pieces)

    def _pieces(self, passed: Passed, watched: Watched, place: int, growth: Growth) -> dict[str, Rows]:
        """One branch's rows of each big array."""
        pieces = {name: values[:, growth.nodes] for name, values in passed.nodes.items()}
        for name in ("cached_key", "cached_value"):
            if name in pieces:
                pieces[name] = pieces[name].swapaxes(1, 2)
        if watched.attention is not None and self.wanted.attention:
            keys = growth.rows.stop
            asked = asked_rows(self.wanted.queries, growth.branch.slot_step)[growth.rows]
            there = growth.branch.existing(growth.rows)[:, :keys] & asked[:, None]
            rows = watched.attention[place, :, :, : growth.count, :keys]
            pieces[self.wanted.attention] = rows if there.all() else np.where(there, rows, np.float32(np.nan))
        return pieces

    def _prune(self, feed: Feed, passed: Passed) -> None:
        """Experiments look back at their sets, leaders first: followers hide what they hide."""
        found: dict[int, tuple[Branch, Rows | None]] = {}
        for block, watched in zip(feed.blocks, passed.blocks, strict=True):
            for place, growth in enumerate(block.growths):
                by_layer = None
                if watched.layer_total is not None:
                    sums = watched.layer_total[place, :, : growth.count, : growth.rows.stop]
                    by_layer = sums / np.float32(self.model.facts.heads)
                found |= dict.fromkeys(growth.branch.members, (growth.branch, by_layer))
        for member in sorted(found):
            self.experiments[member].judged(*found[member])
