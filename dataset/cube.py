"""An open cube: its root document, and what follows from it."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property, reduce
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store
from zarr.storage import StorePath

from ..errors import BadInput, CubeError, DamagedError, TempoError
from .grid import Cell, Grid
from .options import label
from .place import Place
from .replacing import finish_swap
from .schema import (
    INDEX,
    MARK,
    NOT_ASKED,
    REPLACING,
    ROOT,
    SCHEMA_VERSION,
    ModelFacts,
    Variable,
    captured,
    data_variables,
)
from .template import Labels

Index = tuple[int, ...]


class Cube:
    """A committed cube. It does not change; after an extension one opens it anew."""

    def __init__(self, place: Place, document: Mapping[str, Any]) -> None:
        self.place = place
        self.attrs: dict[str, Any] = document["attributes"]
        self.metas: dict[str, dict[str, Any]] = document["consolidated_metadata"]["metadata"]

    @classmethod
    def open(cls, where: Any) -> "Cube":
        """The cube at a path or URL; one line says what is there instead."""
        place = Place.at(where)
        cube = cls.find(place)
        if cube is None:
            raise CubeError(f"{place}: no cube there" + (" (it has no zarr.json)" if place.exists() else ""))
        return cube

    @classmethod
    def find(cls, place: Place) -> "Cube | None":
        """The cube at a place, None where there is no Zarr root; anything else there is refused by name."""
        finish_swap(place)
        data = place.get(ROOT)
        return None if data is None else cls.parse(place, data)

    @classmethod
    def parse(cls, place: Place, data: bytes) -> "Cube":
        """The cube that a root document describes."""
        try:
            document = json.loads(data)
            attrs = document["attributes"] | {}
        except (ValueError, KeyError, TypeError) as error:
            raise CubeError(f"{place}: its zarr.json is not one ({error})") from error
        if REPLACING in attrs:
            raise CubeError(f"{place} is being replaced; overwrite it again with the same grid to finish")
        if MARK not in attrs:
            raise CubeError(f"{place} is a Zarr store, but not a tempocube cube")
        if attrs[MARK] != SCHEMA_VERSION:
            raise CubeError(
                f"{place} has schema {attrs[MARK]!r}, this version reads {SCHEMA_VERSION}; "
                f"use the tempocube that wrote it"
            )
        try:
            cube = cls(place, document)
            _ = cube.grids, cube.facts, cube.sizes, cube.shape, cube.attrs["traits"]
        except (LookupError, TypeError, AttributeError, BadInput) as error:
            raise CubeError(
                f"{place}: its zarr.json was damaged by another tool ({one_line(error)})"
            ) from error
        return cube

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """Every grid that was asked of it, in order."""
        return tuple(Grid.from_dict(grid) for grid in self.attrs["grid"])

    @cached_property
    def facts(self) -> ModelFacts:
        """Its model."""
        return ModelFacts.from_dict(self.attrs["model"])

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Length of every dim."""
        return {
            dim: size
            for meta in self.metas.values()
            for dim, size in zip(meta["dimension_names"], meta["shape"], strict=True)
        } | {"key": self.metas["token"]["shape"][-1], "query": self.metas["token"]["shape"][-1]}

    @cached_property
    def data(self) -> dict[str, Variable]:
        """The big arrays, by the name they have in the cube."""
        return {variable.name: variable for variable in data_variables(self.grids[0])}

    @cached_property
    def labels(self) -> Labels:
        """Coordinates of the cell dims."""
        axes = {name: self._values(name) for name in self.grids[0].axes}
        named = {name: self._values(name) for name in ("prompt", "prompt_text", "category", "seed", "mode")}
        return Labels(**cast(Any, named), axes=axes)

    def asked_labels(self) -> Labels:
        """What the coordinates must be, by the grids that were asked."""
        return reduce(Labels.extended, self.grids, Labels())

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Cells along each cell dim."""
        return tuple(self.metas["status"]["shape"])

    def captured(self, variable: Variable) -> dict[str, list[int]]:
        """Dims of a big array of which only a part was asked for, with the part."""
        return captured(self.grids[0], variable)

    def array(self, name: str, store: Store | None = None) -> "zarr.Array[Any]":
        """One array as the root describes it (its own zarr.json may be ahead, in a half-done extension)."""
        return zarr.Array.from_dict(StorePath(store or self._store, name), self.metas[name])

    @cached_property
    def _store(self) -> Store:
        return self.place.zarr()

    def read(self, name: str, index: Index = ()) -> npt.NDArray[Any]:
        """One small array, all of it or one cell's."""
        try:
            return np.asarray(self.array(name)[index or ...])
        except TempoError:
            raise
        except Exception as error:  # whatever a damaged file makes a codec raise
            raise DamagedError(f"{self.place}: {name} cannot be read: {one_line(error)}") from error

    def row(self, index: Index, small: Mapping[str, npt.NDArray[Any]] | None = None) -> dict[str, Any]:
        """One cell's value of every small variable, cut to its length and its sets; `small`: read before."""
        row: dict[str, Any] = {
            v.name: small[v.name][index] if small and v.name in small else self.read(v.name, index)[()]
            for v in INDEX
        }
        sizes = {"slot": int(row["length"]), "step": int(np.count_nonzero(row["width"]))}
        for variable in INDEX:
            value = row[variable.name]
            if variable.dims:
                row[variable.name] = value[tuple(slice(sizes.get(dim)) for dim in variable.dims)]
            elif variable.dtype == "string":
                row[variable.name] = str(value)
        return row

    def status(self) -> npt.NDArray[np.uint8]:
        """Status of every cell: one small read."""
        return cast("npt.NDArray[np.uint8]", self.read("status"))

    def cells(self, *status: int) -> list[Index]:
        """Cells with one of these statuses (without any given: those that were asked for)."""
        now = self.status()
        chosen = np.isin(now, status) if status else now != NOT_ASKED
        return [tuple(int(i) for i in index) for index in np.argwhere(chosen)]

    def index(self, cell: Cell) -> Index:
        """Where a cell lies."""
        names = {"prompt": cell.prompt, "seed": cell.seed, "mode": cell.mode}
        values = names | {
            axis: self.labels.spelled(axis, (label(getattr(cell, axis)),))[0] for axis in self.grids[0].axes
        }
        try:
            return tuple(self._positions[dim][value] for dim, value in values.items())
        except KeyError as error:
            raise CubeError(
                f"{self.place}: no cell with {error.args[0]!r}; it was not asked of this cube"
            ) from None

    def cell(self, index: Index) -> Cell:
        """The experiment at a place."""
        try:
            return self._cells[tuple(index)]
        except KeyError:
            raise CubeError(f"{self.place}: {self.name(index)} was not asked of this cube") from None

    @cached_property
    def _cells(self) -> dict[Index, Cell]:
        return {index: cell for grid in self.grids for index, cell in self.asked(grid)}

    def asked(self, grid: Grid) -> Iterator[tuple[Index, Cell]]:
        """The cells of one grid, with where they lie."""
        return ((self.index(cell), cell) for cell in grid.cells())

    def name(self, index: Index) -> str:
        """A cell in words, for messages."""
        dims = self.labels.dims()
        return " ".join(f"{dim}={values[i]}" for (dim, values), i in zip(dims.items(), index, strict=True))

    @cached_property
    def _positions(self) -> dict[str, dict[Any, int]]:
        dims = self.labels.dims() | {"prompt": self.labels.prompt_text}
        return {dim: {value: i for i, value in enumerate(values)} for dim, values in dims.items()}

    def _values(self, name: str) -> tuple[Any, ...]:
        return tuple(
            value.item() if isinstance(value, np.generic) else str(value) for value in self.read(name)
        )


def one_line(error: BaseException) -> str:
    """An error of a library, short enough for a line."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def chunk_index(key: str) -> Index:
    """Where in its array a chunk or shard lies, by its key; empty for a file that is none."""
    mark, *parts = re.split("[./]", key.partition("/")[2])
    return tuple(map(int, parts)) if mark == "c" and all(part.isdecimal() for part in parts) else ()
