"""A tidy frame as the questions see it: (prompt, seed, mode) tables, prompt means, differences of modes.

>>> made = read(frame, "downweighting")
>>> made.y.shape, made.means
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..dataset.grid import SWEPT
from ..errors import BadInput
from ..words import how_many

__all__ = [
    *("LOGS", "PAIR", "Study", "keep", "lacks", "mean_over"),
    *("must_have", "on_prompts", "per_seed", "read", "reason_of", "settled"),
]

Array = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.integer[Any]]

KEYS = ("prompt", "category", "seed", "mode")
PAIR = ("isolated", "visible")
BASELINE = "single"
MOST_LOG = 100.0  # e^100: no two weights are so far apart
LOGS = ("downweighting", "downweighting_per_set", "cross_parallel", "cross_parallel_plain")


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """One number per experiment. y (prompts, seeds, modes) is the response in the compared modes.

    NaN where an experiment is missing. copies: seeds were copies of each other, so y has one for all.
    """

    frame: pd.DataFrame
    response: str
    prompts: tuple[str, ...]
    category_of: tuple[str, ...]
    seeds: tuple[Any, ...]
    modes: tuple[str, ...]
    copies: bool
    y: Array

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of categories in the order of their codes."""
        return tuple(dict.fromkeys(self.category_of))

    @property
    def codes(self) -> Codes:
        """(prompts,) the category of each, counted from 0."""
        names = self.categories
        return np.array([names.index(name) for name in self.category_of], dtype=np.intp)

    @property
    def means(self) -> Array:
        """(prompts,) means over seeds and modes."""
        return settled(self.y)

    @property
    def complete(self) -> bool:
        """Whether no experiment is missing."""
        return not np.isnan(self.y).any()

    @property
    def logs(self) -> bool:
        """Whether the response is the log of a ratio."""
        return self.response in LOGS

    def table(self, column: str, modes: Sequence[str] | None = None) -> Array:
        """(prompts, seeds, modes) any column; one seed stands for all where they are copies."""
        modes = self.modes if modes is None else modes
        _must_be_numbers(self.frame, column)
        values = np.full((len(self.prompts), len(self.seeds), len(modes)), np.nan)
        rows = self.frame[self.frame["mode"].isin(modes) & self.frame["prompt"].isin(self.prompts)]
        where = (
            pd.Index(self.prompts).get_indexer(pd.Index(rows["prompt"])),
            pd.Index(self.seeds).get_indexer(pd.Index(rows["seed"])),
            pd.Index(modes).get_indexer(pd.Index(rows["mode"])),
        )
        told = np.asarray(rows[column], dtype=np.float64)
        values[where] = np.where(np.isfinite(told), told, np.nan)  # the response was looked at already
        return mean_over(values, 1)[:, None] if self.copies else values

    def differences(self, one: str, other: str) -> Array:
        """(prompts,) mean of other - one over the seeds that have both; NaN without any."""
        both = self.table(self.response, (one, other))
        return mean_over(both[..., 1] - both[..., 0], 1)


def read(frame: pd.DataFrame, response: str = "downweighting") -> Study:
    """The study a tidy frame tells of; refused with one line if it cannot be one."""
    must_have(frame, [*KEYS, response])
    if frame.empty:
        raise BadInput("the frame has no rows: there is no experiment that is done")
    _must_be_numbers(frame, response)
    _must_be_finite(frame, response)
    if "parallel_sets" in frame.columns:
        _must_be_numbers(frame, "parallel_sets")
    own = frame.reset_index(drop=True)
    for name in KEYS:
        if own[name].isna().any():
            raise BadInput(
                f"{name!r} is missing in {own[name].isna().sum()} of {len(own)} rows: every row needs one"
            )
    own = own.assign(**{name: own[name].astype(str) for name in ("prompt", "category", "mode")})
    _must_be_one_each(own)
    named = own.drop_duplicates("prompt")
    there = tuple(dict.fromkeys(own["mode"]))
    modes = tuple(mode for mode in PAIR if mode in there) or tuple(mode for mode in there if mode != BASELINE)
    made = Study(
        own,
        response,
        tuple(named["prompt"]),
        tuple(named["category"]),
        tuple(sorted(own["seed"].unique().tolist(), key=str)),
        modes,
        copies=False,
        y=np.empty(0),
    )
    return replace(made, y=made.table(response))


def must_have(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Refuse a frame that lacks columns, with the nearest to a single one that it has."""
    there = [str(name) for name in frame.columns]
    if twice := [name for name in names if there.count(name) > 1]:
        raise BadInput(f"the frame has several columns {twice[0]!r}: leave one")
    lacking = [name for name in names if name not in there]
    near = difflib.get_close_matches(lacking[0], there, n=1) if len(lacking) == 1 else []
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(there) or 'none'}"
    if lacking:
        told = f"column{'s' * (len(lacking) > 1)} {', '.join(map(repr, lacking))}"
        raise BadInput(f"the frame has no {told}: {hint}")


def _must_be_numbers(frame: pd.DataFrame, name: str) -> None:
    column = frame[name]
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        own = column.astype(object)
        truths = own.map(lambda value: isinstance(value, bool))
        odd = np.flatnonzero((pd.to_numeric(own, errors="coerce").isna() & own.notna()) | truths)
        if not len(odd):
            raise BadInput(f"column {name!r} is of type {column.dtype}: convert it with pandas.to_numeric")
        row, value = odd[0] + 1, own.iloc[odd[0]]
        raise BadInput(
            f"row {row} of column {name!r} holds {value!r}, which is no number: it must be numeric"
        )


def _must_be_finite(frame: pd.DataFrame, response: str) -> None:
    column = frame[response]
    infinite = int(np.isinf(column.to_numpy(dtype=np.float64, na_value=np.nan)).sum())
    if infinite:
        raise BadInput(
            f"response {response!r} is infinite in {infinite} of {len(frame)} rows: leave them missing"
        )
    if response in LOGS and column.abs().max() > MOST_LOG:
        raise BadInput(f"response {response!r} reaches {column.abs().max():.3g}: that is no log of a ratio")


def _must_be_one_each(frame: pd.DataFrame) -> None:
    """One category a prompt, one row an experiment."""
    several = frame.groupby("prompt")["category"].nunique()
    if (several > 1).any():
        prompt = several.idxmax()
        names = ", ".join(frame.loc[frame["prompt"] == prompt, "category"].unique())
        raise BadInput(f"prompt {prompt!r} is in several categories ({names}): a prompt has one")
    rows = frame.groupby(["prompt", "seed", "mode"]).size()
    if (rows > 1).any():
        prompt, seed, mode = rows.index.tolist()[int(rows.argmax())]
        swept = [name for name in SWEPT if name in frame.columns and frame[name].nunique() > 1]
        right = f"choose one value of {', '.join(swept)} first" if swept else "an experiment has one"
        raise BadInput(f"prompt {prompt}, seed {seed}, mode {mode} has {rows.max()} rows: {right}")


def keep(study: Study, prompts: Iterable[str]) -> Study:
    """The same study with some of its prompts."""
    chosen = set(prompts)
    places = [i for i, prompt in enumerate(study.prompts) if prompt in chosen]
    return replace(
        study,
        prompts=tuple(study.prompts[i] for i in places),
        category_of=tuple(study.category_of[i] for i in places),
        y=study.y[places],
    )


def lacks(rows: pd.DataFrame, response: str) -> str:
    """How many values one prompt's rows lack, and why: 2 of its 10 experiments have no value: ..."""
    if rows.empty:
        return "it has no experiment in the compared modes"
    lacking = rows[rows[response].isna()]
    have, why = "has" if len(lacking) == 1 else "have", reason_of(lacking)
    said = f"{len(lacking)} of its {how_many(len(rows), 'experiment')} {have} no value"
    return f"{said}: {why}" if why else said


def reason_of(rows: pd.DataFrame) -> str:
    """Why most values are missing; empty where the frame does not say so."""
    if "reason" not in rows.columns:
        return ""
    told = rows["reason"].astype(str)
    told = told[~told.isin(["", "nan", "None"])]
    return str(told.value_counts().index[0]) if len(told) else ""


def mean_over(values: Array, axis: int) -> Array:
    """Means of what is there; NaN, and no warning, where nothing is."""
    there = ~np.isnan(values)
    count = there.sum(axis=axis)
    total = np.where(there, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def per_seed(y: Array) -> Array:
    """(prompts, seeds) means over modes; a seed that lacks a mode is not shifted by its effect."""
    whole = y[~np.isnan(y).any(axis=2)]
    shift = whole.mean(axis=0) - whole.mean() if len(whole) else np.zeros(y.shape[2])
    return mean_over(y - shift, 2)


def settled(y: Array) -> Array:
    """(prompts,) means over seeds, then modes; a prompt that lacks a mode is not shifted by its effect."""
    cells = mean_over(y, 1)
    whole = cells[~np.isnan(cells).any(axis=1)]
    shift = whole.mean(axis=0) - whole.mean() if len(whole) else np.zeros(cells.shape[1])
    return mean_over(cells - shift, 1)


def on_prompts(study: Study, column: str, modes: Sequence[str] | None = None) -> Array:
    """(prompts with a value,) prompt means of any numeric column."""
    if column not in study.frame.columns:
        return np.empty(0)
    means = settled(study.table(column, modes))
    return means[np.isfinite(means)]
