"""Reading a cube: lazy, labelled, trimmed to the longest experiment, packed arrays through the table."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing

from ..errors import BadInput
from .cube import Cube
from .encoding import attributes, decode
from .schema import DATA, DIMENSIONS, MARK, Variable

MOST_CHUNKS = 20_000  # dask tasks that a scheduler still takes lightly
CHUNK_BYTES = 32 << 20

Form = Literal["stored", "weights", "logs"]


class LazyArray(BackendArray):
    """A stored array that is read and decoded only where it is indexed."""

    def __init__(
        self, array: "zarr.Array[Any]", variable: Variable | None = None, form: Form = "stored"
    ) -> None:
        self._array, self._codec, self._form = array, variable and variable.codec, form
        self.shape = array.shape
        self.dtype = np.dtype("float32") if self._codec else _plain(array.dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        """The one place where bytes are fetched."""
        stored = np.asarray(self._array.oindex[key])
        if self._codec:
            return decode(stored, self._codec, logs=self._form == "logs")
        if self._form == "logs":
            with np.errstate(divide="ignore"):  # a hidden pair has weight 0 and log -inf
                return np.log(stored)
        return stored.astype(self.dtype, copy=False)


def open_cube(where: Any, chunks: Literal["auto"] | None = None, *, trim: bool = True) -> xr.Dataset:
    """The cube as a lazy xarray.Dataset.

    `attention` and `log_attention` are both there, whatever is stored, if attention was captured; hidden
    pairs are 0 and -inf, what does not exist is NaN. Arrays are cut to the longest experiment (`trim=False`:
    to the capacity). Without `chunks` an array is read when it is indexed and loaded; `chunks="auto"` gives
    dask arrays in blocks of cells by layer.
    """
    if chunks not in (None, "auto"):
        raise BadInput(
            f"chunks must be None or 'auto', got {chunks!r}; use .chunk(...) on the result for others"
        )
    cube = where if isinstance(where, Cube) else Cube.open(where)
    variables = {
        name: variable
        for stored in cube.metas
        for name, variable in (
            _views(cube, cube.data[stored]) if stored in cube.data else _small(cube, stored)
        ).items()
    }
    coordinates = {*cube.labels.dims(), *cube.attrs["coordinates"].split()} | variables.keys() & set(
        DIMENSIONS
    )
    dataset = xr.Dataset(
        {name: variable for name, variable in variables.items() if name not in coordinates},
        {name: variables[name].load() for name in variables if name in coordinates},
        {name: value for name, value in cube.attrs.items() if name != MARK} | {"url": cube.place.url},
    )
    if trim:
        dataset = dataset.isel(_used(dataset))
    if chunks == "auto":
        big = [name for name in dataset.data_vars if "query" in dataset[name].dims or name in cube.data]
        dataset = dataset.assign(
            {name: dataset[name].variable.chunk(_chunks(cube, dataset[name])) for name in big}
        )
    return dataset


def _plain(dtype: Any) -> Any:
    """Text as Python strings: xarray cannot mix NumPy's own string type with missing values."""
    return np.dtype(object) if dtype.kind == "T" else dtype


def _small(cube: Cube, name: str) -> dict[str, xr.Variable]:
    meta = cube.metas[name]
    return {name: _lazy(meta["dimension_names"], LazyArray(cube.array(name)), meta["attributes"])}


def _views(cube: Cube, variable: Variable) -> dict[str, xr.Variable]:
    """What one big array is offered as."""
    if variable.name in ("attention", "log_attention"):
        forms: dict[str, Form] = {"attention": "weights", "log_attention": "logs"}
        if not variable.codec:
            forms["attention"] = "stored"
    else:
        forms = {variable.name: "logs" if variable.codec else "stored"}
    dims, array = cube.metas[variable.name]["dimension_names"], cube.array(variable.name)
    told = {name: DATA[name] if len(forms) > 1 else variable for name in forms}
    return {
        name: _lazy(dims, LazyArray(array, variable, form), attributes(replace(told[name], codec=None)))
        for name, form in forms.items()
    }


def _lazy(dims: list[str], array: LazyArray, attrs: Mapping[str, Any]) -> xr.Variable:
    return xr.Variable(dims, indexing.LazilyIndexedArray(array), attrs)


def _used(dataset: xr.Dataset) -> dict[str, slice]:
    """How much of the capacity the longest experiment needs."""
    slots = int(dataset["length"].max()) if dataset["length"].size else 0
    sets = int((dataset["width"] > 0).sum("step").max()) if dataset["width"].size else 0
    ends = {"slot": slots, "query": slots, "key": slots, "step": sets}
    return {dim: slice(end) for dim, end in ends.items() if dim in dataset.dims}


def _chunks(cube: Cube, array: xr.DataArray) -> dict[str, int]:
    """Blocks of cells by the layers that one inner chunk holds: nothing is decoded twice, tasks are few."""
    cells = dict(zip(cube.labels.dims(), cube.shape, strict=True))
    stored = next((name for name in (array.name, "log_attention", "attention") if name in cube.data), "")
    inner = cube.metas[stored]["codecs"][0]["configuration"]["chunk_shape"][len(cells) :]
    dims = cube.data[stored].dims
    by_layer = {dim: n for dim, n in zip(dims, inner, strict=True) if dim in ("layer", "residual_layer")}
    one = math.prod(by_layer.get(str(dim), n) for dim, n in array.sizes.items() if dim not in cells) * 4
    layers = math.prod(math.ceil(array.sizes[dim] / n) for dim, n in by_layer.items())
    room = max(1, CHUNK_BYTES // max(one, 1), math.ceil(math.prod(cells.values()) * layers / MOST_CHUNKS))
    blocks: dict[str, int] = {}
    for dim in reversed(cells):
        blocks[dim] = min(cells[dim], room)
        room = math.ceil(room / cells[dim])
    return blocks | by_layer
