"""The oracle, running free from the same prompt, takes the sets that the engine takes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reference import Generated, Reference
from runs import NEAR, free, grid, run, sets_of, takes_the_same_sets, tiny
from tempocube.capture.model import Model

MODES = ["isolated", "causal", "visible", "single"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def llama(folder: Path) -> Model:
    return tiny(folder, eos_token_id=list(range(0, 320, 3)))


OPTIONS: dict[str, dict[str, Any]] = {
    "every mode": {"modes": MODES},
    "with noise": {"modes": MODES, "temperature": 0.7, "seeds": [1, 2, 3]},
    "every readout": {"readout": ["top", "last"], "temperature": [0.0, 0.7]},
    "pruned": {"prune": [{"threshold": 0.03}, {"threshold": 0.7, "relative": True}]},
    "pruned by chosen layers": {"prune": {"threshold": 0.05, "layers": [1, 2], "weighting": "rising"}},
    "ablated": {"ablate": [["L0H1", "L1H2"], ["L2.mlp"]]},
    "clones": {"control": "clone"},
    "to the end of the text": {"stop_at_eos": True, "modes": MODES, "temperature": [0.0, 0.7]},
    "to the end, by other readouts": {"stop_at_eos": True, "readout": ["top", "last"], "temperature": 0.7}
    | {"seeds": [1, 2]},
    "capped, with curves": {"max_width": 2, "threshold": [{"start": 0.3, "end": 0.03}]},
    "pruned, with noise": {"prune": {"threshold": 0.04}, "temperature": 0.7, "stop_at_eos": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_oracle_takes_the_same_sets(name: str, folder: Path, llama: Model) -> None:
    reference = Reference(folder / "llama")
    results = run(llama, grid(**OPTIONS[name]))
    to_the_end = [takes_the_same_sets(free(reference, llama, cell), kept) for cell, kept in results.items()]
    assert len(to_the_end) >= 6
    assert np.mean(to_the_end) >= 0.8  # the rest came to a near tie


@pytest.mark.parametrize("prune", [None, {"threshold": 0.04}])
def test_the_oracle_follows_along_the_same_sets(
    prune: dict[str, Any] | None, folder: Path, llama: Model
) -> None:
    reference = Reference(folder / "llama")
    asked = grid(modes=MODES, replay="isolated", temperature=0.7, stop_at_eos=True, prune=prune)
    leaders: dict[str, Generated] = {}
    for cell, kept in run(llama, asked).items():
        leader = leaders.get(cell.prompt) if cell.replay else None
        theirs = free(reference, llama, cell, leader)
        assert takes_the_same_sets(theirs, kept)
        leaders.setdefault(cell.prompt, theirs)  # of each prompt, isolated comes first


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_margins_are_the_distance_to_other_sets(temperature: float, folder: Path, llama: Model) -> None:
    reference = Reference(folder / "llama")
    asked = grid(modes=MODES, temperature=temperature, max_width=[2, 16])
    for cell, kept in run(llama, asked).items():
        theirs = free(reference, llama, cell)
        assert takes_the_same_sets(theirs, kept)
        margins = [kept.small[f"margin_{name}"] for name in ("kept", "dropped", "order")]
        np.testing.assert_allclose(np.nanmin(margins, axis=0), theirs.gaps, atol=NEAR)
        assert (np.isnan(kept.small["margin_order"]) == (kept.small["width"] == 1)).all()


def test_noise_leads_elsewhere_and_seeds_apart(llama: Model) -> None:
    paths = {
        (cell.prompt, cell.temperature, cell.seed): sets_of(kept)
        for cell, kept in run(llama, grid(modes=["visible"], temperature=[0.0, 0.7], seeds=[1, 2])).items()
    }
    for prompt in {prompt for prompt, *_ in paths}:
        calm = [paths[prompt, 0.0, seed] for seed in (1, 2)]
        noisy = [paths[prompt, 0.7, seed] for seed in (1, 2)]
        assert calm[0] == calm[1]
        assert noisy[0] != noisy[1]
        assert calm[0] not in noisy
