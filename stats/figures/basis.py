"""What all pictures are made from: a report, the study its answers rest on, names and units."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ...words import how_many
from .. import closed
from ..gate import judge
from ..questions import Answer, number, ratio
from ..study import Study, read
from .style import label

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["Basis", "basis", "over_prompts", "told"]

Array = npt.NDArray[np.floating[Any]]

MEANING = {"downweighting": "attention of parallel over single tokens"}
SAME = 1e-9  # of the response: means this close are one
FEWEST_FOR_INTERVAL = 4  # prompts: from fewer, an interval spans the whole picture


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """A report and its study; texts are what prompts are called, by their ids."""

    report: "Report"
    study: Study
    texts: Mapping[str, str]

    def answer(self, key: str) -> Answer | None:
        """An answer that was tested, else None."""
        found = self.report.answers.answers.get(key)
        return None if found is None or found.not_tested else found

    @property
    def scale(self) -> str:
        """How the response is drawn: ratios on a log scale."""
        return "log" if self.study.logs else "linear"

    @property
    def null(self) -> float | None:
        """Where the response says that there is no effect."""
        return 1.0 if self.study.logs else None

    def shown(self, values: Any) -> Any:
        """Values of the response as they are drawn: ratios for logs."""
        return np.exp(values) if self.study.logs else values

    @property
    def modelled(self) -> str:
        """How the answer came to a mean that is not that of prompt means; empty where it is the same."""
        found = self.answer("downweighting")
        if found is None or found.estimate is None:
            return ""
        return "" if math.isclose(found.estimate, self.study.means.mean(), abs_tol=SAME) else found.method

    def in_words(self, value: float) -> str:
        """A value of the response in words: ratios for logs."""
        return ratio(self.shown(value)) if self.study.logs else number(value)

    @property
    def unit(self) -> str:
        """The title of the response's axis."""
        what = MEANING.get(self.study.response, self.study.response)
        return f"{what} (ratio)" if self.study.logs else what

    @property
    def prompts(self) -> str:
        """How many prompts the answers rest on, in words."""
        return how_many(len(self.study.prompts), "prompt")

    @property
    def category(self) -> Mapping[str, str]:
        """The category of each prompt."""
        return dict(zip(self.study.prompts, self.study.category_of, strict=True))

    def name(self, prompt: str) -> str:
        """A prompt's id and how its text begins."""
        text = self.texts.get(prompt, "")
        return f"{label(prompt, 12)}  {label(text)}" if text else label(prompt)


def basis(report: "Report") -> Basis:
    """What a report's pictures are made from."""
    part = report.part
    study = judge(read(part.frame, str(report.source["response"])), part.between).study
    texts: dict[str, str] = {}
    if part.cube is not None:
        pairs = zip(part.cube["prompt"].values, part.cube["prompt_text"].values, strict=True)
        texts = {str(prompt): str(text) for prompt, text in pairs}
    return Basis(report, study, texts)


def told(of: Basis, rows: list[dict[str, Any]], unit: str) -> pd.DataFrame:
    """Rows with categories and texts, grouped by category, with what the numbers are."""
    table = pd.DataFrame(rows)
    table = table.assign(
        category=table["prompt"].map(of.category),
        text=[of.name(name) if isinstance(name, str) else "" for name in table["prompt"]],
        unit=unit,
        scale=of.scale,
    )
    order = {name: i for i, name in enumerate(of.study.categories)}
    rank = table["category"].map(order).fillna(len(order))
    return table.iloc[np.argsort(rank.to_numpy(), kind="stable")].reset_index(drop=True)


def over_prompts(rows: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Mean over prompts with its 95 % interval, one row for each of `by`; rows hold one value a prompt."""
    made = []
    for key, group in rows.groupby(by, sort=True):
        x = group[column].to_numpy(dtype=np.float64)
        x = x[np.isfinite(x)]
        if x.size:
            made.append(dict(zip(by, _tuple(key), strict=True)) | {"n": x.size, **_mean(x)})
    return pd.DataFrame(made, columns=[*by, "n", "mean", "low", "high"])


def _mean(x: Array) -> dict[str, float]:
    if x.size < FEWEST_FOR_INTERVAL or not x.std(ddof=1) > 0:
        return {"mean": float(x.mean()), "low": np.nan, "high": np.nan}
    found = closed.mean(x)
    return {"mean": float(found.estimate), "low": float(found.low), "high": float(found.high)}


def _tuple(key: Any) -> Iterable[Any]:
    return key if isinstance(key, tuple) else (key,)
