"""The grids that come along ask what the experiments they are named after asked."""

from collections import Counter
from pathlib import Path

import pytest

from tempocube.dataset import presets
from tempocube.dataset.grid import Grid, json_schema
from tempocube.dataset.gridfile import read
from tempocube.errors import BadInput

SEED_PROMPTS = {
    "narrative": ["Once upon a time", "The hero embarked on"],
    "factual": ["The scientist discovered", "According to the research"],
    "technical": ["The algorithm processes", "The system architecture"],
    "dialogue": ["She said to him", "He couldn't believe"],
    "descriptive": ["The ancient civilization", "The magnificent landscape"],
}


def test_the_presets_are_these() -> None:
    assert presets.names() == (
        *("exp1", "exp2", "exp3", "exp4", "exp5"),
        *("long", "powered", "seeds100", "seeds100-sampled", "traits"),
    )


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_loads_with_the_embedded_model_and_says_what_it_is_for(name: str) -> None:
    grid = Grid.load(name)
    assert (grid.name, grid.model) == (name, "embedded")
    assert 20 < len(presets.describe(name)) < 110
    assert Grid.from_dict(grid.to_dict()) == grid


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_valid_for_an_editor(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(read(presets.path(name)).options, json_schema())


@pytest.mark.parametrize(("name", "temperature"), [("seeds100", 0.0), ("seeds100-sampled", 0.7)])
def test_the_hundred_experiments_of_the_scaling_plan(name: str, temperature: float) -> None:
    grid = Grid.load(name)
    assert grid.to_dict()["prompts"] == SEED_PROMPTS
    assert (grid.seeds, grid.modes) == ((42, 123, 456, 789, 999), ("isolated", "visible"))
    assert (grid.max_tokens, grid.threshold, grid.temperature) == (10, 0.1, temperature)
    assert len(grid.cells()) == 100


@pytest.mark.parametrize("name", ["exp1", "exp2", "exp3", "exp4", "exp5"])
def test_the_five_experiments_run_their_prompt_in_both_modes(name: str) -> None:
    grid = Grid.load(name)
    assert grid.prompt_texts == ("The quick brown fox" if name == "exp5" else "The cat sat on the",)
    assert set(grid.modes) == {"isolated", "visible"}
    assert grid.threshold == (0.03 if name == "exp5" else 0.1)
    assert grid.temperature == 0
    assert len(grid.cells()) == 2


def test_only_what_is_compared_entry_by_entry_is_replayed() -> None:
    replayed = [name for name in presets.names() if Grid.load(name).replay]
    assert replayed == ["exp1", "exp2"]


def test_each_experiment_captures_what_it_asks_about() -> None:
    for name in ("exp1", "exp3", "exp5"):
        attention = Grid.load(name).capture.attention
        assert attention
        assert (attention.layers, attention.heads, attention.queries) == ("all", "all", "all")
    assert Grid.load("exp2").capture.logits
    assert Grid.load("exp4").capture.keys_values
    assert Grid.load("exp5").max_width == 33


def test_the_powered_grid_has_prompts_enough_for_its_categories() -> None:
    grid = Grid.load("powered")
    assert Counter(prompt.category for prompt in grid.prompts) == dict.fromkeys(SEED_PROMPTS, 16)
    assert set(grid.prompt_texts) > {text for texts in SEED_PROMPTS.values() for text in texts}
    assert all(3 <= len(text.split()) <= 6 for text in grid.prompt_texts)
    assert (len(grid.seeds), grid.temperature, len(grid.cells())) == (2, 0.7, 320)


def test_the_long_grid_fills_334_slots_a_hundred_times() -> None:
    grid = Grid.load("long")
    assert (grid.max_slots, grid.max_sets, len(grid.cells())) == (334, 334, 100)


def test_the_trait_files_hold_24_prompts() -> None:
    grid = Grid.load("traits")
    assert Counter(prompt.category for prompt in grid.prompts) == {
        "prompts_uncertainty": 8,
        "prompts_commitment": 4,
        "prompts_cognitive": 4,
        "prompts_sycophancy": 4,
        "prompts_tier3_uncertainty": 2,
        "prompts_tier3_cognitive": 2,
    }
    assert grid.capture.residual
    assert len(grid.cells()) == 24


def test_an_unknown_preset_is_named_with_its_nearest_neighbour() -> None:
    with pytest.raises(BadInput, match=r"^exp6: no such preset; did you mean exp5\?; presets: exp1, "):
        presets.path("exp6")


def test_every_file_beside_the_presets_is_used() -> None:
    folder = presets.path("traits").parent
    used = {Path(name).name for name in read(presets.path("traits")).options["prompts_file"]}
    assert {path.name for path in folder.iterdir()} == used | {f"{name}.yaml" for name in presets.names()}
