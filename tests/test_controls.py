"""Controls: runs whose answer is known, and the checks that have to see it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runs import EVERYTHING, Results, agrees, check, grid, members, pick, run, sets_of, tiny, weights
from tempocube.capture.engine import capture
from tempocube.capture.model import Model
from tempocube.capture.wanted import Wanted
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import CHECKS, DONE, FAIL, NOT_APPLICABLE, PASS, TREATMENT_CHECKS
from tempocube.dataset.store import Driver
from tempocube.dataset.verify import verify

MODES = ["isolated", "causal", "visible", "single"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return tiny(folder)


def wide_steps(kept: Any) -> list[int]:
    return [step for step, width in enumerate(kept.small["width"]) if width > 1]


# --- none


@pytest.fixture(scope="module")
def usual(model: Model) -> Results:
    return run(model, grid(modes=MODES, prune=[None, {"threshold": 0.03}]))


def test_no_check_is_red_without_a_fault(usual: Results) -> None:
    for kept in usual.values():
        assert FAIL not in kept.small["check_result"]
        assert kept.applied_mode is None


def test_checks_apply_where_there_is_something_to_see(usual: Results) -> None:
    for cell, kept in usual.items():
        wide, hides = bool(wide_steps(kept)), bool((kept.small["pruned_at"] >= 0).any())
        applies = dict.fromkeys(("rows_sum", "cache", "positions", "finite"), True)
        applies["isolation"] = (cell.mode in ("isolated", "causal") and wide) or hides
        applies["sight"] = cell.mode in ("causal", "visible") and wide
        applies["distinct_keys"] = wide
        applies["width"] = cell.mode == "single"
        for name in TREATMENT_CHECKS:
            assert check(kept, name) == (PASS if applies[name] else NOT_APPLICABLE), (cell, name)


def test_positions_are_not_checked_where_rope_applies_none(folder: Path) -> None:
    for kept in run(tiny(folder, "gpt2"), grid()).values():
        assert check(kept, "positions") == NOT_APPLICABLE
        assert kept.small["logical"].tolist() == sorted(kept.small["logical"])


# --- clone


@pytest.fixture(scope="module")
def clones(model: Model) -> Results:
    return run(model, grid(modes=MODES, control="clone", capture=EVERYTHING))


def test_clones_are_copies_of_the_best_token(folder: Path, model: Model, clones: Results) -> None:
    plain = run(model, grid(modes=MODES))
    for cell, kept in clones.items():
        original = pick(plain, prompt=cell.prompt, mode=cell.mode)
        assert kept.small["width"][0] == original.small["width"][0]
        for step, tokens in enumerate(sets_of(kept)):
            assert tokens == [int(kept.small["top_token"][step, 0])] * len(tokens)
            chances = kept.small["probability"][members(kept, step)]
            assert (chances == chances[0]).all()
    agrees(folder / "llama", clones)


@pytest.mark.parametrize("mode", ["isolated", "visible"])
def test_clones_are_treated_alike(mode: str, clones: Results) -> None:
    sets = 0
    for cell, kept in clones.items():
        for step in wide_steps(kept) if cell.mode == mode else ():
            first, *others = members(kept, step)
            before, data = slice(first), kept.data
            for other in others:
                sets += 1
                np.testing.assert_allclose(
                    data["attention"][:, :, other, before], data["attention"][:, :, first, before], atol=1e-6
                )
                for name in ("residual", "after_attention"):
                    scale = np.abs(data[name]).max()
                    np.testing.assert_allclose(data[name][:, other], data[name][:, first], atol=1e-5 * scale)
    assert sets > 5


def test_later_tokens_attend_alike_to_clones(clones: Results) -> None:
    for cell, kept in clones.items():
        for step in wide_steps(kept) if cell.mode != "causal" else ():
            copies = members(kept, step)
            given = weights(kept)[:, :, copies[-1] + 1 :][..., copies]
            np.testing.assert_allclose(given, given[..., :1].repeat(len(copies), -1), atol=1e-5)


def test_causal_clones_differ_because_lower_ranks_see_more(clones: Results) -> None:
    apart = []
    for cell, kept in clones.items():
        for step in wide_steps(kept) if cell.mode == "causal" else ():
            first, second, *_ = members(kept, step)
            rows = kept.data["attention"][:, :, [first, second], :first]
            apart.append(float(np.abs(rows[:, :, 0] - rows[:, :, 1]).max()))
    assert min(apart) > 1e-3


def test_keys_of_clones_need_not_be_distinct(clones: Results) -> None:
    for kept in clones.values():
        assert check(kept, "distinct_keys") == NOT_APPLICABLE
        assert FAIL not in kept.small["check_result"]


# --- no_mask


def test_a_mask_that_is_not_applied_is_seen(folder: Path, model: Model) -> None:
    results = run(model, grid(modes=MODES, control="no_mask"))
    visible = run(model, grid(modes=["visible"]))
    for cell, kept in results.items():
        if cell.mode == "single":
            assert kept.applied_mode is None
            assert FAIL not in kept.small["check_result"]
            continue
        wide = bool(wide_steps(kept))
        masked = cell.mode in ("isolated", "causal")
        assert kept.applied_mode == ("visible" if masked else None)
        assert check(kept, "isolation") == (FAIL if masked and wide else NOT_APPLICABLE)
        red = [name for name in TREATMENT_CHECKS if check(kept, name) == FAIL]
        assert red == (["isolation"] if masked and wide else [])
        same = pick(visible, prompt=cell.prompt)
        assert sets_of(kept) == sets_of(same)
        assert np.abs(weights(kept) - weights(same)).max() <= 1e-5
    assert any(check(kept, "isolation") == FAIL for kept in results.values())
    agrees(folder / "llama", results)


def test_the_weight_on_hidden_pairs_is_told(model: Model) -> None:
    for cell, kept in run(model, grid(modes=["isolated"], control="no_mask")).items():
        value = kept.small["check_value"][CHECKS.index("isolation")]
        most = 0.0
        for step in wide_steps(kept):
            rows = members(kept, step)
            among = weights(kept)[:, :, rows][..., rows].sum((0, 1))
            most = max(most, float(among[~np.eye(len(rows), dtype=bool)].max()))
        assert cell.control == "no_mask"
        assert value == pytest.approx(most, rel=1e-4)


@pytest.mark.parametrize(("control", "red"), [("no_mask", True), ("clone", False), ("repeat", False)])
def test_the_cells_of_a_control_are_done_and_tell(
    control: str, red: bool, model: Model, tmp_path: Path
) -> None:
    asked = grid(control=control)
    longest = max(len(model.prompt_tokens(text)) for text in asked.prompt_texts)
    wanted = Wanted.of(asked.capture, asked.storage, model.facts)
    with Driver(tmp_path / "cube.zarr", asked, model.facts, longest) as driver:
        tasks = driver.todo()
        capture(model, [task.cell for task in tasks], [task.writer() for task in tasks], wanted)
    cube = open_cube(tmp_path / "cube.zarr")
    assert (cube["status"] == DONE).all()
    assert cube.attrs["control"] == control
    failed = (cube["check_result"].sel(check="isolation", mode="isolated") == FAIL).to_numpy()
    assert failed.any() == red
    assert (cube["check_result"].sel(mode="visible") != FAIL).all()
    assert verify(tmp_path / "cube.zarr").ok


# --- repeat


def test_a_repeated_capture_tells_how_far_two_of_the_same_differ(model: Model) -> None:
    options = {"modes": MODES, "temperature": 0.7, "seeds": [1, 2], "replay": "isolated"}
    usual, results = run(model, grid(**options)), run(model, grid(control="repeat", **options))
    for (cell, kept), other in zip(results.items(), usual.values(), strict=True):
        noise = [
            kept.small["check_value"][CHECKS.index(f"repeat_{of}")] for of in ("attention", "logprob", "kl")
        ]
        assert 0 <= noise[0] <= 1e-5
        assert 0 <= noise[1] <= 1e-4
        assert 0 <= noise[2] <= 1e-6
        assert np.isnan(other.small["check_value"][CHECKS.index("repeat_attention")])
        assert sets_of(kept) == sets_of(other), cell
        for name, values in other.data.items():
            np.testing.assert_array_equal(kept.data[name], values)
    assert max(kept.small["check_value"][CHECKS.index("repeat_logprob")] for kept in results.values()) > 0
