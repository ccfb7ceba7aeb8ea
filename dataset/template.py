"""A cube before any data: metadata of every array, coordinates, and the one commit that makes them so.

An array's metadata is a JSON document; it is made once, by Zarr, and afterwards only its shape changes.
"""

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from ..errors import CubeError
from . import schema
from .encoding import attributes, chunk_shape, index_chunks, shard_shape, status_chunks
from .grid import Grid
from .options import label, number_label, plain
from .schema import CHECKS, INDEX, VOCABULARY, ModelFacts, Variable
from .shards import BLOSC_BLOCK, LEVEL

COORDINATE_CHUNK = 4096
Metas = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Labels:
    """The coordinates of the cell dims: what has been asked of a cube so far, in order of arrival."""

    prompt: tuple[str, ...] = ()
    prompt_text: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    seed: tuple[int, ...] = ()
    mode: tuple[str, ...] = ()
    axes: Mapping[str, tuple[Any, ...]] | None = None

    def dims(self) -> dict[str, tuple[Any, ...]]:
        """Cell dims with their coordinate values."""
        return {"prompt": self.prompt, "seed": self.seed, "mode": self.mode, **(self.axes or {})}

    def extended(self, grid: Grid) -> "Labels":
        """These and what the grid adds; prompts are matched by their text."""
        merged = self._with_prompts(grid)
        axes = dict(self.axes or {})
        for name in grid.axes:
            new = self.spelled(name, grid.axis_labels(name))
            if name in axes and isinstance(axes[name][0], str) != isinstance(new[0], str):
                curve = next(value for value in new if isinstance(value, str) and not _is_number(value))
                raise CubeError(
                    f"{name}: its values are numbers in this cube, the grid adds {curve!r}; "
                    f"capture this grid into a cube of its own"
                )
            axes[name] = _union(axes.get(name, ()), new)
        return replace(
            merged, seed=_union(self.seed, grid.seeds), mode=_union(self.mode, grid.modes), axes=axes
        )

    def spelled(self, axis: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Values as this axis spells them: text where curves stand beside numbers."""
        known = (self.axes or {}).get(axis)
        if not known or not isinstance(known[0], str):
            return values
        return tuple(value if isinstance(value, str) else number_label(value) for value in values)

    def _with_prompts(self, grid: Grid) -> "Labels":
        ids, texts, categories = list(self.prompt), list(self.prompt_text), list(self.category)
        at = {text: i for i, text in enumerate(texts)}
        for prompt in grid.prompts:
            known = at.get(prompt.text)
            if known is None:
                name = prompt.id or next(free for n in count(len(ids)) if (free := f"p{n}") not in ids)
                if name in ids:
                    raise CubeError(f"prompt id {name!r} is taken by {texts[ids.index(name)]!r} in this cube")
                at[prompt.text] = len(ids)
                ids.append(name)
                texts.append(prompt.text)
                categories.append(prompt.category)
            elif prompt.id not in (None, ids[known]):
                raise CubeError(
                    f"prompt {prompt.text!r} has id {ids[known]!r} in this cube, {prompt.id!r} here"
                )
            elif categories[known] != prompt.category:
                raise CubeError(
                    f"prompt {prompt.text!r} has category {categories[known]!r} in this cube, "
                    f"{prompt.category!r} in the grid; give it the same one"
                )
        return replace(self, prompt=tuple(ids), prompt_text=tuple(texts), category=tuple(categories))


def _union(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*old, *(value for value in new if value not in old))


def arrays(grid: Grid, facts: ModelFacts, labels: Labels, sizes: Mapping[str, int], words: int = 0) -> Metas:
    """Metadata of every array of a new cube; `words`: how many tokens have a text."""
    cells = {dim: len(values) for dim, values in labels.dims().items()}
    store = MemoryStore()
    zarr.create_group(store)
    for name, values in coordinates(grid, labels, facts).items():
        dims = ("prompt",) if name in ("prompt_text", "category") else (name,)
        _create(store, name, values.shape, values.dtype, None, (COORDINATE_CHUNK,), dims)
    if words:
        _create(store, VOCABULARY, (words,), np.dtype(object), None, (words,), ("vocab",))
    for variable in INDEX:
        chunks = status_chunks(cells) if variable.name == "status" else index_chunks(cells)
        _create_variable(
            store, variable, cells, sizes, chunks=(*chunks, *(sizes[dim] for dim in variable.dims))
        )
    ones = (1,) * len(cells)
    for variable in schema.data_variables(grid):
        chunk, shard = chunk_shape(variable, dict(sizes)), shard_shape(variable, dict(sizes))
        _create_variable(store, variable, cells, sizes, chunks=(*ones, *chunk), shards=(*ones, *shard))
    names = [name for name in sync(_names(store)) if name.endswith("/zarr.json")]
    return {name.removesuffix("/zarr.json"): json.loads(_read(store, name)) for name in sorted(names)}


def resized(metas: Metas, sizes: Mapping[str, int]) -> Metas:
    """The same arrays for other lengths of their dims; chunks and shards stay as they are."""
    return {
        name: meta
        | {
            "shape": [
                sizes.get(dim, n) for dim, n in zip(meta["dimension_names"], meta["shape"], strict=True)
            ]
        }
        for name, meta in metas.items()
    }


def coordinates(grid: Grid, labels: Labels, facts: ModelFacts) -> dict[str, npt.NDArray[Any]]:
    """Values of every coordinate."""
    text = {"prompt_text": labels.prompt_text, "category": labels.category}
    made: dict[str, npt.NDArray[Any]] = {
        name: np.asarray(values, dtype=object if isinstance(values[0], str) else None)
        for name, values in (labels.dims() | text).items()
    }
    made |= {
        "layer": np.arange(facts.layers, dtype=np.int32),
        "head": np.arange(facts.heads, dtype=np.int32),
        "check": np.asarray(CHECKS, dtype=object),
    }
    if grid.capture.residual or grid.capture.project:
        made["residual_layer"] = np.arange(facts.layers + 1, dtype=np.int32)
    if grid.capture.project:
        made["trait"] = np.asarray([name for name, _ in grid.capture.project], dtype=object)
    if grid.capture.internals:
        chosen = grid.capture.neurons
        made["neuron"] = np.asarray(range(facts.neurons) if chosen == "all" else chosen, dtype=np.int32)
    return made


def axis_values(grids: Iterable[Grid], labels: Labels) -> dict[str, dict[str, Any]]:
    """What the labels of an axis stand for: curves, prunings and ablations in the grid file's syntax."""
    meant: dict[str, dict[str, Any]] = {}
    for grid in grids:
        for name in grid.axes:
            spelled = labels.spelled(name, tuple(label(value) for value in grid.values(name)))
            written = {str(key): plain(value) for key, value in zip(spelled, grid.values(name), strict=True)}
            meant.setdefault(name, {}).update(written)
    return meant


def _is_number(text: str) -> bool:
    return text.replace(".", "").replace("e-", "").isdigit()


def root(metas: Metas, attrs: Mapping[str, Any]) -> bytes:
    """The document whose put is the commit: attributes and the metadata of all arrays."""
    inline = {"kind": "inline", "must_understand": False, "metadata": metas}
    return document(
        {"zarr_format": 3, "node_type": "group", "attributes": attrs, "consolidated_metadata": inline}
    )


def document(content: Mapping[str, Any]) -> bytes:
    """A metadata document as it is stored."""
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def _create_variable(
    store: MemoryStore, variable: Variable, cells: Mapping[str, int], sizes: Mapping[str, int], **how: Any
) -> None:
    shape = (*cells.values(), *(sizes[dim] for dim in variable.dims))
    dims = (*cells, *variable.dims)
    _create(
        store,
        variable.name,
        shape,
        variable.dtype,
        variable.fill,
        how["chunks"],
        dims,
        how.get("shards"),
        attributes(variable),
    )


def _create(
    store: MemoryStore,
    name: str,
    shape: tuple[int, ...],
    dtype: Any,
    fill: Any,
    chunks: tuple[int, ...],
    dims: tuple[str, ...],
    shards: tuple[int, ...] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> None:
    # shards of all cells in one folder: making folders takes longer than writing small shards
    between = "/" if shards is None else "."
    text = dtype == "string" or dtype == np.dtype(object)
    blosc = BloscCodec(cname="zstd", clevel=LEVEL, shuffle="shuffle", blocksize=BLOSC_BLOCK)
    codecs: list[Any] = [blosc, Crc32cCodec()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Zarr says of strings concerns fixed-length ones
        zarr.create_array(
            store,
            name=name,
            shape=shape,
            dtype="string" if text else dtype,
            fill_value=("" if text else 0) if fill is None else fill,
            chunks=chunks,
            shards=shards,
            compressors=ZstdCodec(level=3, checksum=True) if text else codecs,
            chunk_key_encoding={"name": "default", "separator": between},
            dimension_names=dims,
            attributes=dict(attrs or {}),
        )


async def _names(store: MemoryStore) -> list[str]:
    return [name async for name in store.list()]


def _read(store: MemoryStore, name: str) -> bytes:
    found = sync(store.get(name, default_buffer_prototype()))
    if found is None:
        raise KeyError(name)
    return found.to_bytes()
