"""Run a grid into a cube on Dask workers; the same call goes on where one stopped."""

import time
from pathlib import Path
from typing import Any

from ..dataset.grid import Grid
from ..dataset.store import Driver
from .display import watching
from .effort import Asked
from .options import Options
from .plan import after_leaders
from .progress import Watch
from .session import Session
from .tally import Summary
from .worker import Job


def run(
    grid: Grid | str | Path,
    where: Any,
    *,
    workers: int | str = "auto",
    batch_size: int | str = "auto",
    scheduler: str | None = None,
    overwrite: bool = False,
    retry_quarantined: bool = False,
    limit: int | None = None,
    cross_check: float = 0.0,
    fail_fast: bool = False,
    patience: float = 300.0,
    progress: Watch | str | None = "auto",
) -> Summary:
    """Run what is left of a grid into the cube at a path or URL; the same call goes on where one stopped.

    A grid may be named by its file or preset. `cross_check` is the share of the cells that is captured again,
    one at a time, and compared. A worker that makes no forward pass for `patience` seconds is taken for hung.
    """
    grid = grid if isinstance(grid, Grid) else Grid.load(grid)
    options = Options(workers, batch_size, scheduler, limit, cross_check, fail_fast, patience)
    options.check(grid)
    began = time.monotonic()
    asked = Asked.of(grid)
    job, longest = Job(grid.model, asked.facts.sha256, patience), max(asked.prompts.values())
    with (
        watching(progress) as watch,
        Driver(
            where, grid, asked.facts, longest, vocabulary=asked.reader.vocabulary, overwrite=overwrite
        ) as driver,
    ):
        session = Session(driver, job, options, asked.needs, watch, began)
        session.go(after_leaders(driver.todo(quarantined=retry_quarantined))[:limit])
        return session.summary()
