"""Q4: d over prompts, the descriptive d within each, and how consistent prompts are."""

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr

from tempocube.dataset.scenarios import SCENARIOS, Design, Effects, frame
from tempocube.stats.answers import answer
from tempocube.stats.questions_size import consistency
from tempocube.stats.study import read


def maps(values: np.ndarray, prompts: list[str]) -> xr.DataArray:
    """(prompt, layer, head) values, the same in both seeds and modes."""
    whole = np.broadcast_to(values[:, None, None], (len(prompts), 2, 2, *values.shape[1:]))
    names = {"prompt": prompts, "seed": [42, 123], "mode": ["isolated", "visible"]}
    ends = {"layer": range(values.shape[1]), "head": range(values.shape[2])}
    return xr.DataArray(whole, coords={**names, **ends}, dims=["prompt", "seed", "mode", "layer", "head"])


def sized(given: xr.DataArray | None = None, **changes: Any) -> dict[str, Any]:
    made = frame(Design(seeds=2), Effects(mean=-0.7, **changes), seed=3)
    told = json.loads(answer(made, maps=given).to_json())["answers"]["effect_size"]
    found: dict[str, Any] = told["details"]
    return found


def test_each_prompts_d_is_its_mean_over_the_sd_of_its_layer_heads() -> None:
    values = np.random.default_rng(1).normal(-0.7, 0.2, (10, 3, 4))
    found = sized(maps(values, [f"p{i}" for i in range(10)]))["within_prompts"]
    assert found["label"] == "descriptive: depends on the number of heads, no interval, no p"
    flat = values.reshape(10, -1)
    expected = flat.mean(axis=1) / flat.std(axis=1, ddof=1)
    assert list(found["d"].values()) == pytest.approx(expected.tolist())
    assert "p" not in found


def test_a_map_without_spread_is_deterministic_and_never_infinite() -> None:
    values = np.random.default_rng(1).normal(-0.7, 0.2, (10, 3, 4))
    values[2] = -0.3
    values[4, :, :] = np.nan
    values[4, 0, 0] = -0.3
    values[5] = np.nan
    found = sized(maps(values, [f"p{i}" for i in range(10)]))["within_prompts"]["d"]
    assert found["p2"] == "undefined (deterministic)"
    assert found["p4"] == "undefined (1 layer-heads have a value)"
    assert "p5" not in found
    assert isinstance(found["p0"], float)


def test_without_maps_it_says_why_there_is_none() -> None:
    found = sized()["within_prompts"]
    assert found["not_told"] == "no maps came with the frame"
    assert "d" not in found


def test_prompts_that_do_not_differ_have_no_d() -> None:
    made = frame(Design(), Effects(), seed=3).assign(downweighting=-0.5)
    found = answer(made).answers["effect_size"]
    assert found.estimate is None
    assert "undefined (deterministic)" in found.sentence


def test_consistency_counts_signs_and_leaves_each_prompt_out() -> None:
    of = read(frame(Design(), Effects(mean=-0.7), seed=3))
    found, x = consistency(of), of.means
    same = int((x < 0).sum())
    assert found["same_sign"] == same
    assert found["share_ci"][0] < same / 10 <= found["share_ci"][1]
    assert found["range"] == [x.min(), x.max()]
    lowest, highest = (x.sum() - x.max()) / 9, (x.sum() - x.min()) / 9
    assert found["leave_one_out"] == pytest.approx([lowest, highest])


def test_tau_is_the_planted_spread_where_prompts_have_errors_of_their_own() -> None:
    effects = Effects(mean=-0.7, prompt_sd=0.4, prompt_seed_sd=0.1)
    found = consistency(read(frame(Design(categories=(10,) * 5), effects, seed=3)))
    assert found["tau"] == pytest.approx(0.4, rel=0.25)
    assert found["tau_over_mean"] == pytest.approx(0.4 / 0.7, rel=0.3)


@pytest.mark.parametrize(
    ("effects", "shape", "why"),
    [
        (Effects(), {"seeds": 1}, "a prompt has one seed"),
        (Effects(), {"categories": (1, 1)}, "fewer than three prompts"),
        (SCENARIOS["D"], {}, "seeds of a prompt do not differ"),
    ],
)
def test_without_errors_within_prompts_tau_is_not_told(
    effects: Effects, shape: dict[str, Any], why: str
) -> None:
    found = consistency(read(frame(Design(**shape), effects, seed=3)))
    assert found["heterogeneity"] == f"not told: {why}"
    assert "tau" not in found
