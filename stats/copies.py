"""Which experiments of a study are copies of each other, and the study without its copies."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .study import Study, mean_over

__all__ = ["are_copies", "captures", "collapsed", "spread_of_seeds"]

Array = npt.NDArray[np.floating[Any]]


def captures(study: Study) -> tuple[int, int]:
    """How many different experiments there are, of how many rows."""
    frame = study.frame
    if "path_digest" in frame.columns:
        return int(frame["path_digest"].nunique()), len(frame)
    return len(frame.drop_duplicates(["prompt", "mode", study.response])), len(frame)


def are_copies(study: Study) -> bool:
    """Whether seeds are: by their paths or, where those are not told, by the response."""
    told = "path_digest" if "path_digest" in study.frame.columns else study.response
    rows = study.frame[study.frame["mode"].isin(study.modes) & study.frame["prompt"].isin(study.prompts)]
    paths = rows.dropna(subset=[told]).groupby(["prompt", "mode"])[told].agg(["nunique", "size"])
    several = paths[paths["size"] > 1]
    return bool(len(several) and (several["nunique"] == 1).all())


def spread_of_seeds(y: Array) -> float | None:
    """The largest SD within a prompt and mode over that between prompts; None without several seeds."""
    middle = mean_over(y, 1)
    within = np.sqrt(mean_over((y - middle[:, None]) ** 2, 1))
    if not np.isfinite(within).any() or (~np.isnan(y)).sum(axis=1).max() < 2:
        return None
    prompts = mean_over(middle, 1)
    between = prompts.std(ddof=1) if len(prompts) > 1 else np.abs(prompts).max()
    most = float(np.nanmax(within))
    return most / float(between) if between > 0 else math.inf if most > 0 else 0.0


def collapsed(study: Study) -> Study:
    """The study with one seed for all, their mean."""
    return replace(study, copies=True, y=mean_over(study.y, 1)[:, None])
