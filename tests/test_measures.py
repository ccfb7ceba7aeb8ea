"""Measures of cubes on disk whose truth is known: what was planted is found, and what is not there is NaN."""

import shutil
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from cubes import PLANTED_RATIOS, PROMPT_TOKENS, facts, fill, grid
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import FAIL, FAILED, TREATMENT_CHECKS
from tempocube.dataset.simulated import Design, Effects, cube
from tempocube.dataset.store import Driver
from tempocube.errors import BadInput, DamagedError
from tempocube.stats import cache, measures

FIXED = Effects(prompt_sd=0, prompt_seed_sd=0, prompt_mode_sd=0, residual_sd=0)
SMALL = Design(categories=(2, 1), seeds=2, steps=8, prompt_tokens=4, layers=2, heads=3, vocab=32)
CELLS = ["prompt", "seed", "mode"]
HALF = float(np.log(0.5))

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a simulated cube and gives its path."""

    def made(design: Design = SMALL, effects: Effects | None = None, seed: int = 1, **options: Any) -> str:
        where = tmp_path / "cube.zarr"
        return cube(design, effects or Effects(), where, seed, overwrite=True, **options).url

    return made


# --- the estimator once more, in ten lines


def oracle(log_a: np.ndarray, step: np.ndarray, logical: np.ndarray, width: np.ndarray) -> float:
    """Delta of one experiment: log_a is (query, key), averaged over layers and heads."""
    parallel = (step >= 0) & (width[step] >= 2)
    keys = (step >= 0) & (step < step[:, None]) & np.isfinite(log_a)
    blocks = []
    for q in range(len(step)):
        if len(set(parallel[keys[q]])) == 2:
            block = np.column_stack([logical[q] - logical, parallel, log_a[q]])[keys[q]]
            blocks.append((block - block.mean(axis=0)) / np.sqrt(width[step[q]]))
    x = np.concatenate(blocks)
    return float(np.linalg.lstsq(x[:, :2], x[:, 2], rcond=None)[0][1])


def by_oracle(where: str, layers: Any = slice(None), heads: Any = slice(None)) -> list[float]:
    """Delta of every cell, in order."""
    ds, found = open_cube(where).load(), []
    for p, s, m in np.argwhere(ds.status.values == 1):
        cell = ds.isel(prompt=p, seed=s, mode=m)
        n, sets = int(cell.length), int((cell.width > 0).sum())
        logs = cell.log_attention.values[layers][:, heads][..., :n, :n]
        small = (cell[name].values for name in ("slot_step", "logical"))
        found.append(oracle(logs.mean(axis=(0, 1)), *(v[:n] for v in small), cell.width.values[:sets]))
    return found


# --- what was planted is found


@PLANTED_RATIOS
def test_the_planted_ratio_is_recovered_within_3_percent_where_the_legacy_one_is_fooled(
    make: Make, sink: float, recency: float, truth: float, fooled: tuple[float, float]
) -> None:
    effects = replace(FIXED, mean=float(np.log(truth)), sink=sink, recency=recency)
    frame = measures.experiments(make(Design(), effects))
    assert len(frame) == 100
    assert 0.97 < np.exp(frame["downweighting"].mean()) / truth < 1.03
    assert fooled[0] < frame["legacy_ratio"].mean() < fooled[1]
    assert frame["recency"].mean() == pytest.approx(recency, abs=0.01)
    assert frame["mass_sink"].mean() == pytest.approx(sink or frame["mass_sink"].mean(), abs=0.01)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        pytest.param({}, {}, id="log16"),
        pytest.param({"storage": {"attention": "float32"}}, {}, id="float32"),
        pytest.param({"capture": {"attention": {"queries": "generated"}}}, {}, id="generated rows"),
        pytest.param({"capture": {"attention": {"queries": "last"}}}, {}, id="best tokens' rows"),
        pytest.param({}, {"layers": [1], "heads": [0, 2]}, id="one layer, two heads"),
    ],
)
def test_every_experiment_has_the_delta_of_the_oracle(
    make: Make, options: dict[str, Any], part: dict[str, Any]
) -> None:
    where = make(replace(SMALL, modes=("isolated", "causal", "visible")), **options)
    frame = measures.experiments(where, **part)
    every = (part.get(name, slice(None)) for name in ("layers", "heads"))
    assert frame["downweighting"].tolist() == pytest.approx(by_oracle(where, *every), abs=1e-5)
    assert (frame["reason"] == "").all()


def test_what_was_captured_in_part_is_averaged_over_that_part(make: Make) -> None:
    where = make(capture={"attention": {"layers": [1], "heads": [0, 2]}})
    frame = measures.experiments(where)
    assert frame["downweighting"].tolist() == pytest.approx(by_oracle(where, [1], [0, 2]), abs=1e-5)
    assert (frame.attrs["layers"], frame.attrs["heads"]) == ([1], [0, 2])
    assert measures.maps(where).shape == (3, 2, 2, 1, 2)


def test_every_row_stands_beside_its_truth(tmp_path: Path) -> None:
    made = cube(Design(categories=(3, 3), seeds=3, steps=16), Effects(prompt_sd=0.5), tmp_path / "cube", 1)
    frame = measures.experiments(made.url)
    both = frame.merge(made.truth, on=["prompt", "category", "seed", "mode"])
    assert len(both) == len(made.truth) == len(frame)
    error = both["downweighting_x"] - both["downweighting_y"]
    assert abs(error.mean()) < 0.02
    assert error.std() < 0.1 < both["downweighting_y"].std()


def test_a_map_of_heads_is_recovered_and_its_mean_is_the_downweighting(make: Make) -> None:
    planted = ((0.0, 0.0), (0.0, 0.8))
    where = make(Design(categories=(3,), layers=2, heads=2), replace(FIXED, by_head=planted, noise=0.2))
    maps, frame = measures.maps(where), measures.experiments(where)
    assert maps.dims == ("prompt", "seed", "mode", "layer", "head")
    assert np.allclose(maps.mean(["prompt", "seed", "mode"]), planted, atol=0.03)
    means = maps.mean(["layer", "head"]).values.ravel()
    assert means == pytest.approx(frame["downweighting"].to_numpy(), abs=1e-5)


def test_sibling_attention_is_recovered_and_exactly_zero_in_isolated(make: Make) -> None:
    modes = ("isolated", "causal", "visible", "single")
    frame = measures.experiments(make(Design(seeds=3, modes=modes), replace(FIXED, cross=0.4, mean=HALF)))
    by_mode = dict(iter(frame.groupby("mode")))
    for mode in ("causal", "visible"):
        assert 0.97 < np.exp(by_mode[mode]["cross_parallel"].mean()) / np.exp(0.4) < 1.03
        assert by_mode[mode]["cross_parallel_plain"].mean() > 0.4
        assert (by_mode[mode]["mass_siblings"] > 0).all()
    isolated = by_mode["isolated"]
    assert (isolated[["mass_siblings", "sibling_most"]] == 0).all(axis=None)
    assert isolated["cross_parallel"].isna().all()
    assert (isolated["cross_reason"] == "no captured row sees a sibling").all()
    assert by_mode["single"]["downweighting"].isna().all()
    assert (by_mode["single"]["reason"] == "no parallel set: every set has one token").all()


def test_without_the_rows_of_siblings_nothing_is_said_of_them(make: Make) -> None:
    frame = measures.experiments(make(capture={"attention": {"queries": "last"}}))
    visible = frame[frame["mode"] == "visible"]
    assert visible["downweighting"].notna().all()
    assert visible["mass_siblings"].notna().all()  # the best token's row sees its siblings
    assert visible["cross_parallel"].notna().all()


def test_a_slope_over_steps_is_recovered(make: Make) -> None:
    where = make(Design(steps=21, categories=(3,)), replace(FIXED, mean=HALF, slope=0.05, noise=0.2))
    frame, steps = measures.experiments(where), measures.steps(where)
    assert frame["slope"].mean() == pytest.approx(0.05, rel=0.03)
    middle = steps.loc[steps["step"] == 10, "downweighting"].mean()
    assert np.exp(middle) == pytest.approx(0.5, rel=0.03)
    assert len(steps) == 21 * len(frame)


def test_placebo_labels_fall_around_zero_and_a_real_effect_beside_them(make: Make) -> None:
    design = Design(categories=(3,), steps=20)
    effects = replace(FIXED, mean=HALF, noise=0.2, recency=0.0)
    strong = measures.experiments(make(design, effects))
    assert (strong["placebo_share"] == 0).all()
    assert (strong["downweighting"] < strong["placebo_low"]).all()
    none = measures.experiments(make(design, replace(effects, mean=0.0)))
    assert none["placebo_share"].between(0.02, 0.98).mean() > 0.7


def test_a_row_says_what_the_experiment_was(make: Make) -> None:
    where = make(threshold=[0.1, 0.05], effects=Effects(control="clone"))
    frame, ds = measures.experiments(where), open_cube(where).load()
    assert len(frame) == 24
    assert frame.attrs["control"] == "clone"
    assert list(frame.columns[:5]) == ["prompt", "category", "seed", "mode", "threshold"]
    assert (frame["threshold"].value_counts() == 12).all()
    row = frame.iloc[5]
    cell = ds.sel({name: row[name] for name in [*CELLS, "threshold"]})
    assert row["path_digest"] == cell.path_digest.item()
    assert row["category"] == cell.category.item()
    assert row["width"] == pytest.approx(cell.width.values.mean())
    assert row["max_width"] == cell.width.values.max()
    assert (row["sets"], row["parallel_sets"]) == (8, 4)
    assert row["entropy"] == pytest.approx(cell.entropy.values.mean(), rel=1e-6)
    assert row["seconds"] == pytest.approx(cell.seconds.item())


# --- between modes


@pytest.mark.parametrize(("sd", "storage"), [(0.05, "float32"), (0.5, "float32"), (0.5, "log16")])
def test_the_divergence_of_the_modes_is_the_planted_one(make: Make, sd: float, storage: str) -> None:
    pairs = measures.between(make(effects=Effects(logit_sd=sd), storage={"logits": storage}))
    assert len(pairs) == 6
    assert (pairs["compared_steps"] == 8).all()  # replay: all of them
    assert np.abs(pairs["kl"] - sd**2 / 2).max() < (1e-6 if storage == "float32" else 1e-3)
    assert (pairs["kl_max"] >= pairs["kl"]).all()
    assert pairs["cosine"].between(0.5, 1).all()
    assert pairs["jaccard_20"].between(0, 1).all()


@pytest.mark.parametrize("storage", ["float32", "log16"])
def test_modes_that_are_copies_are_identical_and_their_divergence_is_exactly_zero(
    make: Make, storage: str
) -> None:
    stored = {"attention": storage, "logits": storage}
    pairs = measures.between(make(effects=Effects(same_modes=True), storage=stored))
    assert pairs["identical"].all()
    assert (pairs[["kl", "kl_max", "attention_difference"]] == 0).all(axis=None)
    assert (pairs[["jaccard_1", "jaccard_20"]] == 1).all(axis=None)
    assert pairs["attention_correlation"].to_numpy() == pytest.approx(1, abs=1e-6)
    other = measures.between(make(storage=stored))
    assert not other["identical"].any()
    assert (other["attention_difference"] > 0.01).all()


def test_differences_are_over_what_both_modes_see(make: Make) -> None:
    where = make(storage={"attention": "float32"})
    pairs, ds = measures.between(where), open_cube(where).load()
    row = pairs.iloc[3]
    cell = ds.sel(prompt=row["prompt"], seed=row["seed"])
    a, b = (cell.attention.sel(mode=mode).values for mode in ("isolated", "visible"))
    both = (a > 0) & (b > 0)
    assert row["attention_difference"] == pytest.approx(np.abs(a - b)[both].max())
    assert row["attention_mean_difference"] == pytest.approx(np.abs(a - b)[both].mean(), rel=1e-5)
    assert row["attention_correlation"] == pytest.approx(np.corrcoef(a[both], b[both])[0, 1], abs=1e-5)
    assert row["apart_most"] == pytest.approx(b[(a == 0) & (b > 0)].max())


def test_a_difference_in_one_layer_shows_in_that_layer_and_step_only(make: Make) -> None:
    where = make(effects=Effects(same_modes=True), storage={"attention": "float32"})
    whole = zarr.open_array(f"{where}/attention", mode="r+")
    whole[0, 1, 1, 1, 2, 9, 1] += 0.01
    step = int(open_cube(where).slot_step[0, 1, 1, 9])
    found = measures.differences(where)
    assert found.by_layer.max(["prompt", "seed"]).values == pytest.approx([0, 0.01], abs=1e-7)
    assert np.flatnonzero(found.by_step.sel(prompt="p0", seed=123) > 0).tolist() == [step]
    pairs = measures.between(where)
    assert pairs["identical"].tolist() == [True, False, True, True, True, True]


def test_modes_that_part_are_compared_up_to_the_set_that_differs(make: Make) -> None:
    where = make(replace(SMALL, parting=3, seeds=5), storage={"logits": "float32"})
    pairs = measures.between(where)
    assert not pairs["same_sets"].any()
    assert (pairs["first_difference"] == 3).all()
    assert (pairs["compared_steps"] == 4).all()
    assert pairs["kl"].to_numpy() == pytest.approx(0.05**2 / 2, abs=1e-6)
    ds = open_cube(where).load().isel(prompt=0, seed=0)
    n = int((ds.slot_step.sel(mode="isolated") < 3).sum() - (ds.slot_step.sel(mode="isolated") == -2).sum())
    a, b = (ds.attention.sel(mode=mode).values[..., :n, :n] for mode in ("isolated", "visible"))
    most = np.abs(a - b)[(a > 0) & (b > 0)].max()
    assert pairs["attention_difference"].iloc[0] == pytest.approx(most, rel=1e-5)
    assert not pairs["identical"].any()


def test_without_parallel_sets_modes_are_identical_and_have_no_downweighting(make: Make) -> None:
    where = make(replace(SMALL, wide=0))
    pairs, frame = measures.between(where), measures.experiments(where)
    assert pairs["identical"].all()
    assert pairs["apart_most"].isna().all()
    assert frame["downweighting"].isna().all()
    assert (frame["reason"] == "no parallel set: every set has one token").all()


def test_any_two_modes_can_be_compared(make: Make) -> None:
    where = make(replace(SMALL, modes=("isolated", "causal", "visible", "single")))
    forth, back = measures.between(where, "causal", "visible"), measures.between(where, "visible", "causal")
    assert forth["attention_difference"].tolist() == back["attention_difference"].tolist()
    assert forth["kl"].tolist() != back["kl"].tolist()
    alone = measures.between(where, "isolated", "single")
    assert not alone["same_sets"].any()
    with pytest.raises(BadInput, match=r"no mode 'blind'; it has isolated, causal, visible, single"):
        measures.between(where, "isolated", "blind")
    with pytest.raises(BadInput, match="both are 'causal'"):
        measures.between(where, "causal", "causal")


# --- what is not there


def test_a_layer_of_nan_is_named_and_the_others_keep_their_maps(make: Make) -> None:
    where = make(effects=Effects(nan_layer=1))
    frame, maps = measures.experiments(where), measures.maps(where)
    assert frame["downweighting"].isna().all()
    assert (frame["reason"] == "attention has gaps where tokens were seen, in layer 1").all()
    assert maps.sel(layer=1).isnull().all()
    assert maps.sel(layer=0).notnull().all()
    assert measures.experiments(where, layers=[0])["downweighting"].notna().all()


def test_a_weight_that_underflowed_is_dropped_and_counted(make: Make) -> None:
    where = make(SMALL, FIXED, storage={"attention": "float32"})
    before = measures.experiments(where)
    shutil.rmtree(f"{where}{cache.SUFFIX}")
    slot_step = open_cube(where).slot_step[0, 0, 0].values
    last, first = int((slot_step > -2).sum()) - 1, int((slot_step == -1).sum())
    zarr.open_array(f"{where}/attention", mode="r+")[0, 0, 0, 1, 2, last, first] = 0.0
    after = measures.experiments(where)
    assert after["zero_weights"].tolist() == [1] + [0] * 11
    assert np.isfinite(after["downweighting"]).all()
    assert after.loc[0, "downweighting"] == pytest.approx(by_oracle(where)[0], abs=1e-5)
    assert after.loc[0, "downweighting"] != before.loc[0, "downweighting"]
    assert int(measures.maps(where).isnull().sum()) == 1


def test_without_attention_or_logits_columns_are_nan(make: Make) -> None:
    where = make(capture={"attention": False})
    frame, pairs = measures.experiments(where), measures.between(where)
    assert frame["downweighting"].isna().all()
    assert (frame["reason"] == "attention was not captured").all()
    assert (frame["parallel_sets"] == 4).all()
    assert pairs["kl"].notna().all()
    assert pairs["attention_difference"].isna().all()
    assert not pairs["identical"].any()
    without = measures.between(make(capture={"logits": False}))
    assert without[["kl", "cosine", "jaccard_20"]].isna().all(axis=None)
    assert without[["jaccard_1", "jaccard_10", "attention_difference"]].notna().all(axis=None)


def test_pruning_scores_are_held_against_the_attention_that_was_received(make: Make) -> None:
    where = make(SMALL)
    assert measures.experiments(where)["prune_correlation"].isna().all()
    shutil.rmtree(f"{where}{cache.SUFFIX}")
    ds = open_cube(where).load().isel(prompt=0, seed=0, mode=0)
    weights = ds.attention.mean(["layer", "head"]).values
    step, scores = ds.slot_step.values, zarr.open_array(f"{where}/prune_score", mode="r+")
    for slot in np.flatnonzero(step >= 0):
        later = weights[step > step[slot], slot]
        scores[0, 0, 0, slot] = later.mean() if later.size else np.nan
    assert measures.experiments(where)["prune_correlation"].iloc[0] == pytest.approx(1)


def test_a_heavy_key_is_reported(make: Make) -> None:
    where = make(SMALL, replace(FIXED, mean=6.0, sink=0.0, recency=0.0))
    heavy = measures.experiments(where)["heavy_keys"]
    assert (heavy != "").any()
    assert (measures.experiments(make())["heavy_keys"] == "").mean() > 0.9


# --- cubes that are not finished, parts of cubes, cubes that are none


def test_a_cube_being_written_is_measured_as_far_as_it_is(make: Make) -> None:
    frame = measures.experiments(make(effects=Effects(missing=0.25)))
    assert len(frame) == frame.attrs["used"] == 9
    assert frame.attrs["cells"] == {"pending": 3, "done": 9}
    assert len(measures.between(make(effects=Effects(lost=((None, None, 1),))))) == 0


def test_what_failed_its_check_does_not_count(make: Make) -> None:
    frame = measures.experiments(make(effects=Effects(untreated=((0, 0, 0),))))
    assert frame.attrs["cells"] == {"done": 11, "failed": 1}
    assert len(frame) == 11


def test_an_empty_cube_is_one_clear_error(make: Make) -> None:
    where = make(effects=Effects(lost=((None, None, None),)))
    with pytest.raises(BadInput, match=r"no experiment is done yet \(12 pending\); run tempo-capture first"):
        measures.experiments(where)


def test_a_part_of_an_opened_cube_is_measured_in_part(make: Make) -> None:
    where = make()
    ds = open_cube(where)
    whole = measures.experiments(ds)
    part = measures.experiments(ds.sel(prompt=["p0"], mode="visible"))
    expected = whole[(whole["prompt"] == "p0") & (whole["mode"] == "visible")].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, expected)
    assert part.attrs["digest"] != whole.attrs["digest"]
    layer = measures.experiments(ds.sel(layer=1))
    assert layer["downweighting"].tolist() == pytest.approx(by_oracle(where, [1]), abs=1e-5)
    with pytest.raises(BadInput, match=r"layers: \[7\] are not among those captured \(0 to 1\)"):
        measures.experiments(where, layers=[7])
    with pytest.raises(BadInput, match="does not know its cube"):
        measures.experiments(xr.Dataset())
    with pytest.raises(BadInput, match="has lost its mode; select without drop=True"):
        measures.experiments(ds.sel(mode="visible", drop=True))
    with pytest.raises(BadInput, match="what open_cube gives, got a DataArray"):
        measures.experiments(ds.attention)


# --- kept, stopped, damaged


def test_the_second_time_nothing_big_is_read(make: Make) -> None:
    where = make()
    first = measures.experiments(where), measures.between(where)
    shutil.rmtree(f"{where}/log_attention")
    shutil.rmtree(f"{where}/logits")
    began = time.perf_counter()
    second = measures.experiments(where), measures.between(where)
    assert time.perf_counter() - began < 3
    for one, other in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_only_what_is_new_is_measured(tmp_path: Path) -> None:
    where, told = tmp_path / "cube", []
    cube(SMALL, Effects(missing=0.25), where, 1)
    measures.experiments(where)
    shutil.rmtree(where)
    cube(SMALL, Effects(), where, 1)  # another model, by its hash: nothing of the old one holds
    measures.experiments(where, progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 12)
    assert told[-1] == (12, 12)
    again: list[tuple[int, int]] = []
    measures.experiments(where, progress=lambda done, total: again.append((done, total)))
    assert again == [(12, 12)]


def test_a_stopped_measurement_keeps_what_it_has_and_leaves_no_thread(make: Make) -> None:
    where, told = make(), []

    def stop(done: int, _: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measures.experiments(where, progress=stop)
    assert not [each for each in threading.enumerate() if each.name.startswith("measure")]
    frame = measures.experiments(where, progress=lambda done, _: told.append(done))
    assert 4 <= told[0] < 12
    assert frame["downweighting"].tolist() == pytest.approx(by_oracle(where), abs=1e-5)


def test_a_cache_that_is_damaged_or_cannot_be_written_counts_for_nothing(make: Make) -> None:
    where = make()
    first = measures.experiments(where)
    files = list(Path(f"{where}{cache.SUFFIX}").glob("*.npz"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(b"PK nonsense")
    pd.testing.assert_frame_equal(measures.experiments(where), first)
    shutil.rmtree(f"{where}{cache.SUFFIX}")
    Path(f"{where}{cache.SUFFIX}").write_text("a file where the folder should be")
    pd.testing.assert_frame_equal(measures.experiments(where), first)


def test_many_small_saves_become_one(tmp_path: Path) -> None:
    records = {f"k{i}": {"x": float(i), "name": f"n{i}", "a": np.arange(i, i + 3.0)} for i in range(9)}
    for key, record in records.items():
        assert cache.save(tmp_path, "cells", {key: record})
    cache.tidy(tmp_path, "cells")
    assert len(list(tmp_path.iterdir())) == 1
    found = cache.load(tmp_path, "cells", ["k0", "k7", "absent"])
    assert sorted(found) == ["k0", "k7"]
    assert (found["k7"]["x"], found["k7"]["name"], found["k7"]["a"].tolist()) == (7.0, "n7", [7, 8, 9])


def test_a_damaged_shard_is_named_with_its_cells(make: Make) -> None:
    where = make()
    for shard in Path(where, "log_attention", "c", "1").rglob("*"):
        if shard.is_file():
            shard.write_bytes(shard.read_bytes()[:-40] + bytes(40))
    with pytest.raises(DamagedError, match=r"log_attention cannot be read.*prompt=p1.*tempo-stats verify"):
        measures.experiments(where)


def test_a_cube_can_lie_anywhere(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    cube(replace(SMALL, categories=(1,), seeds=1), Effects(), where)
    first = measures.experiments(where)
    assert first["downweighting"].tolist() == pytest.approx(by_oracle(where), abs=1e-5)
    pd.testing.assert_frame_equal(measures.experiments(where), first)
    assert len(list(tmp_path.rglob("cells-*.npz"))) == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_cube(make: Make) -> None:
    design = Design(categories=(8,), seeds=1, steps=120, layers=6, heads=8, prompt_tokens=8)
    where = make(design, capture={"logits": False})
    raw = 16 * 6 * 8 * open_cube(where).sizes["slot"] ** 2 * 4
    tracemalloc.start()
    try:
        measures.experiments(where)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert raw > 150e6
    assert peak < raw / 3


def test_a_table_says_how_often_each_treatment_check_held(tmp_path):
    """Of failed experiments too: they are what a gate must hear of."""
    where, model = tmp_path / "a.zarr", facts()
    fill(where, grid(2), model)
    checks = measures.experiments(where).attrs["checks"]
    assert list(checks) == list(TREATMENT_CHECKS)
    assert sum(count["pass"] for count in checks.values()) > 0
    assert not any(count["fail"] for count in checks.values())
    with Driver(where, grid(2), model, PROMPT_TOKENS) as driver:
        results = driver.cube.read("check_result")[0, 0, 0].copy()
        results[TREATMENT_CHECKS.index("isolation")] = FAIL
        driver.ledger.set({(0, 0, 0): {"check_result": results, "status": FAILED}})
    assert measures.experiments(where).attrs["checks"]["isolation"]["fail"] == 1
