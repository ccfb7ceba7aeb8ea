"""What the values of a swept axis change: prompt means at each value, and their difference to one of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from statsmodels.stats.multitest import multipletests

from . import closed
from .gate import Gate, judge
from .study import PAIR, Study, read, settled

__all__ = ["Part", "Row", "compare"]

Array = npt.NDArray[np.floating[Any]]
ROUNDING = 1e-12  # of the values: differences closer than that are the same
MODES = " - ".join(reversed(PAIR))


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The experiments at one value of every axis, and what was measured between their modes.

    Of a cube also its sets, and the lazy Dataset itself at that value; of a table there is neither.
    """

    frame: pd.DataFrame
    between: pd.DataFrame | None = None
    maps: xr.DataArray | None = None
    steps: pd.DataFrame | None = None
    cube: xr.Dataset | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One measure at one value of an axis.

    n prompts, their mean and its interval; the difference to the `reference` value over the prompts that have
    both, by a paired t-test. not_tested: why there is none of it.
    """

    measure: str
    value: Any
    n: int = 0
    mean: float | None = None
    ci: tuple[float, float] | None = None
    reference: Any = None
    pairs: int = 0
    difference: float | None = None
    difference_ci: tuple[float, float] | None = None
    df: float | None = None
    p: float | None = None
    p_holm: float | None = None
    not_tested: str | None = None


def compare(parts: Mapping[Any, Part], reference: Any, response: str) -> tuple[Row, ...]:
    """Every measure at every value, paired by prompt with the reference value; Holm within a measure."""
    means = {value: _means(part, response) for value, part in parts.items()}
    rows: list[Row] = []
    for measure in dict.fromkeys(name for of in means.values() for name in of):
        at = {value: of.get(measure, "not measured here") for value, of in means.items()}
        rows += _holm([_row(measure, value, at[value], reference, at[reference]) for value in at])
    return tuple(rows)


def _means(part: Part, response: str) -> dict[str, "pd.Series[float] | str"]:
    """Means of each prompt, or why the gate withholds them."""
    gate = judge(read(part.frame, response), part.between)
    study, withheld = gate.study, gate.withheld
    index = pd.Index(study.prompts)
    found: dict[str, pd.Series[float] | str] = {
        response: withheld.get("downweighting") or pd.Series(study.means, index),
        f"{response}: {MODES}": withheld.get("modes") or pd.Series(study.differences(*PAIR), index),
    }
    if part.between is not None and "kl" in part.between:
        kl = np.log1p(part.between["kl"].clip(lower=0.0)).groupby(part.between["prompt"].astype(str)).mean()
        found["log(1 + KL) of isolated from visible"] = withheld.get("logits") or kl[kl.index.isin(index)]
    return found | _plain(gate, study, response)


def _plain(gate: Gate, study: Study, response: str) -> dict[str, "pd.Series[float] | str"]:
    """What describes the experiments whatever the gate says of attention; of a control it says nothing."""
    names = [name for name in ("width", "entropy") if name in study.frame.columns and name != response]
    if study.frame.attrs.get("control"):
        return dict.fromkeys(names, gate.withheld.get("downweighting", ""))
    whole = read(study.frame, study.response)  # with the prompts in which the response is undefined
    return {name: pd.Series(settled(whole.table(name)), pd.Index(whole.prompts)) for name in names}


def _row(
    measure: str,
    value: Any,
    here: "pd.Series[float] | str",
    reference: Any,
    there: "pd.Series[float] | str",
) -> Row:
    if isinstance(here, str):
        return Row(measure, value, not_tested=here)
    x = here.dropna().to_numpy(dtype=np.float64)
    if len(x) < 2:
        return Row(measure, value, n=len(x), not_tested="fewer than two prompts have it")
    mean, ci = _interval(x)
    row = Row(measure, value, len(x), mean, ci)
    if value == reference:
        return row
    if isinstance(there, str):
        return replace(row, reference=reference, not_tested=f"at {reference}: {there}")
    apart = (here - there).dropna().to_numpy(dtype=np.float64)
    row = replace(row, reference=reference, pairs=len(apart))
    if len(apart) < 2:
        return replace(row, not_tested="fewer than two prompts have it at both values")
    if np.ptp(apart) <= ROUNDING * max(np.abs(x).max(), np.abs(apart).max()):
        same = "no prompt differs" if not apart.any() else "the difference is the same in all prompts"
        return replace(row, difference=float(apart.mean()), not_tested=f"{same}: nothing to test")
    found = closed.mean(apart)
    ends = float(found.low), float(found.high)
    return replace(
        row, difference=float(found.estimate), difference_ci=ends, df=float(found.df), p=float(found.p)
    )


def _interval(x: Array) -> tuple[float, tuple[float, float] | None]:
    if not x.std(ddof=1) > 0:
        return float(x.mean()), None
    found = closed.mean(x)
    return float(found.estimate), (float(found.low), float(found.high))


def _holm(rows: list[Row]) -> list[Row]:
    """The same rows, p adjusted over the values that were compared with the reference."""
    tested = [row.p for row in rows if row.p is not None]
    adjusted = iter(multipletests(tested, method="holm")[1] if tested else ())
    return [row if row.p is None else replace(row, p_holm=float(next(adjusted))) for row in rows]
