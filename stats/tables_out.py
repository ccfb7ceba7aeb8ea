"""The measures of a cube as a file that other programs read: CSV, TSV, parquet or netCDF.

>>> save("cube.zarr", "measures.csv")                       # one row an experiment
>>> save("cube.zarr", "maps.nc", table="maps")              # the down-weighting of every head
"""

import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from ..dataset.schema import ROOT
from ..errors import BadInput
from . import measures
from .questions import plain
from .subjects import Subjects
from .survey import Progress, survey

__all__ = ["TABLES", "WRITERS", "save", "table"]

Table = pd.DataFrame | xr.DataArray
TABLES = ("experiments", "between", "steps", "maps")
FLOATS = 1 << 53  # the largest integer up to which float64 has them all


def table(cube: Any, name: str = "experiments", progress: Progress | None = None) -> Table:
    """One table of measures: experiments, between (isolated and visible), steps, or maps."""
    if name not in TABLES:
        raise BadInput(f"there is no table {name!r}; there are {', '.join(TABLES)}")
    found = survey(cube if isinstance(cube, Subjects) else Subjects(cube), progress=progress)
    make: dict[str, Callable[[Any], Table]] = {
        "experiments": measures.experiments,
        "between": measures.between,
        "steps": measures.steps,
        "maps": measures.maps,
    }
    return make[name](found)


def save(
    cube: Any,
    path: str | Path,
    table_name: str = "experiments",
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write one table; the kind of file follows from how its name ends. The file appears when it is whole."""
    path = Path(path).expanduser()
    write = WRITERS.get(path.suffix.lower())
    if write is None:
        raise BadInput(f"{path}: measures go into a file that ends in {', '.join(WRITERS)}")
    if path.exists() and not overwrite:
        raise BadInput(f"{path} exists already; --overwrite replaces it, or name another file")
    must_be_outside(path.parent, path)
    made = table(cube, table_name, progress)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        write(made, part)
        os.replace(part, path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def must_be_outside(folder: Path, *targets: Path) -> None:
    """Refuse to write into a cube, or to replace one."""
    whole = folder.expanduser().resolve()
    for place in (whole, *whole.parents, *targets):
        if (place / ROOT).exists():
            raise BadInput(f"{place} is a cube, which nothing is written into; name a place outside of it")


def _rows(made: Table) -> pd.DataFrame:
    """One row an experiment, pair, set, or head of an experiment; attributes that JSON has."""
    frame = made if isinstance(made, pd.DataFrame) else made.to_dataframe().reset_index()
    frame.attrs = plain(made.attrs)
    return frame


def _delimited(made: Table, path: Path, sep: str) -> None:
    """CSV has no attributes: what must not be forgotten is a column."""
    rows = _rows(made)
    told = {name: rows.attrs[name] for name in ("control",) if rows.attrs.get(name)}
    rows.assign(**told).to_csv(path, sep=sep, index=False, lineterminator="\n")


def _parquet(made: Table, path: Path) -> None:
    _rows(made).to_parquet(path, index=False)


def _netcdf(made: Table, path: Path) -> None:
    """Maps keep their dims, a row of any other table is a `row`; netCDF 3, which every program reads."""
    if isinstance(made, pd.DataFrame):
        data = xr.Dataset({str(name): ("row", _values(made[name].to_numpy())) for name in made.columns})
    else:
        data = made.to_dataset()
        data = data.assign_coords({name: (of.dims, _values(of.values)) for name, of in data.coords.items()})
    data.attrs = {name: _attribute(value) for name, value in plain(made.attrs).items()}
    for name in data.variables:
        data[name].attrs = {}
    data.to_netcdf(path, engine="scipy", format="NETCDF3_64BIT")


def _values(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What netCDF 3 has a type for: text, 32-bit integers, floats; no float holds integers above 2^53."""
    if values.dtype.kind == "b":
        return values.astype(np.int8)
    if values.dtype.kind in "iu":
        most = max(abs(int(values.max(initial=0))), abs(int(values.min(initial=0))))
        if most <= FLOATS:
            return values.astype(np.int32 if most <= np.iinfo(np.int32).max else np.float64)
    return values if values.dtype.kind == "f" else np.array([str(each) for each in values.ravel()], dtype="U")


def _attribute(value: Any) -> str | int | float:
    """What netCDF 3 has a type for; the rest as JSON."""
    small = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= np.iinfo(np.int32).max
    return value if small or isinstance(value, str | float) else json.dumps(value)


WRITERS: dict[str, Callable[[Table, Path], None]] = {
    ".csv": lambda made, path: _delimited(made, path, ","),
    ".tsv": lambda made, path: _delimited(made, path, "\t"),
    ".parquet": _parquet,
    ".nc": _netcdf,
}
