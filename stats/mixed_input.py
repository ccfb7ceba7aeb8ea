"""What a mixed model can be fitted to: a frame that is whole, and terms that can be told apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import linalg

from ..errors import BadInput
from .terms import INTERCEPT, Fixed, Random, columns, is_number, must_have

__all__ = ["basis", "power_of_two", "readable", "refuse_confounded", "refuse_copies"]

Array = npt.NDArray[np.floating[Any]]

COPY = 1e-9  # of the response's SD: rows this close are one row written twice
DEPENDENT = 1e-9
MOST = 3000  # rows: matrices are n x n
SEEN = 1e-8
EXTREME = 1e153  # beyond it, and below 1 / it, a variance is no number in double precision


def readable(
    frame: pd.DataFrame,
    response: str,
    terms: Sequence[tuple[str, ...]],
    random: Sequence[Random],
    dropna: bool,
) -> pd.DataFrame:
    """The model's columns, every row complete; what is missing is refused by name or, if asked, dropped."""
    names = columns(response, terms, random)
    must_have(frame, names)
    for name in names:
        _must_be_plain(frame[name], name)
    slopes = [name for term in random for name in term.effects if name != INTERCEPT]
    for name in [response, *slopes]:
        if not is_number(frame[name]):
            instead = (
                "map it to numbers first" if name == response else f"write 1|group:{name} for a category"
            )
            raise BadInput(f"{name!r} must be numeric, but is {frame[name].dtype}: {instead}")
    used = frame[names].reset_index(drop=True)
    numbers = [name for name in names if is_number(used[name])]
    missing = used.isna()
    missing[numbers] |= np.isinf(used[numbers].astype(np.float64))
    for name in () if dropna else names:
        if missing[name].any():
            raise BadInput(
                f"{name!r} is missing or infinite in {missing[name].sum()} of {len(used)} rows: "
                "fill them, or drop them with dropna=True"
            )
    whole = used[~missing.any(axis=1)].reset_index(drop=True)
    if whole.empty:
        raise BadInput(f"no row of {len(used)} has all of {', '.join(names)}: there is nothing to fit")
    if len(whole) > MOST:
        raise BadInput(f"{len(whole)} rows are too many, at most {MOST} can be fitted: summarise them first")
    return whole


def _must_be_plain(column: "pd.Series[Any]", name: str) -> None:
    """Refuse what is neither a real number nor a category."""
    if pd.api.types.is_complex_dtype(column):
        raise BadInput(f"{name!r} is complex: take its real part or its absolute value first")
    if column.dtype.kind in "mM" or isinstance(column.dtype, pd.PeriodDtype):
        raise BadInput(
            f"{name!r} is {column.dtype}: make it a number first, such as days since the earliest, "
            "or text if it is a category"
        )


def power_of_two(y: "Array | pd.Series[Any]") -> float:
    """A unit near the largest value; dividing by it rounds nothing."""
    return float(np.ldexp(1.0, int(np.frexp(np.abs(y).max())[1]) - 1))


def refuse_copies(frame: pd.DataFrame, response: str, factors: Sequence[str]) -> None:
    """Refuse a response that is constant, or the same wherever rows differ in at most one factor."""
    y = frame[response].astype(np.float64)
    largest = float(y.abs().max())
    if not y.max() > y.min():
        raise BadInput(f"{response!r} is the same in all {len(frame)} rows: there is nothing to model")
    if not 1 / EXTREME < largest < EXTREME:
        power = round(np.log10(largest))
        raise BadInput(
            f"{response!r} reaches {largest:.2g}, whose square is no number: divide it by 1e{power}"
        )
    frame = frame.assign(**{response: y / power_of_two(y)})
    spread = frame[response].std()
    every = [name for name in frame.columns if name != response]
    for ignored in ["", *factors]:
        keys = [name for name in every if name != ignored]
        cells = frame.groupby(keys, observed=True)[response] if keys else None
        if cells is None or not (shared := cells.size() > 1).any():
            continue
        apart = (cells.max() - cells.min())[shared]
        if apart.max() <= COPY * spread:
            which = (
                f"rows that differ only in {ignored!r}"
                if ignored
                else f"rows with the same {', '.join(keys)}"
            )
            raise BadInput(f"{which} are bit-identical replicates: collapse them first")


def basis(design: Fixed, frame: pd.DataFrame) -> Array:
    """(n, p) an orthonormal basis of the fixed effects; refused by name where they depend on each other."""
    n, p = design.x.shape
    sizes = np.linalg.norm(design.x, axis=0)
    q, r, order = linalg.qr(design.x / np.where(sizes > 0, sizes, 1.0), mode="economic", pivoting=True)
    rank = int(np.sum(np.abs(np.diag(r)) > DEPENDENT * abs(r[0, 0])))
    if rank < p:
        raise BadInput(_dependence(design, frame, [design.names[i] for i in sorted(order[rank:])]))
    if n <= p + 1:
        raise BadInput(f"{n} rows cannot tell {p} fixed effects from noise: at least {p + 2} are needed")
    return np.asarray(q)


def _dependence(design: Fixed, frame: pd.DataFrame, surplus: list[str]) -> str:
    """Why the fixed effects are not estimable: an empty combination, or the columns that repeat others."""
    for term in design.terms:
        names = [name for name in term.split(":") if name in design.levels]
        if len(names) < 2:
            continue
        there = set(frame[names].itertuples(index=False, name=None))
        for cell in pd.MultiIndex.from_product([design.levels[name] for name in names]):
            if cell not in there:
                where = ", ".join(f"{name}={level}" for name, level in zip(names, cell, strict=True))
                return f"{term} cannot be estimated, no row has {where}: leave the interaction out"
    return f"fixed effects repeat each other ({', '.join(surplus)} follow from the rest): leave terms out"


def refuse_confounded(q: Array, kernels: Array, keys: Sequence[str]) -> None:
    """Refuse variances that the data cannot tell from the fixed effects, the residual or each other."""
    n, p = q.shape
    projected = kernels - q @ (q.T @ kernels)
    projected -= (projected @ q) @ q.T
    seen = np.concatenate([projected.reshape(len(kernels), -1), (np.eye(n) - q @ q.T).reshape(1, -1)])
    sizes = np.linalg.norm(seen, axis=1)
    whole = np.append(np.linalg.norm(kernels, axis=(1, 2)), np.sqrt(n - p))
    for key, size, full in zip([*keys, "Residual"], sizes, whole, strict=True):
        if size <= SEEN * full:
            raise BadInput(
                f"random effect {key!r} cannot be told from the fixed effects: leave one of them out"
            )
    values, vectors = np.linalg.eigh((seen @ seen.T) / np.outer(sizes, sizes))
    if values[0] < SEEN:
        share = np.abs(vectors[:, 0])
        alike = [
            key for key, part in zip([*keys, "Residual"], share, strict=True) if part > 0.01 * share.max()
        ]
        raise BadInput(f"random effects {', '.join(alike)} cannot be told apart in these rows: leave one out")
