"""Reading the original TEMPO's files as they are: arrays by step and JSON; never a pickle."""

import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BadInput
from .fit import MOST_SLOTS

Array = npt.NDArray[Any]
Steps = dict[int, dict[str, Array]]

_STEP = re.compile(r"step_(\d{1,9})_(\w+)", re.ASCII)
_UNREAD = ("metadata",)  # a pickle in every file of the original; it names the experiment, nothing more


def arrays(path: Path) -> dict[str, Array]:
    """The arrays of an npz file; empty where there is no such file."""
    if not path.exists():
        return {}
    if not zipfile.is_zipfile(path):
        raise BadInput(f"{path}: is not a whole npz file")
    found = {}
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            for name in file.files:
                if name not in _UNREAD:
                    found[name] = _numbers(path, name, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, TypeError, MemoryError) as error:
        raise BadInput(f"{path}: is not a whole npz file ({_first(error)})") from error
    return found


def _numbers(path: Path, name: str, file: Any) -> Array:
    try:
        values = np.asarray(file[name])
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise BadInput(
            f"{path}: {name} is a pickled object, which is not opened; save plain arrays"
        ) from None
    if values.dtype.kind not in "fiub":
        raise BadInput(f"{path}: {name} has type {values.dtype}, numbers are needed")
    return values


def steps(path: Path, needed: str, *, gaps: bool = False) -> Steps:
    """step -> {what: array} for the steps that have what is needed; without gaps they are 0, 1, 2 ..."""
    found: Steps = {}
    for name, values in arrays(path).items():
        if match := _STEP.fullmatch(name):
            found.setdefault(int(match[1]), {})[match[2]] = values
    found = {step: found[step] for step in sorted(found) if needed in found[step]}
    if not gaps and list(found) != list(range(len(found))):
        gap = next(n for n in range(len(found) + 1) if n not in found)
        raise BadInput(f"{path}: step_{gap}_{needed} is missing, though there are later steps")
    for step, of in found.items():
        if "positions" not in of or of["positions"].ndim != 1 or not of["positions"].size:
            raise BadInput(f"{path}: step_{step}_positions must be a list of one position or more")
        of["positions"] = _slots(path, f"step_{step}_positions", of["positions"])
        if "query" in of and of["query"].size != 1:
            raise BadInput(f"{path}: step_{step}_query must be one slot, got {of['query'].size}")
        if "query" in of:
            of["query"] = _slots(path, f"step_{step}_query", of["query"])
    return found


def _slots(path: Path, name: str, values: Array) -> Array:
    """Whole numbers that a slot can have, whatever type they are stored in."""
    for value in values.ravel():
        if not (0 <= value < MOST_SLOTS and value == int(value)):
            raise BadInput(
                f"{path}: {name} must hold whole numbers of at least 0 and below {MOST_SLOTS}, got {value}"
            )
    return values.astype(np.int64)


def mapping(path: Path) -> dict[str, Any]:
    """A JSON file with an object in it; empty where there is no such file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: is not JSON ({_first(error)})") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path}: must hold an object such as {{...}}, got a {type(found).__name__}")
    return found


def attention_of(path: Path, name: str, found: Array) -> Array:
    """(layer, head, query, key) of what the original wrote as (layer, 1, head, query, key)."""
    rows = found[:, 0] if found.ndim == 5 and found.shape[1] == 1 else found
    if rows.ndim != 4 or not rows.size or rows.shape[2] > rows.shape[3]:
        raise BadInput(
            f"{path}: {name} has shape {found.shape}, "
            "expected (layers, 1, heads, queries, keys) with no more queries than keys"
        )
    return rows.astype(np.float32)


def logits_of(path: Path, step: int, values: Mapping[str, Array], *, logs: bool) -> Array:
    """(vocab,): the readout of one step as log-probabilities; `logs`: it is already."""
    found = values["logits"]
    if found.ndim not in (1, 2) or (found.ndim == 2 and found.shape[0] != 1) or found.shape[-1] < 2:
        raise BadInput(f"{path}: step_{step}_logits has shape {found.shape}, expected (1, vocabulary)")
    row = found.reshape(-1).astype(np.float64)
    if not np.isfinite(row.max()) or np.isnan(row).any():
        raise BadInput(f"{path}: step_{step}_logits has values that are not finite")
    if logs:
        return row
    row -= row.max()
    return np.asarray(row - np.log(np.exp(row).sum()))


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
