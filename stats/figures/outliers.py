"""The picture of odd prompts: how far each is from the others, and what the mean is without it."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from .. import effects
from ..questions import between, number
from .basis import Basis, told
from .picture import Picture
from .style import ACCENT, INK, OTHERS, bare, label, limits, ratio_axis, reference, values_axis

__all__ = ["outliers"]

ROW = 0.2  # inch


def outliers(of: Basis) -> Picture | None:
    """Q3: each prompt's distance from the others, and what the mean is without it."""
    found, study = of.answer("outliers"), of.study
    if found is None:
        return None
    n = len(study.prompts)
    edge = float(stats.t.isf(effects.ALPHA / 2 / n, n - 2))
    middle = float(study.means.mean())
    rows = [
        {"kind": "prompt", "prompt": row["prompt"], "t": float(row["t"]), "p_bonferroni": float(row["p"])}
        | {"value": of.shown(float(row["mean_without"])), "mean": of.shown(middle), "edge": edge}
        for row in found.details["prompts"]
    ]
    table = told(of, rows, of.unit).drop(columns=["seed", "mode", "low", "high"], errors="ignore")
    flagged = found.details["flagged"]
    said = f"{', '.join(flagged)} beyond it" if flagged else "no prompt is beyond it"
    values = table["value"].to_numpy(dtype=np.float64)
    return Picture(
        "outliers",
        "outliers",
        "Which prompt is odd, and what the mean is without it",
        f"Left: studentised distance of each prompt from the others; dashed, the Bonferroni line at "
        f"|t| = {number(edge)}: {said} (n = {of.prompts}). Right: the mean when the prompt is left out goes "
        f"from {between(values.min(), values.max())}, beside {number(of.shown(middle))} with all "
        f"(dashed){_but(of)}.",
        f"Studentised residuals of {of.prompts} and the mean without each.",
        table,
        draw_outliers,
        max(2.2, ROW * n + 0.9),
    )


def _but(of: Basis) -> str:
    """The answer, where it is another mean than that of prompt means."""
    found = of.answer("downweighting")
    if found is None or found.estimate is None or not of.modelled:
        return ""
    return f": means of prompt means, while the answer is {of.in_words(found.estimate)} by {of.modelled}"


def draw_outliers(figure: Figure, table: pd.DataFrame) -> None:
    """Distances on the left, the mean without a prompt on the right."""
    left, right = figure.subplots(1, 2, sharey=True)
    y = np.arange(len(table))
    edge = float(table["edge"].iloc[0])
    beyond = (table["t"].abs() > edge).to_numpy()
    left.axvline(0, color=INK, linewidth=0.8, alpha=0.5)
    for side in (-edge, edge):
        reference(left, "x", side)
    left.hlines(y, 0, table["t"], color=ACCENT, linewidth=1.2)
    left.scatter(table["t"][~beyond], y[~beyond], color=ACCENT, s=22, zorder=3)
    left.scatter(table["t"][beyond], y[beyond], color=OTHERS[0], s=40, marker="D", zorder=3)
    left.set_xlim(*limits([table["t"], [-edge, edge]]))
    left.set_yticks(y, [label(name, 44) for name in table["text"]])
    left.set_ylim(len(table) - 0.4, -0.6)
    left.set_xlabel("studentised distance (t)")
    log = str(table["scale"].iloc[0]) == "log"
    right.scatter(table["value"], y, color=ACCENT, s=22, zorder=3)
    ends = limits([table["value"], table["mean"]], log=log)
    title = "mean without it" + (" (ratio)" if log else "")
    if log:
        ratio_axis(right, "x", ends, title)
    else:
        values_axis(right, "x", [table["value"]], title, "linear", None)
    reference(right, "x", float(table["mean"].iloc[0]))
    right.tick_params(left=False)
    for axes in (left, right):
        bare(axes)
