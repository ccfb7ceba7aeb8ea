"""A tidy frame from a file: one row an experiment, whoever measured it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import BadInput

__all__ = ["is_table", "load"]

MISSING = ["", "NA", "N/A", "n/a", "<NA>", "NaN", "nan", "-nan", "NULL", "null", "None"]  # of numbers
WORDS = ("prompt", "category", "mode", "path_digest", "reason", "readout", "prune", "ablate", "control")
READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": lambda path: _delimited(path, ","),
    ".tsv": lambda path: _delimited(path, "\t"),
    ".parquet": pd.read_parquet,
}


def is_table(where: Any) -> bool:
    """Whether a path is that of a table, by how its name ends."""
    return isinstance(where, str | Path) and _kind(Path(where)) in READERS


def load(path: str | Path) -> pd.DataFrame:
    """The table in a CSV, TSV (compressed or not) or parquet file; its columns are not judged here."""
    path = Path(path).expanduser()
    try:
        return _marked(READERS[_kind(path)](path))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except KeyError:
        raise BadInput(f"{path}: a table ends in {', '.join(READERS)}") from None
    except (OSError, ValueError) as error:  # what is no table is told by pandas as one of its ValueErrors
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path}: cannot be read as a table ({why})") from error


def _marked(frame: pd.DataFrame) -> pd.DataFrame:
    """A table that was exported from a control cube stays one."""
    controls = frame["control"].dropna().unique().tolist() if "control" in frame.columns else []
    if said := [str(each) for each in controls if str(each)]:
        frame.attrs["control"] = ", ".join(said)
    return frame


def _kind(path: Path) -> str:
    packed = path.suffix in (".gz", ".bz2", ".xz", ".zst")
    return Path(path.stem).suffix.lower() if packed else path.suffix.lower()


def _delimited(path: Path, sep: str) -> pd.DataFrame:
    """A prompt may be called NA, or 007: words are words, and only numbers can be missing by name."""
    header = pd.read_csv(path, sep=sep, header=None, nrows=1, dtype=str, keep_default_na=False)
    names = [str(name) for name in header.iloc[0]]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise BadInput(f"{path}: there are several columns {twice[0]!r}")
    if len(names) == 1 and any(mark in names[0] for mark in ",;\t"):
        raise BadInput(
            f"{path}: its columns are not separated by {sep!r}, as those of a {path.suffix} are here"
        )
    missing = {name: [""] if name in WORDS else MISSING for name in names}
    words = {name: str for name in names if name in WORDS}
    frame = pd.read_csv(path, sep=sep, dtype=words, keep_default_na=False, na_values=missing)
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes what is too much for row names
        raise BadInput(f"{path}: its rows have more values than its header has names")
    return frame
