"""Where answers come from: a cube or a tidy table, as parts at one value of every swept axis."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..dataset.grid import SWEPT
from ..dataset.place import Place
from ..dataset.reading import open_cube
from ..dataset.schema import DONE
from ..errors import BadInput
from . import measures, table
from .axes import Part
from .study import PAIR
from .subjects import is_meant
from .survey import Progress

__all__ = ["Point", "Source", "opened"]

Point = Mapping[str, Any]  # a value of every swept axis


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A name, the values of every swept axis, and the experiments at any point: measured, or only counted."""

    name: str
    axes: Mapping[str, tuple[Any, ...]]
    load: Callable[[Point, Progress | None], Part]
    count: Callable[[Point], int]

    def point(self, at: Mapping[str, Any]) -> dict[str, Any]:
        """The value of each axis: as asked for, else its first."""
        if odd := [name for name in at if name not in self.axes]:
            there = f"its axes are {', '.join(self.axes)}" if self.axes else "it has no swept axis"
            raise BadInput(f"{self.name}: {odd[0]!r} is not swept; {there}")
        return {
            name: _found(name, values, at[name]) if name in at else values[0]
            for name, values in self.axes.items()
        }

    def parts(self, points: Sequence[Point], progress: Progress | None) -> list[Part]:
        """The experiments at each point; progress counts those of all."""
        counts = [self.count(point) for point in points]
        made = []
        for i, point in enumerate(points):
            before, total = sum(counts[:i]), sum(counts)
            told = None if progress is None else lambda n, _, b=before, t=total: progress(b + n, t)
            made.append(self.load(point, told))
        return made


def opened(source: Any, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None) -> Source:
    """A cube (path, URL, or what open_cube gives), or a table (file or DataFrame)."""
    frame = (
        source if isinstance(source, pd.DataFrame) else table.load(source) if table.is_table(source) else None
    )
    if frame is not None:
        if layers is not None or heads is not None:
            raise BadInput("layers and heads can be chosen of a cube, not of a table: it holds their means")
        return _of_frame("table" if frame is source else Path(source).name, frame)
    if not isinstance(source, (str, os.PathLike, Place, xr.Dataset)):
        kind = type(source).__name__
        raise BadInput(
            f"answers are of a cube (path, URL, open_cube) or a table (file, DataFrame), got a {kind}"
        )
    return _of_cube(source if isinstance(source, xr.Dataset) else open_cube(source), layers, heads)


def _of_frame(name: str, frame: pd.DataFrame) -> Source:
    names = [str(column) for column in frame.columns if column in SWEPT]
    axes = {column: _values(frame[column]) for column in names}

    def rows(point: Point) -> pd.DataFrame:
        here = np.ones(len(frame), dtype=bool)
        for column, value in point.items():
            of = frame[column]
            here &= (of.isna() if value is None else of == value).to_numpy(dtype=bool)
        return frame[here]

    return Source(name, axes, lambda point, _: Part(rows(point)), lambda point: len(rows(point)))


def _values(column: "pd.Series[Any]") -> tuple[Any, ...]:
    """Values of an axis in their order; none (no pruning, say) is one."""
    return tuple(dict.fromkeys(None if pd.isna(value) else value for value in column.tolist()))


def _of_cube(cube: xr.Dataset, layers: Sequence[int] | None, heads: Sequence[int] | None) -> Source:
    name = str(cube.attrs.get("url", "this Dataset")).rstrip("/").rsplit("/", 1)[-1]
    if "status" not in cube:
        raise BadInput(f"{name}: has no status; a cube is what tempocube.open_cube gives")
    axes = {
        str(dim): tuple(np.atleast_1d(cube[dim].values).tolist())
        for dim in cube["status"].dims
        if dim in SWEPT
    }

    def part(point: Point) -> xr.Dataset:
        return cube.isel({axis: [axes[axis].index(value)] for axis, value in point.items()})

    def load(point: Point, progress: Progress | None) -> Part:
        here = part(point)
        found = measures.once(here, layers=layers, heads=heads, progress=progress)
        frame = measures.experiments(found)
        both = set(PAIR) <= set(frame["mode"])
        pairs = measures.between(found, *PAIR) if both else None
        return Part(frame, pairs, measures.maps(found), measures.steps(found), here)

    return Source(name, axes, load, lambda point: int((part(point)["status"] == DONE).sum()))


def _found(axis: str, values: Sequence[Any], asked: Any) -> Any:
    """The value of an axis that is meant, be it as text."""
    for value in values:
        if is_meant(value, asked):
            return value
    raise BadInput(f"{axis}={asked}: no such value; {axis} has {', '.join(map(str, values))}")
