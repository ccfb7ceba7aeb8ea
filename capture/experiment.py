"""One experiment on its way: what it has selected so far, what was seen of it, what is stored at its end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dataset.cell import Cell
from ..dataset.options import Prune
from ..dataset.schema import RANKS
from ..dataset.visibility import NEVER
from .checks import Evidence, verdict
from .forest import Branch, Ints
from .model import Model
from .prune import judge, received
from .rows import Rows, Sink
from .select import Choice, Select, ended, entropy, forced, top
from .wanted import Wanted

Floats = npt.NDArray[np.floating[Any]]


@dataclass(slots=True)
class Track:
    """The sets an experiment takes, and from which step its slots are hidden; closed: that is all of it."""

    sets: list[Choice] = field(default_factory=list)
    pruned_at: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    closed: bool = False

    @classmethod
    def recorded(cls, small: dict[str, Any]) -> "Track":
        """As a cube has it of a done cell, or `Kept` in memory."""
        step, token = np.asarray(small["slot_step"]), np.asarray(small["token"])
        probability = np.asarray(small["probability"], np.float64)
        sets = [
            Choice(
                tokens=token[step == number].astype(np.int32),
                probability=probability[step == number],
                capped=bool(small["capped"][number]),
                threshold=float(small["threshold_used"][number]),
            )
            for number in range(len(small["width"]))
        ]
        return cls(sets, np.asarray(small["pruned_at"], np.int32), closed=True)


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """What chooses the next set: log-probabilities (vocab,), and what is stored of them."""

    logprob: npt.NDArray[np.float64]
    stored: npt.NDArray[np.float32]
    entropy: float
    top: tuple[Ints, Floats]
    choices: dict[tuple[Select, int], Choice] = field(default_factory=dict)

    def choice(self, select: Select, step: int) -> Choice:
        """What a selection takes of it; experiments that select alike ask once."""
        if (select, step) not in self.choices:
            self.choices[select, step] = select(self.logprob, step)
        return self.choices[select, step]

    @classmethod
    def of(cls, logprob: npt.NDArray[np.float64]) -> "Readout":
        """Computed once for all experiments that share it."""
        return cls(logprob, logprob.astype(np.float32)[None], entropy(logprob), top(logprob, RANKS))


class Experiment:
    """The state of one cell; `follows` is the track of its leader, if it has one."""

    def __init__(
        self,
        cell: Cell,
        prompt: Sequence[int],
        select: Select,
        sink: Sink,
        model: Model,
        wanted: Wanted,
        follows: Track | None,
    ) -> None:
        self.cell, self.prompt, self.model, self.wanted = cell, tuple(prompt), model, wanted
        self.track, self.follows = Track(pruned_at=np.full(len(prompt), NEVER, np.int32)), follows
        self.seconds, self.over = 0.0, False
        self.evidence = Evidence()
        self._sink, self._select = sink, select
        self._entropy: list[float] = []
        self._top: list[tuple[Ints, Floats]] = []
        self._logical: list[Ints] = []
        self._score = np.full(len(prompt), np.nan)
        names = [*wanted.nodes, *["logits"] * wanted.logits, *[wanted.attention] * bool(wanted.attention)]
        self._rows = {name: Rows(sink, name) for name in names if name}

    @property
    def applied(self) -> str:
        """The mode whose mask is applied: under `no_mask` the declared one is not."""
        return "visible" if self.cell.control == "no_mask" and self.cell.mode != "single" else self.cell.mode

    @property
    def step(self) -> int:
        """Sets taken so far."""
        return len(self.track.sets)

    @property
    def goes_on(self) -> bool:
        """Whether another readout is wanted, as far as can be told before it."""
        led = self.follows is None or not self.follows.closed or self.step < len(self.follows.sets)
        return not self.over and self.step < self.cell.max_tokens and led

    def survivors(self) -> tuple[int, ...]:
        """Places in the last set that the readout is over; of the prompt: its last token."""
        if not self.track.sets:
            return (-1,)
        width = self.track.sets[-1].tokens.size
        return tuple(i - width for i in range(width) if self.track.pruned_at[i - width] == NEVER)

    def weights(self) -> npt.NDArray[np.float64]:
        """Probabilities of the survivors, for the mixture."""
        if not self.track.sets:
            return np.ones(1)
        return np.asarray(self.track.sets[-1].probability[list(self.survivors())])

    def take(self, seen: Readout) -> tuple[int, ...] | None:
        """The next set's tokens, or None where there is none; what chose it is kept."""
        if not np.isfinite(seen.logprob).all():
            self.evidence += Evidence(broken=int((~np.isfinite(seen.logprob)).sum()))
            self.over = True
            return None
        if self.follows is None:
            choice = seen.choice(self._select, self.step)
        elif self.step < len(self.follows.sets):
            leads = self.follows.sets[self.step]
            choice = forced(seen.logprob, leads.tokens, leads.threshold, leads.capped)
        else:
            return None
        slots = self.track.pruned_at.size + choice.tokens.size
        if self.cell.max_slots is not None and slots > self.cell.max_slots:
            self.over = True
            return None
        self.track.sets.append(choice)
        self._entropy.append(seen.entropy)
        self._top.append(seen.top)
        if "logits" in self._rows:
            self._rows["logits"].add(seen.stored)
        return tuple(choice.tokens.tolist())

    def fed(self, position: Ints, pieces: dict[str, npt.NDArray[np.float32]]) -> None:
        """Rows of a pass: what is kept of them goes on its way."""
        self._logical.append(position)
        for name, piece in pieces.items():
            self._rows[name].add(piece)

    def judged(self, branch: Branch, by_layer: npt.NDArray[np.float32] | None) -> None:
        """After a set's rows: whom to hide from the next step on; by_layer (layer, row, slot): over heads."""
        width, step = self.track.sets[-1].tokens.size, self.step - 1
        self.track.pruned_at = np.concatenate([self.track.pruned_at, np.full(width, NEVER, np.int32)])
        self._score = np.concatenate([self._score, np.full(width, np.nan)])
        if self.cell.stop_at_eos and self.follows is None:
            hidden, self.over = ended(self.track.sets[-1].tokens, self.model.end_tokens)
            self.track.pruned_at[-width:][hidden] = step + 1
        if isinstance(self.cell.prune, Prune) and by_layer is not None:
            attended = received(self.cell.prune, by_layer)
            found = judge(self.cell.prune, attended, branch.slot_step, branch.pruned_at, step)
            self._score = np.where(np.isnan(found.score), self._score, found.score)
            if self.follows is None:
                self.track.pruned_at[found.hidden] = step + 1
        if self.follows is not None:
            gone = self.follows.pruned_at[: self.track.pruned_at.size] == step + 1
            self.track.pruned_at[gone] = step + 1

    def finish(self, branch: Branch, worker: str) -> None:
        """Hand over the last blocks and all small arrays."""
        self.track.closed = True
        for rows in self._rows.values():
            rows.close()
        small = self._small(branch) | {"worker": worker, "seconds": self.seconds}
        small |= verdict(self.cell, small, self.evidence, len(self.prompt))
        applied = self.applied if self.applied != self.cell.mode else None
        self._sink.finish(small, applied_mode=applied)

    def _small(self, branch: Branch) -> dict[str, Any]:
        sets, ranks = self.track.sets, min(RANKS, self.model.facts.vocab)
        probability = [np.full(len(self.prompt), np.nan), *(each.probability for each in sets)]
        return {
            "token": branch.token,
            "logical": np.concatenate(self._logical),
            "slot_step": branch.slot_step,
            "probability": np.concatenate(probability),
            "prune_score": self._score,
            "pruned_at": self.track.pruned_at,
            "width": np.array([each.tokens.size for each in sets], np.int32),
            "capped": np.array([each.capped for each in sets], bool),
            "threshold_used": np.array([each.threshold for each in sets]),
            "margin_kept": np.array([each.margin_kept for each in sets]),
            "margin_dropped": np.array([each.margin_dropped for each in sets]),
            "margin_order": np.array([each.margin_order for each in sets]),
            "entropy": np.array(self._entropy),
            "top_token": np.array([ids for ids, _ in self._top]).reshape(len(sets), ranks),
            "top_logprob": np.array([logprob for _, logprob in self._top]).reshape(len(sets), ranks),
            "text": self._text(),
        }

    def _text(self) -> str:
        """The prompt and the sets; members of a wider set stand between brackets, best first."""
        parts = [self.cell.prompt]
        for wide, run in groupby(self.track.sets, lambda each: each.tokens.size > 1):
            if not wide:  # in one piece: a character may be made of several tokens
                parts.append(self.model.text_of(*(int(each.tokens[0]) for each in run)))
                continue
            for each in run:
                parts.append(f"[{'|'.join(map(self.model.text_of, each.tokens.tolist()))}]")
        return "".join(parts)
