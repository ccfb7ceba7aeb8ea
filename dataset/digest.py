"""The two hashes of a cell: `digest` over what is stored, `path_digest` over what the experiment was."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .encoding import MISSING
from .schema import INDEX, Variable
from .visibility import visibility

Array = npt.NDArray[Any]


@dataclass
class Digest:
    """Hash of a cell, fed with its big arrays block by block and its small ones at the end."""

    blocks: dict[str, list[str]] = field(default_factory=dict)

    def block(self, variable: Variable, values: Array) -> None:
        """Add the next block of rows, as stored; keys that no row of it has yet do not count."""
        self.blocks.setdefault(variable.name, []).append(_hash(_without_later_keys(variable, values)))

    def finish(self, small: Mapping[str, object], names: tuple[str, ...]) -> str:
        """The digest; `names` are the big arrays of the cube in the order of the schema."""
        parts: list[object] = [(name, self.blocks.get(name, [])) for name in names]
        for variable in INDEX:
            if variable.content:
                value = small[variable.name]
                text = str(value) if variable.dtype == "string" else _hash(np.asarray(value, variable.dtype))
                parts.append((variable.name, text))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def path_digest(
    prompt: str,
    model: str,
    control: str | None,
    ablate: tuple[str, ...],
    mode: str,
    small: Mapping[str, Array],
) -> str:
    """Hash of prompt, tokens, steps, positions, applied visibility, ablation, control and model.

    Visibility counts as the mask it made, not as the mode's name: an experiment whose sets all have one
    token is the same experiment in every mode.
    """
    arrays = {
        name: np.asarray(small[name], dtype=np.int64)
        for name in ("token", "logical", "slot_step", "pruned_at")
    }
    seen = visibility(mode, arrays["logical"], arrays["slot_step"], arrays["pruned_at"])
    header = [prompt, model, control, list(ablate)]
    del arrays["pruned_at"]  # what it did is in the mask
    parts = [header, _hash(np.packbits(seen)), {name: _hash(values) for name, values in arrays.items()}]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _without_later_keys(variable: Variable, values: Array) -> Array:
    """Drop trailing keys that are fill in every row: their number depends on when the block was made."""
    if variable.dims[-1] != "key":
        return values
    absent = values == MISSING if variable.codec else np.isnan(values)
    there = np.flatnonzero(~absent.all(axis=tuple(range(values.ndim - 1))))
    return values[..., : there[-1] + 1 if there.size else 0]


def _hash(values: Array) -> str:
    plain = np.ascontiguousarray(values)
    if plain.dtype.kind == "f" and (nan := np.isnan(plain)).any():  # any NaN is the same NaN
        plain = np.where(nan, plain.dtype.type(np.nan), plain)
    little = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
    hasher = hashlib.sha256(f"{plain.dtype.name}{plain.shape}".encode())
    hasher.update(little.data if little.size else b"")
    return hasher.hexdigest()


def vocabulary_hash(words: Iterable[str]) -> str:
    """What tells a vocabulary that is whole from one that is not."""
    return hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()
