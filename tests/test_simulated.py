"""Simulated experiments: what was planted is what an independent estimator finds in the cube on disk."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cubes import PLANTED_RATIOS
from tempocube.dataset.cube import Cube
from tempocube.dataset.reading import open_cube
from tempocube.dataset.scenarios import lost
from tempocube.dataset.schema import CHECKS, DONE, FAIL, FAILED, NOT_APPLICABLE, PASS, PENDING
from tempocube.dataset.simulated import Design, Effects, Simulated, cube
from tempocube.dataset.verify import verify
from tempocube.dataset.visibility import visibility
from tempocube.errors import BadInput

FIXED = Effects(prompt_sd=0, prompt_seed_sd=0, prompt_mode_sd=0, residual_sd=0)
SMALL = Design(categories=(2, 1), seeds=2, steps=8, prompt_tokens=4, layers=2, heads=2, vocab=32)
HALF = float(np.log(0.5))

Make = Callable[..., tuple[Simulated, xr.Dataset]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a cube, checks all that is stored of its done cells, and opens it."""

    def made(design: Design = SMALL, effects: Effects | None = None, seed: int = 1, **options: Any) -> Any:
        simulated = cube(
            design, effects or Effects(), tmp_path / "cube.zarr", seed, overwrite=True, **options
        )
        wrong = [problem for problem in verify(simulated.url).problems if "failed: " not in problem.what]
        gaps = "log_attention has gaps where tokens were seen"
        assert {problem.what for problem in wrong} <= (
            {gaps} if effects and effects.nan_layer is not None else set()
        )
        return simulated, open_cube(simulated.url)

    return made


# --- the estimator of the down-weighting, and the ratio of earlier code, written once more


def cells(ds: xr.Dataset) -> list[xr.Dataset]:
    """Every done cell, in memory, cut to its length."""
    whole = ds.load()
    done = np.argwhere(whole.status.values == DONE)
    each = [whole.isel(prompt=p, seed=s, mode=m) for p, s, m in done]
    return [c.isel({dim: slice(int(c.length)) for dim in ("slot", "query", "key")}) for c in each]


def oracle(cell: xr.Dataset, **part: Any) -> float:
    """Delta: OLS of log attention on row dummies, distance and parallel; rows of a set weigh 1 / width."""
    return fit(cell, **part)[1]


def fit(
    cell: xr.Dataset, layer: Any = slice(None), head: Any = slice(None), steps: range = range(1000)
) -> tuple[float, float, dict[int, float]]:
    """Slope by distance, delta, and each row's fitted log attention to a singleton at distance 0."""
    log_a = cell.log_attention.values[layer, head].reshape(-1, *cell.log_attention.shape[-2:]).mean(axis=0)
    step, logical = cell.slot_step.values, cell.logical.values
    parallel = (step >= 0) & (cell.width.values[step] >= 2)
    keys = (step >= 0) & (step < step[:, None]) & np.isfinite(log_a)
    rows = [q for q in range(len(step)) if len(set(parallel[keys[q]])) == 2 and step[q] in steps]
    means, blocks = {}, []
    for q in rows:
        block = np.column_stack([logical[q] - logical, parallel, log_a[q]])[keys[q]]
        means[q] = block.mean(axis=0)
        blocks.append((block - means[q]) / np.sqrt(cell.width.values[step[q]]))
    x = np.concatenate(blocks)
    slope, delta = np.linalg.lstsq(x[:, :2], x[:, 2], rcond=None)[0]
    return slope, delta, {q: m[2] - slope * m[0] - delta * m[1] for q, m in means.items()}


def cross_parallel(cell: xr.Dataset) -> float:
    """Mean log of sibling attention over the row's line at distance 0; rows of a set weigh 1 / width."""
    log_a = cell.log_attention.values.mean(axis=(0, 1))
    step, width = cell.slot_step.values, cell.width.values
    found, weight = [], []
    for q, line in fit(cell)[2].items():
        siblings = (step == step[q]) & (np.arange(len(step)) != q) & np.isfinite(log_a[q])
        found += list(log_a[q, siblings] - line)
        weight += [1 / width[step[q]]] * int(siblings.sum())
    return float(np.average(found, weights=weight))


def legacy(cell: xr.Dataset) -> float:
    """The earlier formula: mean weight of parallel keys over mean weight of all others, sink and all."""
    a = cell.attention.values.mean(axis=(0, 1))
    step = cell.slot_step.values
    parallel = (step >= 0) & (cell.width.values[step] >= 2)
    seen = a > 0
    rows = [q for q in np.flatnonzero(step >= 0) if (seen[q] & parallel).any()]
    return float(np.mean([a[q, seen[q] & parallel].mean() / a[q, seen[q] & ~parallel].mean() for q in rows]))


def geometric(estimates: list[float]) -> float:
    return float(np.exp(np.mean(estimates)))


# --- what was planted is found


@PLANTED_RATIOS
def test_the_planted_ratio_is_recovered_within_3_percent_where_the_earlier_formula_is_fooled(
    make: Make, sink: float, recency: float, truth: float, fooled: tuple[float, float]
) -> None:
    effects = replace(FIXED, mean=float(np.log(truth)), sink=sink, recency=recency)
    simulated, ds = make(Design(), effects)
    every = cells(ds)
    assert len(simulated.truth) == len(every) == 100
    assert np.allclose(simulated.truth["downweighting"], np.log(truth))
    assert 0.97 < geometric([oracle(cell) for cell in every]) / truth < 1.03
    assert fooled[0] < np.mean([legacy(cell) for cell in every]) < fooled[1]


def test_every_cell_has_the_response_of_its_row_in_the_truth(make: Make) -> None:
    simulated, ds = make(Design(categories=(3, 3), seeds=3, steps=16), Effects(prompt_sd=0.5))
    every = cells(ds)
    found = [oracle(cell) for cell in every]
    labels = pd.DataFrame([[c.prompt.item(), c.seed.item(), c.mode.item()] for c in every])
    assert (labels.to_numpy() == simulated.truth[["prompt", "seed", "mode"]].to_numpy()).all()
    error = simulated.truth["downweighting"] - found
    assert abs(error.mean()) < 0.02
    assert error.std() < 0.1 < simulated.truth["downweighting"].std()


def test_sibling_attention_is_recovered(make: Make) -> None:
    _, ds = make(
        Design(seeds=3, modes=("isolated", "causal", "visible")), replace(FIXED, cross=0.4, mean=HALF)
    )
    for mode in ("causal", "visible"):
        found = [cross_parallel(cell) for cell in cells(ds.sel(mode=[mode]))]
        assert 0.97 < geometric(found) / np.exp(0.4) < 1.03


def test_a_map_of_heads_is_recovered(make: Make) -> None:
    planted = ((0.0, 0.0), (0.0, 0.8))
    effects = replace(FIXED, by_head=planted, noise=0.2)
    simulated, ds = make(Design(categories=(3,), layers=2, heads=2), effects)
    every = cells(ds)
    for layer, head in np.ndindex(2, 2):
        found = np.mean([oracle(cell, layer=layer, head=head) for cell in every])
        assert found == pytest.approx(planted[layer][head], abs=0.03)
    assert np.allclose(simulated.truth["downweighting"], 0.2)


def test_a_slope_over_steps_is_recovered(make: Make) -> None:
    _, ds = make(Design(steps=21, categories=(3,)), replace(FIXED, mean=HALF, slope=0.05, noise=0.2))
    every = cells(ds)
    early, middle, late = (
        np.mean([oracle(cell, steps=range(step, step + 1)) for cell in every]) for step in (7, 10, 19)
    )
    assert np.exp(middle) == pytest.approx(0.5, rel=0.03)
    assert late - early == pytest.approx(0.05 * 12, rel=0.03)


def test_the_sink_takes_its_share_of_every_row(make: Make) -> None:
    _, ds = make(effects=Effects(sink=0.3))
    for cell in cells(ds):
        assert np.allclose(cell.attention[..., 1:, 0], 0.3, rtol=0.004)
        assert np.allclose(cell.attention.sum("key"), 1, atol=0.005)


def test_isolated_siblings_get_nothing_and_visible_ones_something(make: Make) -> None:
    _, ds = make(replace(SMALL, modes=("isolated", "causal", "visible")))
    for cell in cells(ds):
        step, mode = cell.slot_step.values, cell.mode.item()
        never = np.full(step.size, -1)
        siblings = (step == step[:, None]) & (step >= 0) & ~np.eye(step.size, dtype=bool)
        seen = visibility(mode, cell.logical.values, step, never)
        weights = cell.attention.values[..., siblings]
        assert siblings.any()
        assert (weights > 0).all(axis=(0, 1)).tolist() == seen[siblings].tolist()
        assert (mode == "isolated") == (weights == 0).all()


@pytest.mark.parametrize(("sd", "storage"), [(0.05, "float32"), (0.5, "float32"), (0.5, "log16")])
def test_the_divergence_of_the_modes_is_half_the_square_of_its_sd(
    make: Make, sd: float, storage: str
) -> None:
    _, ds = make(effects=Effects(logit_sd=sd), storage={"logits": storage})
    log_p, log_q = (ds.logits.sel(mode=mode).values.astype(np.float64) for mode in ("isolated", "visible"))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    assert kl.shape == (3, 2, 8)
    assert np.abs(kl - sd**2 / 2).max() < (1e-6 if storage == "float32" else 1e-3)


# --- experiments are of one piece


def test_a_set_is_what_passes_the_threshold_of_its_readout(make: Make) -> None:
    _, ds = make(seed=3)
    for cell in cells(ds.sel(mode=["isolated"])):
        step, token = cell.slot_step.values, cell.token.values
        for t in range(SMALL.steps):
            p = np.exp(cell.logits.values[t])
            chosen = token[step == t]
            assert set(chosen) == set(np.flatnonzero(p >= 0.1))
            assert len(chosen) == cell.width[t]
            assert (np.diff(p[chosen]) < 0).all()
            assert np.allclose(cell.probability.values[step == t], p[chosen], rtol=1e-3)
            assert cell.top_token.values[t, : len(chosen)].tolist() == chosen.tolist()
            assert np.allclose(cell.top_logprob.values[t], np.sort(np.log(p))[:-17:-1], atol=1e-3)
            assert cell.entropy.values[t] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-2)
            assert cell.margin_kept.values[t] == pytest.approx(p[chosen[-1]] - 0.1, abs=1e-3)
            assert cell.margin_dropped.values[t] > 0


def test_all_sets_of_a_step_share_a_position_and_half_of_the_sets_are_wide(make: Make) -> None:
    _, ds = make(Design(layers=1, heads=1))
    assert ((ds.width > 1).sum("step") == 5).all()
    assert set(np.unique(ds.width)) == {1, 2, 3, 4}
    for cell in cells(ds):
        step = cell.slot_step.values
        assert (cell.logical.values[4:] == 4 + step[4:]).all()
        assert (cell.width.values == np.bincount(step[4:])).all()


def test_modes_share_their_sets_as_under_replay(make: Make) -> None:
    _, ds = make()
    assert (ds.token.sel(mode="isolated") == ds.token.sel(mode="visible")).all()
    assert ds.margin_kept.sel(mode="visible").isnull().all()
    assert Cube.open(ds.url).grids[0].replay == "isolated"


def test_modes_that_part_share_their_sets_until_then(make: Make) -> None:
    _, ds = make(replace(SMALL, parting=3, seeds=5))
    assert Cube.open(ds.url).grids[0].replay is None
    for seed in ds.seed:
        one, other = cells(ds.sel(seed=[seed], prompt=["p0"]))
        n = int((one.slot_step < 3).sum())
        assert (one.token[:n] == other.token[:n]).all()
        assert one.token.values[n:].tolist() != other.token.values[n:].tolist()


def test_single_takes_the_best_token_of_each_set_and_has_no_response(make: Make) -> None:
    simulated, ds = make(replace(SMALL, modes=("isolated", "single")))
    assert (ds.width.sel(mode="single") == 1).all()
    assert (
        ds.top_token.isel(rank=0).sel(mode="single") == ds.token.sel(mode="single")[..., 4:12].values
    ).all()
    response = simulated.truth.set_index("mode")["downweighting"]
    assert response["single"].isna().all()
    assert response["isolated"].notna().all()


def test_checks_say_what_was_looked_at(make: Make) -> None:
    _, ds = make(replace(SMALL, modes=("isolated", "visible", "single")))
    result = {mode: ds.check_result.sel(mode=mode) for mode in ds.mode.values}
    looked = {mode: {c for c in CHECKS if (r.sel(check=c) == PASS).all()} for mode, r in result.items()}
    always = {"rows_sum", "cache", "positions", "finite"}
    assert looked["isolated"] == always | {"isolation"}
    assert looked["visible"] == always | {"sight"}
    assert looked["single"] == always | {"width"}
    assert not (ds.check_result == FAIL).any()


def test_only_what_the_grid_asks_for_is_stored(make: Make) -> None:
    capture = {"attention": {"layers": [1], "heads": [0], "queries": "last"}, "logits": False}
    _, ds = make(capture=capture, storage={"attention": "float32"})
    assert "logits" not in ds
    for cell in cells(ds):
        there = cell.attention.notnull().any("key")
        assert there.any("query").values.tolist() == [[False, False], [True, False]]
        assert int(there.sum()) == 1 + SMALL.steps
    with pytest.raises(ValueError, match="residuals"):
        make(capture={"residual": True})
    with pytest.raises(ValueError, match="by_head: must have shape"):
        make(effects=Effects(by_head=((1.0,),)))


def test_a_cube_of_another_truth_is_refused_and_the_same_one_finished(tmp_path: Path) -> None:
    where = tmp_path / "cube.zarr"
    first = cube(SMALL, Effects(), where, 1)
    for design, effects, seed in (
        (SMALL, Effects(mean=1.0), 1),
        (SMALL, Effects(), 2),
        (Design(), Effects(), 1),
    ):
        with pytest.raises(BadInput, match="another design, other effects or another seed"):
            cube(design, effects, where, seed)
    again = cube(SMALL, Effects(), where, 1)
    pd.testing.assert_frame_equal(again.truth, first.truth)
    assert cube(SMALL, Effects(mean=1.0), where, 1, overwrite=True).effects.mean == 1.0


def test_a_swept_option_is_an_axis_along_which_the_response_stays(make: Make) -> None:
    _, ds = make(effects=FIXED, threshold=[0.1, 0.05])
    one, other = (ds.sel(threshold=value) for value in (0.1, 0.05))
    assert (one.token == other.token).all()
    assert (one.digest != other.digest).all()


# --- special cubes


def test_deterministic_seeds_are_copies(make: Make) -> None:
    simulated, ds = make(effects=Effects(same_seeds=True))
    assert (ds.path_digest == ds.path_digest.isel(seed=0)).all()
    assert (ds.digest == ds.digest.isel(seed=0)).all()
    assert Cube.open(ds.url).grids[0].value("temperature") == 0
    truth = simulated.truth.groupby(["prompt", "mode"])
    assert (truth["downweighting"].nunique() == 1).all()
    assert (truth["path_digest"].nunique() == 1).all()


def test_other_seeds_are_other_experiments(make: Make) -> None:
    simulated, ds = make()
    assert len(np.unique(ds.path_digest)) == len(simulated.truth) == simulated.truth["path_digest"].nunique()


def test_identical_modes_have_equal_weights_under_masks_that_differ(make: Make) -> None:
    simulated, ds = make(effects=Effects(same_modes=True))
    one, other = ds.sel(mode="isolated"), ds.sel(mode="visible")
    assert np.array_equal(one.attention, other.attention, equal_nan=True)
    assert np.array_equal(one.logits, other.logits)
    assert (one.path_digest != other.path_digest).all()
    assert (ds.status == DONE).all()
    assert (ds.check_result.sel(check=["isolation", "sight"]) == NOT_APPLICABLE).all()
    assert (simulated.truth.groupby(["prompt", "seed"])["downweighting"].nunique() == 1).all()


def test_without_parallel_sets_modes_are_one_experiment_and_nothing_can_be_estimated(make: Make) -> None:
    simulated, ds = make(replace(SMALL, wide=0))
    one, other = ds.sel(mode="isolated"), ds.sel(mode="visible")
    assert (ds.width == 1).all()
    assert (one.path_digest == other.path_digest).all()
    assert np.array_equal(one.attention, other.attention, equal_nan=True)
    assert len(simulated.truth) == 12
    assert simulated.truth["downweighting"].isna().all()


def test_missing_cells_are_pending_and_absent_from_the_truth(make: Make) -> None:
    effects = Effects(missing=0.25, lost=((0, None, 1),))
    simulated, ds = make(effects=effects)
    pending = ds.status.values == PENDING
    assert pending[0, :, 1].all()
    assert (pending == lost(SMALL, effects, 1, seed=1)[0]).all()
    assert 3 <= pending.sum() <= 5
    done = {(c.prompt.item(), c.seed.item(), c.mode.item()) for c in cells(ds)}
    assert done == set(simulated.truth[["prompt", "seed", "mode"]].itertuples(index=False, name=None))


def test_an_untreated_cell_fails_its_check(make: Make) -> None:
    simulated, ds = make(effects=Effects(untreated=((0, 0, 0), (1, 1, 1))))
    assert (ds.status == FAILED).sum() == 2
    assert ds.error.values[0, 0, 0] == "treatment check isolation failed"
    assert ds.error.values[1, 1, 1] == "treatment check sight failed"
    assert ds.check_result.sel(check="isolation").values[0, 0, 0] == FAIL
    assert ds.check_value.sel(check="isolation").values[0, 0, 0] > 0
    assert len(simulated.truth) == 10


def test_controls_show_what_they_are_for(make: Make) -> None:
    _, no_mask = make(effects=Effects(control="no_mask"))
    assert (no_mask.status == DONE).all()
    assert (no_mask.check_result.sel(check="isolation", mode="isolated") == FAIL).all()
    assert (no_mask.path_digest.sel(mode="isolated") == no_mask.path_digest.sel(mode="visible")).all()
    _, clone = make(effects=Effects(control="clone"))
    for cell in cells(clone):
        pairs = zip(cell.slot_step.values[4:], cell.token.values[4:], strict=True)
        assert len(set(pairs)) == SMALL.steps
    _, repeat = make(effects=Effects(control="repeat"))
    assert (repeat.check_value.sel(check="repeat_attention") > 0).all()


def test_a_layer_can_be_nan(make: Make) -> None:
    _, ds = make(effects=Effects(nan_layer=1))
    assert ds.attention.isel(layer=1).isnull().all()
    assert ds.attention.isel(layer=0).notnull().any()
    assert (ds.status == DONE).all()
    assert (ds.check_result.sel(check="finite") == NOT_APPLICABLE).all()


def test_a_cube_has_the_labels_of_its_frame(make: Make) -> None:
    simulated, ds = make(Design(layers=1, heads=1, seeds=7, categories=(1,) * 7), Effects(outlier=(6, 3.0)))
    for name in ("prompt", "seed", "mode", "category"):
        assert set(ds[name].values) == set(simulated.truth[name])
    assert Cube.open(ds.url).facts.id == "simulated"


def test_a_cube_can_lie_anywhere(where: str) -> None:
    simulated = cube(replace(SMALL, categories=(1,), seeds=1), Effects(), where)
    assert simulated.url == where
    assert verify(where).ok
    assert (open_cube(where).status == DONE).all()
