"""Mode `single` as a baseline at the same position, siblings beside each other, and the noise floor."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from measured import FIXED, HALF, SMALL
from runs import grid, tiny
from tempocube.capture.engine import capture
from tempocube.capture.wanted import Wanted
from tempocube.dataset.cube import Cube
from tempocube.dataset.reading import open_cube
from tempocube.dataset.simulated import Design, Effects, cube
from tempocube.dataset.store import Driver
from tempocube.stats import cache, measures
from tempocube.stats.estimand import layout
from tempocube.stats.setwise import beside_single, sibling_spread

WITH_SINGLE = replace(SMALL, modes=("isolated", "visible", "single"))
CODE = 1 / 128  # of a stored log

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a simulated cube and gives its path."""

    def made(design: Design = WITH_SINGLE, effects: Effects = FIXED, **options: Any) -> str:
        return cube(design, effects, tmp_path / "cube.zarr", 1, overwrite=True, **options).url

    return made


def by_position(cell: xr.Dataset) -> np.ndarray:
    """(step, step): mean log attention of earlier sets' visible tokens in the rows of a set."""
    step, y = cell.slot_step.values, cell.log_attention.mean(["layer", "head"]).values
    sets = int(step.max()) + 1
    means = np.full((sets, sets), np.nan)
    for s, t in zip(*np.tril_indices(sets, -1), strict=True):
        means[s, t] = y[np.ix_(step == s, step == t)].mean()
    return means


def oracle(cell: xr.Dataset, single: xr.Dataset) -> float:
    """The baseline of one experiment, as a regression with a column for every row."""
    gap, wide = by_position(cell) - by_position(single), cell.width.values >= 2
    rows = [s for s in range(len(gap)) if len(set(wide[:s])) == 2]
    x = [[wide[t], *(np.array(rows) == s)] for s in rows for t in range(s)]
    y = [gap[s, t] for s in rows for t in range(s)]
    return float(np.linalg.lstsq(np.array(x, float), np.array(y), rcond=None)[0][0])


# --- mode single as the baseline


def test_the_planted_ratio_is_recovered_within_3_percent_beside_single(make: Make) -> None:
    design = Design(categories=(3,), seeds=4, steps=16, modes=("isolated", "visible", "single"))
    frame = measures.experiments(make(design, replace(FIXED, mean=HALF, sink=0.5, recency=0.15)))
    for mode in ("isolated", "visible"):
        found = frame.loc[frame["mode"] == mode, "single_baseline"]
        assert len(found) == 12
        assert 0.97 < np.exp(found.mean()) / 0.5 < 1.03
    assert frame.loc[frame["mode"] == "single", "single_baseline"].isna().all()


def test_every_experiment_has_the_baseline_of_the_oracle(make: Make) -> None:
    where = make()
    frame, ds = measures.experiments(where), open_cube(where).load()
    for row in frame[frame["mode"] != "single"].itertuples():
        cell, single = (ds.sel(prompt=row.prompt, seed=row.seed, mode=mode) for mode in (row.mode, "single"))
        assert row.single_baseline == pytest.approx(oracle(cell, single), abs=1e-5)


def test_without_its_single_partner_an_experiment_has_no_baseline(make: Make) -> None:
    assert measures.experiments(make(SMALL))["single_baseline"].isna().all()
    before = measures.experiments(make(effects=replace(FIXED, lost=((0, 0, 2),))))
    gone = before["single_baseline"].isna() & (before["mode"] != "single")
    assert before[gone][["prompt", "seed"]].drop_duplicates().to_numpy().tolist() == [["p0", 42]]
    assert gone.sum() == 2


def test_a_baseline_is_kept_with_the_rest(make: Make) -> None:
    where = make()
    first = measures.experiments(where)["single_baseline"]
    told: list[tuple[int, int]] = []
    again = measures.experiments(where, progress=lambda done, total: told.append((done, total)))
    assert told == [(18, 18)]
    assert again["single_baseline"].equals(first)
    assert len(list(Path(f"{where}{cache.SUFFIX}").glob("pairs-*.npz"))) == 1


def laid_out(widths: tuple[int, ...], mode: str = "isolated") -> Any:
    step = np.r_[np.full(3, -1), np.repeat(np.arange(len(widths)), widths)]
    logical = np.where(step < 0, np.arange(step.size), 3 + step)
    return layout(mode, logical, step, np.full(step.size, -1), np.array(widths, dtype=np.int64))


def test_levels_of_rows_and_distance_cancel_exactly() -> None:
    where, alone = laid_out((1, 2, 1, 3, 1, 1)), laid_out((1,) * 6)
    rng = np.random.default_rng(4)
    by_key = rng.normal(size=6)  # what the positions have in both, whatever it is

    def logs(of: Any, delta: float) -> np.ndarray:
        level = rng.normal(size=6)[np.maximum(of.slot_step, 0)]
        of_keys = by_key[np.maximum(of.slot_step, 0)] + delta * of.parallel
        return np.where(of.sees, level[:, None] + of_keys[None, :] - 0.2 * of.distance, -np.inf)

    assert beside_single(logs(where, HALF), where, logs(alone, 0.0), alone) == pytest.approx(HALF)


@pytest.mark.parametrize("widths", [(), (1, 1, 1), (2, 2, 2), (1, 2)])
def test_where_no_row_sees_both_kinds_the_baseline_is_nan(widths: tuple[int, ...]) -> None:
    where, alone = laid_out(widths), laid_out((1,) * len(widths))
    zeros = (np.zeros(of.sees.shape) for of in (where, alone))
    assert np.isnan(beside_single(next(zeros), where, next(zeros), alone))


# --- siblings beside each other


def test_the_spread_is_that_of_pairs_sets_and_rows_counted_once() -> None:
    where = laid_out((1, 2, 3, 2, 1), "visible")
    y = np.random.default_rng(5).normal(size=where.sees.shape)
    step, of_rows = where.slot_step, []
    for q in np.flatnonzero(step >= 0):
        for t in (t for t in range(step[q]) if where.width[t] >= 2):
            a = y[q, step == t]
            pairs = np.abs(a[:, None] - a[None, :])[np.triu_indices(a.size, 1)]
            of_rows.append((pairs.mean(), 1 / where.width[step[q]]))
    values, weights = np.array(of_rows).T
    assert sibling_spread(y, where) == pytest.approx(np.average(values, weights=weights))


def test_tokens_that_get_the_same_have_no_spread_and_lone_ones_none_to_tell() -> None:
    where = laid_out((1, 2, 1, 3, 1))
    assert sibling_spread(np.where(where.sees, -where.distance, -np.inf), where) == 0
    assert np.isnan(sibling_spread(np.zeros((7, 7)), laid_out((1, 1, 1, 1))))
    assert np.isnan(sibling_spread(np.zeros((5, 5)), laid_out((2,))))  # nothing comes after it


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Captures a grid with a tiny random model, into a cube."""
    folder = tmp_path_factory.mktemp("models")
    model = tiny(folder)

    def made(**options: Any) -> Path:
        asked = grid(max_tokens=8, temperature=0.7, seeds=[1, 2], replay="isolated", **options)
        longest = max(len(model.prompt_tokens(text)) for text in asked.prompt_texts)
        wanted = Wanted.of(asked.capture, asked.storage, model.facts)
        where = folder / f"{asked.control}.zarr"
        with Driver(where, asked, model.facts, longest) as driver:
            tasks = driver.todo()
            capture(model, [task.cell for task in tasks], [task.writer() for task in tasks], wanted)
        return where

    return made


def test_clones_of_a_captured_model_get_the_same_in_isolated_and_others_do_not(
    captured: Callable[..., Path],
) -> None:
    clones = measures.experiments(captured(control="clone"))
    isolated = clones.loc[clones["mode"] == "isolated", "sibling_spread"].dropna()
    assert len(isolated) >= 3
    assert (isolated < CODE).all()
    plain = measures.experiments(captured())["sibling_spread"].dropna()
    assert len(plain) >= 3
    assert (plain > 10 * CODE).all()


# --- the noise floor


def test_a_repeated_capture_gives_the_noise_floor_of_every_table(make: Make) -> None:
    where = make(SMALL, replace(FIXED, control="repeat"))
    floor = {"attention": 1e-7, "logprob": 1e-6, "kl": 1e-12, "cells": 12}
    assert measures.experiments(where).attrs["noise_floor"] == floor
    assert measures.between(where).attrs["noise_floor"] == floor


def test_what_was_never_repeated_has_no_noise_floor(make: Make) -> None:
    assert measures.experiments(make(SMALL)).attrs["noise_floor"] == {}


def test_the_noise_floor_is_the_largest_difference_of_cells_that_were_checked(make: Make) -> None:
    where = make(SMALL)
    with Driver(where, Cube.open(where).grids[0], Cube.open(where).facts, SMALL.prompt_tokens) as driver:
        names = driver.cube.read("check")
        for index, value in (((0, 0, 0), 2e-6), ((1, 1, 1), 5e-6)):
            values = driver.cube.read("check_value")[index].copy()
            values[list(names).index("cross_attention")] = value
            driver.ledger.set({index: {"check_value": values}})
    floor = measures.experiments(where).attrs["noise_floor"]
    assert floor == {"attention": 5e-6, "logprob": None, "kl": None, "cells": 2}
