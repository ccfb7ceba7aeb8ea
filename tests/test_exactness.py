"""What is captured is what an independent recomputation gives: numpy, float64, no cache, explicit masks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reference import windows
from runs import EVERYTHING, Results, agrees, dequantised, differences, grid, pick, ragged, run, tiny, weights
from tempocube.capture.model import Model
from tempocube.dataset.schema import INTERNALS
from tempocube.dataset.visibility import existence, visibility
from tiny import ARCHITECTURES

MODES = ["isolated", "causal", "visible", "single"]
INSIDE = [0, 2]
SWEPT_CURVES = [
    {"start": 0.3, "end": 0.04, "curve": "linear"},
    {"start": 0.04, "end": 0.3, "curve": "bezier"},
    {"start": 0.3, "end": 0.05, "curve": "relu"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def llama(folder: Path) -> Model:
    return tiny(folder)


# --- architectures


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_what_full_recomputation_makes_of_it(architecture: str, tmp_path: Path) -> None:
    model = tiny(tmp_path, architecture)
    folder = tmp_path / architecture
    if architecture.endswith("4bit"):
        folder = dequantised(folder, tmp_path / "plain")
    results = run(model, grid(modes=MODES, capture=EVERYTHING | {"internals": INSIDE}))
    assert ragged(results)
    agrees(folder, results, INSIDE)
    kept = {"attention", "logits", "residual", "after_attention", "cached_key", "cached_value", *INTERNALS}
    assert all(each.data.keys() == kept for each in results.values())


def test_a_sliding_window_really_cuts(tmp_path: Path) -> None:
    model = tiny(tmp_path, "gemma3")
    sliding = [window is not None for window in windows(model.config)]
    assert any(sliding)
    assert not all(sliding)
    results = run(model, grid(prompts={"a": ["the cat sat on the mat and then the other cat came in"]}))
    for cell, kept in results.items():
        small = kept.small
        where = small["logical"], small["slot_step"], small["pruned_at"]
        cut = visibility(cell.mode, *where) & ~visibility(cell.mode, *where, window=8)
        assert cut[small["slot_step"] >= 0].any()
        got = kept.data["attention"]
        assert (got[sliding][:, :, cut] == 0).all()
        assert (got[np.logical_not(sliding)][:, :, cut] > 0).all()
    agrees(tmp_path / "gemma3", results)


# --- what a grid may ask for


def hides(results: Results) -> bool:
    return sum(int((kept.small["pruned_at"] >= 0).sum()) for kept in results.values()) > 2


def caps(results: Results) -> bool:
    return any(kept.small["capped"].any() for kept in results.values())


def parts(results: Results, name: str) -> bool:
    """Whether values of an axis led to different sets."""
    paths: dict[Any, list[Any]] = {}
    for cell, kept in results.items():
        paths.setdefault(getattr(cell, name), []).append(kept.small["token"].tolist())
    return len({json.dumps(path) for path in paths.values()}) == len(paths) > 1


def follows(results: Results) -> bool:
    return all(
        kept.small["token"].tolist()
        == pick(results, prompt=cell.prompt, mode="isolated").small["token"].tolist()
        for cell, kept in results.items()
        if cell.replay
    )


VARIATIONS: dict[str, tuple[dict[str, Any], Callable[[Results], bool]]] = {
    "pruned": ({"prune": {"threshold": 0.03}}, hides),
    "pruned relatively": ({"prune": {"threshold": 0.8, "relative": True}}, hides),
    "pruned by deep layers": (
        {"prune": {"threshold": 0.04, "weighting": "rising", "layers": [0, 2]}},
        hides,
    ),
    "replayed": ({"replay": "isolated"}, follows),
    "replayed and pruned": ({"replay": "isolated", "prune": {"threshold": 0.05}}, hides),
    "ablated": (
        {"ablate": [[], ["L0H1"], ["L1.mlp"], ["L0H0", "L2H3", "L2H1", "L1.mlp"]]},
        lambda results: parts(results, "ablate"),
    ),
    "read out otherwise": (
        {"readout": ["mixture", "top", "last"]},
        lambda results: parts(results, "readout"),
    ),
    "sampled": ({"temperature": 0.7, "seeds": [1, 2, 3]}, lambda results: parts(results, "seed")),
    "with a threshold that changes": (
        {"threshold": SWEPT_CURVES, "max_tokens": 6},
        lambda results: parts(results, "threshold"),
    ),
    "capped": ({"threshold": 0.03, "max_width": [2, 3]}, caps),
    "all at once": (
        {"temperature": 0.7, "seeds": [1, 2], "replay": "isolated", "prune": {"threshold": 0.05}}
        | {"ablate": [["L1H2"], ["L0.mlp"]], "readout": ["top", "mixture"]},
        hides,
    ),
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_run_is_what_full_recomputation_makes_of_its_sets(name: str, folder: Path, llama: Model) -> None:
    options, bites = VARIATIONS[name]
    results = run(llama, grid(**{"modes": MODES[:3], "capture": EVERYTHING, **options}))
    assert bites(results)
    assert ragged(results)
    agrees(folder / "llama", results)


def digits(count: int) -> str:
    """A prompt of so many tokens and the one that begins every text."""
    return "".join(str(i * i % 10) for i in range(count - 1))


def test_long_prompts_go_in_blocks_of_rows_and_generation_crosses_them(folder: Path, llama: Model) -> None:
    lengths = [62, 64, 65, 130, 5]
    asked = grid(prompts={"a": [digits(length) for length in lengths]}, prune={"threshold": 0.01})
    results = run(llama, asked)
    assert [len(llama.prompt_tokens(text)) for text in asked.prompt_texts] == lengths
    crossing = pick(results, prompt=digits(62), mode="visible").small["slot_step"]
    assert crossing[63] >= 0
    assert crossing.size > 66
    assert hides(results)
    agrees(folder / "llama", results)


def test_a_set_may_lie_on_both_sides_of_a_border_of_blocks(folder: Path, llama: Model) -> None:
    asked = grid(prompts={"a": [digits(length) for length in (61, 62, 63)]}, threshold=0.05)
    results = run(llama, asked)
    steps = [kept.small["slot_step"] for kept in results.values()]
    assert any(step.size > 64 and step[63] == step[64] >= 0 for step in steps)
    agrees(folder / "llama", results)


def test_logs_of_weights_are_those_of_the_recomputed_ones(folder: Path, llama: Model) -> None:
    asked = grid(modes=MODES, storage={"attention": "log16", "logits": "log16"})
    for cell, kept in run(llama, asked).items():
        logs, small = kept.data["log_attention"], kept.small
        where = small["logical"], small["slot_step"], small["pruned_at"]
        there, seen = existence(small["slot_step"]), visibility(cell.mode, *where)
        assert np.isnan(logs[:, :, ~there]).all()
        assert np.isneginf(logs[:, :, there & ~seen]).all()
        assert (logs[:, :, seen] <= 0).all()
        assert differences(folder / "llama", cell, kept)["attention"] <= 1e-5


def test_hidden_pairs_weigh_exactly_nothing_and_later_keys_are_not_there(llama: Model) -> None:
    for cell, kept in run(llama, grid(modes=MODES, prune={"threshold": 0.03})).items():
        small, got = kept.small, kept.data["attention"]
        seen = visibility(cell.mode, small["logical"], small["slot_step"], small["pruned_at"])
        there = existence(small["slot_step"])
        assert (np.isnan(got) == ~there).all()
        assert (got[:, :, there & ~seen] == 0).all()
        assert (got[:, :, seen] > 0).all()
        assert np.abs(weights(kept).sum(-1) - 1).max() < 1e-5


# --- ends


def test_end_tokens_hide_and_end(tmp_path: Path) -> None:
    model = tiny(tmp_path, eos_token_id=list(range(0, 320, 3)))
    asked = grid(modes=MODES, stop_at_eos=True, max_tokens=8, seeds=[1, 2], temperature=[0.0, 0.7])
    results = run(model, asked)
    early, hidden = 0, 0
    for kept in results.values():
        small = kept.small
        token, step, gone = small["token"], small["slot_step"], small["pruned_at"]
        ends = np.isin(token, range(0, 320, 3)) & (step >= 0)
        last = len(small["width"]) - 1
        over = ends[step == last].all()
        early, hidden = early + (last < 7), hidden + int((gone >= 0).sum())
        assert over or last == 7
        assert (gone[(step == last) & over] == -1).all()
        others = ~((step == last) & over)
        assert (gone[others] == np.where(ends, step + 1, -1)[others]).all()
        for number in range(last):
            assert not ends[step == number].all()
    assert early > 2
    assert hidden > 2
    agrees(tmp_path / "llama", results)


def test_no_set_that_would_not_fit_is_taken(folder: Path, llama: Model) -> None:
    everything = run(llama, grid(modes=MODES, max_tokens=8))
    cut = run(llama, grid(modes=MODES, max_tokens=8, max_slots=24))
    agrees(folder / "llama", cut)
    for (whole, kept), cell in zip(zip(everything.values(), cut.values(), strict=True), cut, strict=True):
        prompt = len(llama.prompt_tokens(cell.prompt))
        fit = int((prompt + np.cumsum(whole.small["width"]) <= 24).sum())
        assert kept.small["width"].tolist() == whole.small["width"][:fit].tolist()
    assert len({len(kept.small["width"]) for kept in cut.values()}) > 2


def test_a_prompt_that_leaves_no_room_is_captured_without_sets(folder: Path, llama: Model) -> None:
    (kept,) = run(llama, grid(prompts={"a": ["lal"]}, modes=["visible"], max_slots=3)).values()
    assert kept.small["width"].size == 0
    assert kept.small["token"].tolist() == llama.prompt_tokens("lal")
    assert kept.data["attention"].shape[2:] == (3, 3)
    assert "logits" not in kept.data
