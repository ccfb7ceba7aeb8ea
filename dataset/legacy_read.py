"""One experiment from a folder of the original TEMPO's result files, or of those written here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import BadInput
from . import legacy_names as names
from .fit import MOST_SLOTS
from .legacy_arrays import Array, Steps, arrays, attention_of, logits_of, steps
from .legacy_log import config_of, log_of, sets_of
from .visibility import PROMPT, asked_rows, existence

Keys = Literal["sets", "cache"]
Sets = tuple[tuple[int, ...], ...]
UNKNOWN = -1  # a token whose id no file tells
MOST_WEIGHTS = 1 << 31  # of one experiment: 8 GiB, which a file of a few kilobytes can ask for


class Missing(NamedTuple):
    """What the files do not hold, or what was left out; many: how many, where that is known."""

    what: str
    many: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Legacy:
    """What the files of one folder say.

    prompt, sets: token ids; attention: (layer, head, slot, slot), NaN where no row was kept; logits: (step,
    vocab); shape: layers, heads, vocabulary, 0 where there is none; missing: what no file tells.
    """

    folder: Path
    files: tuple[str, ...]
    log: Mapping[str, Any]
    config: Mapping[str, Any]
    prompt: tuple[int, ...]
    sets: Sets
    attention: Array | None
    logits: Array | None
    shape: tuple[int, int, int]
    queries: str
    missing: tuple[Missing, ...]

    @property
    def ours(self) -> bool:
        """Whether tempocube wrote it."""
        return _ours(self.log)

    @property
    def width(self) -> Array:
        """(step,): tokens of each set."""
        return np.array([len(tokens) for tokens in self.sets], dtype=np.int64)

    @property
    def slot_step(self) -> Array:
        """(slot,): as in a cube."""
        return _slot_step(len(self.prompt), self.sets)

    def light(self) -> "Legacy":
        """The same without its arrays."""
        return replace(self, attention=None, logits=None)


def read(folder: Path, keys: Keys = "sets") -> Legacy:
    """The experiment in a folder; keys: whether columns of attention are the sets' tokens or a cache's."""
    log, config = log_of(folder), config_of(folder)
    attention = steps(folder / names.ATTENTION, "attention", gaps=_ours(log))
    readouts = steps(folder / names.LOGITS, "logits")
    positions = _positions(folder, log, attention, readouts)
    logits, missing = _logits(folder, readouts, logs=_ours(log)), list[Missing]()
    prompt, sets = _tokens(folder, log, positions, logits, missing)
    for step, values in attention.items():
        name = f"step_{step}_attention"
        values["attention"] = attention_of(folder / names.ATTENTION, name, values["attention"])
    columns = {step: int(values["attention"].shape[-1]) for step, values in attention.items()}
    if keys == "cache" and _ours(log):
        raise BadInput(
            f"{folder} was written by tempocube: its columns are all tokens; leave out --keys cache"
        )
    if keys == "cache":
        prompt, sets = _cached(folder, sets, columns, missing)
    elif not _labelled(len(prompt), sets, columns, missing):
        attention = {}
    matrix = _matrix(folder, attention, prompt, sets)
    queries = _queries(matrix, _slot_step(len(prompt), sets), missing)
    if logits is None:
        missing.append(Missing("logits: no readout"))
    shape = (*((0, 0) if matrix is None else matrix.shape[:2]), 0 if logits is None else logits.shape[1])
    if _ours(log):
        _must_match(folder, log, shape)
    files = tuple(sorted(path.name for path in folder.iterdir() if path.is_file()))
    return Legacy(
        *(folder, files, log, config, prompt, sets, matrix, logits),
        *(shape, queries, tuple(missing)),
    )


def _ours(log: Mapping[str, Any]) -> bool:
    return log.get("format") == names.FORMAT


def _must_match(folder: Path, log: Mapping[str, Any], shape: tuple[int, int, int]) -> None:
    """Arrays must be as large as the log says, where there are any."""
    told = len(log["layers"]), len(log["heads"]), log["model"]["vocab"]
    for name, says, has in zip(("layers", "heads", "tokens"), told, shape, strict=True):
        if has and says != has:
            raise BadInput(f"{folder}: its arrays have {has} {name}, {names.LOG} says {says}")


def _slot_step(prompt: int, sets: Sets) -> Array:
    widths = [len(tokens) for tokens in sets]
    return np.asarray(np.r_[np.full(prompt, PROMPT), np.repeat(np.arange(len(sets)), widths)])


def _positions(folder: Path, log: Mapping[str, Any], *found: Steps) -> list[list[int]]:
    """Slots of each set, which must follow one another; every file must tell the same."""
    told = [{step: values["positions"].tolist() for step, values in of.items()} for of in found]
    if _ours(log):
        told.append({step: each["positions"] for step, each in enumerate(log["steps"])})
    elif not any(told):
        raise BadInput(f"{folder}: has neither {names.ATTENTION} nor {names.LOGITS} with a step in it")
    longest = max(told, key=len)
    for step, here in ((step, here) for other in told for step, here in other.items()):
        if (one := longest.get(step)) != here:
            raise BadInput(f"{folder}: its files differ in the positions of step {step}: {one}, {here}")
    end = longest[0][0]
    for step, slots in longest.items():
        if slots != list(range(end, end + len(slots))):
            raise BadInput(f"{folder}: step {step} has positions {slots}, they should go on at {end}")
        end += len(slots)
    if end > MOST_SLOTS:
        raise BadInput(f"{folder}: has {end} slots, a cube has room for {MOST_SLOTS}")
    return list(longest.values())


def _logits(folder: Path, found: Steps, *, logs: bool) -> Array | None:
    """(step, vocab)."""
    path = folder / names.LOGITS
    rows = [logits_of(path, step, values, logs=logs) for step, values in found.items()]
    if sizes := {row.size for row in rows} if rows else set():
        if len(sizes) > 1:
            raise BadInput(f"{path}: its steps have vocabularies of {sorted(sizes)} tokens, one is needed")
        return np.stack(rows)
    return None


def _tokens(
    folder: Path,
    log: Mapping[str, Any],
    positions: list[list[int]],
    logits: Array | None,
    missing: list[Missing],
) -> tuple[tuple[int, ...], Sets]:
    """Token ids of the prompt and of every set."""
    if _ours(log):
        return tuple(log["prompt_tokens"]), tuple(tuple(step["tokens"]) for step in log["steps"])
    told = _told_sets(folder, positions)
    best = None if logits is None else np.argsort(-logits, axis=1, kind="stable")
    made, guessed = [], 0
    for step, slots in enumerate(positions):
        tokens = told.get(step)
        if tokens is None and best is not None and step < len(best):
            if len(slots) > best.shape[1]:
                raise BadInput(
                    f"{folder}: step {step} has {len(slots)} positions, its readout {best.shape[1]} tokens"
                )
            tokens, guessed = [int(token) for token in best[step][: len(slots)]], guessed + 1
        made.append(tuple(tokens or [UNKNOWN] * len(slots)))
    if guessed:
        missing.append(
            Missing("tokens of sets that no file tells: taken as the best of the readout", guessed)
        )
    if any(UNKNOWN in tokens for tokens in made):
        missing.append(Missing(f"tokens of sets without readout: unknown, {UNKNOWN}"))
    missing.append(Missing(f"tokens of the prompt: unknown, {UNKNOWN}"))
    if logits is not None and max(map(max, made)) >= logits.shape[1]:
        raise BadInput(
            f"{folder}: token {max(map(max, made))} is not among the {logits.shape[1]} of its logits"
        )
    return (UNKNOWN,) * positions[0][0], tuple(made)


def _told_sets(folder: Path, positions: list[list[int]]) -> dict[int, list[int]]:
    """step -> tokens, of parallel_sets.json, whose positions must be those of the steps."""
    path, told = folder / names.SETS, {}
    for each in sets_of(folder):
        step, tokens, slots = each.step, list(each.tokens), list(each.positions)
        if step >= len(positions) or slots != positions[step] or len(tokens) != len(slots):
            there = positions[step] if step < len(positions) else f"none, steps end at {len(positions) - 1}"
            raise BadInput(f"{path}: step {step} has {len(tokens)} tokens at {slots}; captured: {there}")
        told[step] = tokens
    return told


def _labelled(prompt: int, sets: Sets, columns: dict[int, int], missing: list[Missing]) -> bool:
    """Whether columns of attention are the tokens of prompt and sets; what is not is counted and said."""
    ends = np.r_[0, np.cumsum([len(tokens) for tokens in sets])] + prompt
    if all(n == ends[step] for step, n in columns.items()):
        return True
    wide = [step for step, tokens in enumerate(sets) if len(tokens) > 1 and step + 1 in columns]
    lost = sum(int(slot >= columns[step + 1]) for step in wide for slot in range(*ends[step : step + 2]))
    missing.append(
        Missing("attention: left out, its key axis is not labelled (--keys cache reads a cache's)")
    )
    missing.append(Missing("positions of parallel sets that lie outside the matrix that comes next", lost))
    return False


def _cached(
    folder: Path, sets: Sets, columns: dict[int, int], missing: list[Missing]
) -> tuple[tuple[int, ...], Sets]:
    """The experiment as the cache had it: one token of each set was fed, the last one."""
    keys = list(columns.values())
    if not keys or keys != list(range(keys[0], keys[0] + len(keys))):
        raise BadInput(
            f"{folder}: --keys cache needs attention that grows by one column a step, got {keys[:8]}"
        )
    gone = sum(map(len, sets)) - len(sets)
    missing.append(Missing("parallel tokens that were never fed: left out", gone))
    missing.append(Missing("columns are those of the cache: one token of each set, the last"))
    return (UNKNOWN,) * keys[0], tuple(tokens[-1:] for tokens in sets)


def _matrix(folder: Path, found: Steps, prompt: tuple[int, ...], sets: Sets) -> Array | None:
    """(layer, head, slot, slot): every row that some file holds; NaN elsewhere."""
    step = _slot_step(len(prompt), sets)
    out: Array | None = None
    for name, rows, slots in _rows(folder, found):
        if out is None and rows.shape[0] * rows.shape[1] * step.size**2 > MOST_WEIGHTS:
            raise BadInput(
                f"{folder}: {rows.shape[0]} layers, {rows.shape[1]} heads and {step.size} slots are more "
                f"than the {MOST_WEIGHTS} weights that are read of an experiment"
            )
        if out is None:
            out = np.full((*rows.shape[:2], step.size, step.size), np.nan, dtype=np.float32)
        if rows.shape[:2] != out.shape[:2] or slots.stop > step.size or rows.shape[3] > step.size:
            raise BadInput(
                f"{folder}: {name} has {rows.shape[0]} layers, {rows.shape[1]} heads, {rows.shape[3]} keys; "
                f"the others have {out.shape[0]}, {out.shape[1]} and at most {step.size}"
            )
        out[:, :, slots, : rows.shape[3]] = rows
    if out is not None:
        out[..., ~existence(step)] = np.nan
    return out


def _rows(folder: Path, found: Steps) -> Iterator[tuple[str, Array, slice]]:
    """(layer, head, query, key) and the slots of its queries, which are the newest unless the file says."""
    parts = {f"step_{step}_attention": values["attention"] for step, values in found.items()}
    asked = {f"step_{step}_attention": values.get("query") for step, values in found.items()}
    for path, some in ((folder / names.ATTENTION, parts), (folder / names.ROWS, arrays(folder / names.ROWS))):
        for name, values in some.items():
            rows = attention_of(path, name, values)
            queries, keys = rows.shape[2:]
            told = asked.get(name)
            start = keys - queries if told is None or queries > 1 else int(told.reshape(-1)[0])
            if not 0 <= start < keys:
                raise BadInput(f"{path}: {name} has {keys} keys, its query is said to be slot {start}")
            yield name, rows, slice(start, start + queries)


def _queries(matrix: Array | None, step: Array, missing: list[Missing]) -> str:
    """Which `queries` of a grid the rows are; what is lacking of those is said."""
    if matrix is None:
        missing.append(Missing("attention: none"))
        return "all"
    there = ~np.isnan(matrix[0, 0]).all(axis=1)
    fits = [kind for kind in ("last", "generated") if not (there & ~asked_rows(kind, step)).any()]
    kind = (*fits, "all")[0]
    if (
        max(np.bincount(step[step >= 0]), default=0)
        > 1
        >= max(np.bincount(step[there & (step >= 0)]), default=0)
    ):
        missing.append(Missing("attention: next-token rows only, no sibling rows"))
    if gaps := int((asked_rows(kind, step) & ~there).sum()):
        missing.append(Missing("rows of attention that were not kept, the last set's among them", gaps))
    return kind
