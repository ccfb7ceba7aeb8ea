"""Estimated marginal means of a fitted mixed model and their differences."""

from itertools import combinations, product
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ..errors import BadInput
from .closed import range_edge
from .kenward import LEVEL, Inference, TTests, t_tests
from .terms import Fixed

__all__ = ["Adjust", "grid", "means", "pairs"]

Array = npt.NDArray[np.floating[Any]]
Adjust = Literal["tukey", "bonferroni", "holm", "none"]


def grid(design: Fixed, term: str) -> tuple[pd.DataFrame, Array]:
    """The cells of a term, and (cells, p) their design, averaged over the levels of all other categories."""
    asked = [] if term.strip() == "1" else [name.strip() for name in term.split(":")]
    for name in asked:
        if name not in design.levels:
            there = ", ".join(design.levels) or "none"
            raise BadInput(
                f"{name!r} is no category of the model (there are: {there}); 1 is the overall mean"
            )
    names = [*asked, *(name for name in design.levels if name not in asked)]
    full = list(product(*(design.levels[name] for name in names)))
    data: dict[str, npt.NDArray[Any]] = {
        name: np.full(len(full), mean) for name, mean in design.means.items()
    }
    for place, name in enumerate(names):
        data[name] = np.array([cell[place] for cell in full], dtype=object)
    cells = list(product(*(design.levels[name] for name in asked)))
    rows = design.rows(data, len(full)).reshape(len(cells), -1, design.x.shape[1]).mean(axis=1)
    return pd.DataFrame(cells, columns=asked, index=range(len(cells))), rows


def means(cells: pd.DataFrame, rows: Array, of: Inference) -> pd.DataFrame:
    """One row a cell: its levels, mean, se, df, ci_low, ci_high."""
    found = t_tests(of, rows)
    own = {"mean": found.estimate, "se": found.se, "df": found.df, "ci_low": found.low, "ci_high": found.high}
    return pd.concat([cells, pd.DataFrame(own)], axis=1)


def pairs(cells: pd.DataFrame, rows: Array, of: Inference, adjust: Adjust) -> pd.DataFrame:
    """One row a difference: contrast, estimate, se, df, t, p, ci_low, ci_high, p and interval adjusted."""
    if adjust not in get_args(Adjust):
        raise BadInput(f"adjust={adjust!r}: choose one of {', '.join(get_args(Adjust))}")
    if len(cells) < 2:
        raise BadInput("there is one mean only, and no pair: name a category")
    names = [" ".join(map(str, cell)) for cell in cells.itertuples(index=False)]
    found = t_tests(of, np.array([left - right for left, right in combinations(rows, 2)]))
    table = {"contrast": [f"{left} - {right}" for left, right in combinations(names, 2)], **found.columns()}
    p, reach = _adjusted(found, len(cells), adjust)
    table |= {"p": p, "ci_low": found.estimate - reach, "ci_high": found.estimate + reach}
    return pd.DataFrame(table)


def _adjusted(found: TTests, count: int, adjust: Adjust) -> tuple[Array, Array]:
    """p and half-width (l,) for all pairs of `count` means; Holm has no intervals: Bonferroni's."""
    comparisons = len(found.t)
    if adjust == "tukey" and count > 2:  # of two means it is the t-test
        p = stats.studentized_range.sf(np.abs(found.t) * np.sqrt(2), count, found.df)
        edge = np.array([range_edge(count, round(df, 6)) for df in found.df])
        return p, edge / np.sqrt(2) * found.se
    tests = 1 if adjust in ("none", "tukey") else comparisons
    reach = stats.t.isf((1 - LEVEL) / 2 / tests, found.df) * found.se
    if adjust == "holm":
        return np.asarray(multipletests(found.p, method="holm")[1]), reach
    return np.minimum(found.p * tests, 1.0), reach
