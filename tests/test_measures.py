"""Measures of cubes on disk whose truth is known: what was planted is found, and what is not there is NaN."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cubes import PLANTED_RATIOS
from measured import FIXED, HALF, SMALL, by_oracle
from tempocube.dataset.reading import open_cube
from tempocube.dataset.simulated import Design, Effects, cube
from tempocube.errors import BadInput
from tempocube.stats import cache, measures

CELLS = ["prompt", "seed", "mode"]

Make = Callable[..., str]


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
    assert row["widest"] == cell.width.values.max()
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
