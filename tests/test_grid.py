"""What a grid is: its cells, axes and labels, and that it survives being written down."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tempocube.dataset.grid import SWEPT, Cell, Grid, Prompt, json_schema
from tempocube.dataset.options import Prune
from tempocube.errors import BadInput

from . import strategies

PROMPTS = {"narrative": ["Once upon a time", "The hero embarked on"], "factual": "The scientist discovered"}
EVERY_AXIS: dict[str, Any] = {
    "max_tokens": [5, 10],
    "ablate": [None, ["L7.mlp", "L3H5"]],
    "prune": [None, {"threshold": 0.05}],
    "readout": ["mixture", "top"],
    "max_width": [4, 8],
    "temperature": [0, 0.7],
    "threshold": [0.1, 0.2],
}


def grid(**options: Any) -> Grid:
    return Grid.from_dict({"prompts": PROMPTS} | options)


def test_the_cells_are_prompt_by_seed_by_mode() -> None:
    cells = grid(seeds=[1, 2], modes=["isolated", "visible"]).cells()
    assert len(cells) == 3 * 2 * 2
    assert [(cell.prompt, cell.seed, cell.mode) for cell in cells[:5]] == [
        ("Once upon a time", 1, "isolated"),
        ("Once upon a time", 1, "visible"),
        ("Once upon a time", 2, "isolated"),
        ("Once upon a time", 2, "visible"),
        ("The hero embarked on", 1, "isolated"),
    ]
    assert [cell.category for cell in cells[-5:]] == ["narrative"] + ["factual"] * 4


def test_swept_options_are_dims_in_one_order_whatever_the_order_in_the_file() -> None:
    swept = grid(**EVERY_AXIS)
    assert tuple(swept.axes) == SWEPT
    cells = swept.cells()
    assert len(cells) == 3 * 2 * 2**7
    assert (cells[0].max_tokens, cells[1].max_tokens) == (5, 10)
    assert (cells[0].threshold, cells[2**6].threshold) == (0.1, 0.2)


def test_a_list_of_one_value_is_an_axis_and_a_value_is_none() -> None:
    assert grid(threshold=[0.1]).axes == {"threshold": (0.1,)}
    assert grid(threshold=0.1).axes == {}


@pytest.mark.parametrize("none", [None, []])
def test_null_and_an_empty_list_both_ablate_nothing(none: Any) -> None:
    assert grid(ablate=none).axes == {}
    assert grid(ablate=none).cells()[0].ablate == ()
    assert grid(ablate=[none, ["L0H0"]]).axes == {"ablate": ((), ("L0H0",))}


def test_ablation_targets_are_held_in_the_order_of_the_model() -> None:
    assert grid(ablate=["L10H2", "L3.mlp", "L3H11", "L3H5"]).value("ablate") == (
        "L3H5",
        "L3H11",
        "L3.mlp",
        "L10H2",
    )


def test_the_value_of_an_axis_must_be_asked_for_as_an_axis() -> None:
    with pytest.raises(ValueError, match="threshold is an axis"):
        grid(threshold=[0.1]).value("threshold")
    assert grid().value("max_width") == 16
    assert grid().values("max_width") == (16,)


def test_a_cells_key_is_the_same_in_every_process_and_release() -> None:
    cell = Cell("The cat sat on the", "narrative", 42, "visible")
    assert cell.key == "1340c2c21a9e87b5"
    script = (
        "from tempocube.dataset.grid import Cell;"
        "print(Cell('The cat sat on the', 'another category', 42, 'visible', threshold=0.1).key)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == cell.key


def test_equal_cells_have_equal_keys_however_the_number_is_written() -> None:
    one = Cell("a", "x", 1, "single", threshold=1, temperature=0)
    other = Cell("a", "y", 1, "single", threshold=1.0, temperature=-0.0)
    assert (one, hash(one), one.key) == (other, hash(other), other.key)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"mode": "single"},
        {"prune": Prune(threshold=0.1)},
        {"replay": "causal"},
        {"max_slots": 9},
    ],
)
def test_another_experiment_has_another_key(change: dict[str, Any]) -> None:
    base = Cell("a", "x", 1, "visible").to_dict()
    assert Cell(**(base | {"ablate": ()} | change)).key != Cell.from_dict(base).key


def test_replay_forces_every_mode_but_its_leader_and_single() -> None:
    modes = ["isolated", "causal", "visible", "single"]
    cells = {cell.mode: cell for cell in grid(modes=modes, replay="isolated").cells()}
    assert {mode: cell.replay for mode, cell in cells.items()} == {
        "isolated": None,
        "causal": "isolated",
        "visible": "isolated",
        "single": None,
    }
    assert cells["visible"].leader == cells["isolated"]
    assert cells["isolated"].leader is None


def test_a_cell_that_leads_is_the_cell_that_runs_free() -> None:
    assert grid(replay="isolated").cells()[0].key == grid().cells()[0].key


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"promt": "a"}, "cell: promt: unknown key; did you mean prompt?"),
        ({"prompt": "a", "category": "b", "seed": 1}, "cell: mode: is missing"),
        (
            {
                "prompt": "a",
                "category": "b",
                "seed": 1,
                "mode": "single",
                "threshold": {"start": 3, "end": 1},
            },
            "cell: threshold: start: must be a number above 0 and at most 1 (got 3)",
        ),
    ],
)
def test_what_is_no_cell_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as refusal:
        Cell.from_dict(given)
    assert str(refusal.value) == message


def test_slots_are_bounded_by_the_cap_and_by_the_lowest_threshold() -> None:
    assert grid(max_tokens=10, threshold=0.1).generated_slots == 100
    assert grid(max_tokens=10, threshold=0.03, max_width=64).generated_slots == 330
    assert grid(max_tokens=10, threshold=0.03).generated_slots == 160
    assert grid(max_tokens=[3, 10], threshold=[0.5, 0.25]).generated_slots == 40
    assert grid(threshold={"start": 0.5, "end": 0.2}).generated_slots == 50
    assert grid(threshold=5e-324).generated_slots == 160
    assert grid(max_tokens=[3, 10]).max_sets == 10


def test_one_over_a_threshold_does_not_lose_a_token_to_rounding() -> None:
    for width in range(1, 200):
        assert grid(threshold=1 / width, max_width=1000, max_tokens=1).generated_slots == width


def test_coordinates_are_numbers_or_text() -> None:
    swept = grid(**EVERY_AXIS)
    assert swept.axis_labels("threshold") == (0.1, 0.2)
    assert swept.axis_labels("temperature") == (0.0, 0.7)
    assert swept.axis_labels("max_width") == (4, 8)
    assert swept.axis_labels("max_tokens") == (5, 10)
    assert swept.axis_labels("readout") == ("mixture", "top")
    assert swept.axis_labels("prune") == ("none", "0.05")
    assert swept.axis_labels("ablate") == ("none", "L3H5+L7.mlp")
    assert {type(each) for name in swept.axes for each in swept.axis_labels(name)} == {int, float, str}


def test_one_curve_makes_every_threshold_a_text() -> None:
    curve = {"start": 0.3, "end": 0.1, "curve": "linear"}
    assert grid(threshold=[0.1, 1, curve]).axis_labels("threshold") == ("0.1", "1", "linear 0.3-0.1")


def test_an_extension_must_agree_on_everything_that_is_no_axis() -> None:
    before, now = grid(threshold=[0.1]), grid(threshold=[0.1, 0.2], seeds=[7], modes=["single"])
    assert before.invariants() == now.invariants()
    assert "threshold" not in before.invariants()
    other = grid(threshold=0.1, capture={"attention": {"layers": [0]}}, max_width=4)
    there, here = before.invariants(), other.invariants()
    assert {key for key in there | here if there.get(key) != here.get(key)} == {
        "axes",
        "threshold",
        "max_width",
        "capture.attention.layers",
    }
    json.dumps(here)


def test_a_grid_is_one_value() -> None:
    one, other = grid(), Grid.from_dict({"prompts": PROMPTS, "threshold": 0.1}, source="elsewhere")
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one


def test_a_grids_name_is_its_files_and_says_nothing_about_what_it_asks(tmp_path: Path) -> None:
    (tmp_path / "my.grid.yaml").write_text("prompts: [Once upon]", encoding="utf-8")
    loaded = Grid.load(tmp_path / "my.grid.yaml")
    assert loaded.name == "my.grid"
    assert pickle.loads(pickle.dumps(loaded)).name == "my.grid"
    assert loaded == Grid.from_dict({"prompts": ["Once upon"]})
    assert grid().name == "grid"


def test_own_ids_and_interleaved_categories_survive_being_written() -> None:
    named = [Prompt("a", "x", "first"), Prompt("b", "y", "second"), Prompt("c", "x", "third")]
    unnamed = [Prompt(each.text, each.category) for each in named]
    for prompts in (named, unnamed):
        asked = Grid.from_dict({"prompts": prompts})
        written = asked.to_dict()
        assert isinstance(written["prompts"], list)
        assert Grid.from_dict(written).prompts == tuple(prompts)


@given(strategies.grids())
def test_any_grid_survives_being_written_and_its_cells_are_unique(options: dict[str, Any]) -> None:
    asked = Grid.from_dict(options)
    written = json.loads(json.dumps(asked.to_dict()))
    assert Grid.from_dict(written) == asked
    cells = asked.cells()
    assert Grid.from_dict(written).cells() == cells
    assert len({cell.key for cell in cells}) == len(set(cells)) == len(cells)
    assert [Cell.from_dict(json.loads(json.dumps(c.to_dict()))).to_dict() for c in cells] == [
        c.to_dict() for c in cells
    ]
    for name, values in asked.axes.items():
        assert len(set(asked.axis_labels(name))) == len(values)


@given(options=strategies.grids(), suffix=st.sampled_from([".yaml", ".json"]), escape=st.booleans())
def test_any_grid_survives_a_file(tmp_path: Path, options: dict[str, Any], suffix: str, escape: bool) -> None:
    options.pop("capture", None)  # vectors would have to exist
    path = tmp_path / f"grid{suffix}"
    asked = Grid.from_dict(options)
    if suffix == ".json":
        path.write_bytes(json.dumps(asked.to_dict(), ensure_ascii=escape, indent="\t").encode())
    else:
        yaml: Any = YAML(typ="safe", pure=True)
        yaml.default_flow_style = yaml.sort_base_mapping_type_on_output = False
        yaml.default_style = '"'  # ruamel leaves `?0` bare, and then reads it as a key
        yaml.dump(asked.to_dict(), path)
    assert Grid.load(path) == asked


def test_the_schema_for_editors_describes_every_key() -> None:
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    models = [schema, *schema["$defs"].values()]
    undescribed = [
        key
        for model in models
        for key, option in model.get("properties", {}).items()
        if "description" not in option
    ]
    assert undescribed == []
    assert set(schema["properties"]) == {*Grid.model_fields, "prompts_file"}


@given(strategies.grids())
def test_any_grid_that_loads_is_valid_for_the_editor(options: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(options, json_schema())
    jsonschema.validate(Grid.from_dict(options).to_dict(), json_schema())


def test_reading_a_grid_imports_neither_model_nor_cube() -> None:
    heavy = "{'mlx', 'mlx_lm', 'dask', 'distributed', 'xarray', 'zarr', 'pandas', 'matplotlib', 'numpy'}"
    script = f"import sys, tempocube.dataset.grid; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
