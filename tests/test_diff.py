"""Two cubes held against each other: what is the same is called so, and what is not is found and named."""

import json
import math

import numpy as np
import pytest
import typer
import zarr

import tempocube as tc
from cubes import PROMPT_TOKENS, facts, fill, grid, write
from runs import grid as real_grid
from tempocube.cli.diff import diff as command
from tempocube.dataset.compare import apart
from tempocube.dataset.schema import DATA
from tempocube.dataset.store import Driver
from tempocube.errors import BadInput, CubeError
from tempocube.stats.diff import diff
from tiny import checkpoint

EXACT = {"attention": "float32", "logits": "float32"}
TEXTS = {"first": ["prompt 0", "prompt 1"]}


@pytest.fixture
def cube(tmp_path):
    """Writes a made-up cube of a name; the same cells always hold the same numbers."""

    def made(name, model=None, **options):
        return fill(tmp_path / name, grid(**options), model)

    return made


def largest(found, name):
    (row,) = [row for row in found.variables if row.name == name]
    return row


def plant(cube, name, index, change):
    """Change one stored value, as no writer would."""
    stored = zarr.open_group(str(cube.place.path), mode="r+")[name]
    stored[index] = change(stored[index])


def test_a_cube_is_the_same_as_itself(cube):
    one = cube("one")
    found = diff(one, one)
    assert found.equal
    assert (found.common, found.same, found.same_path, found.same_bits) == (8, 8, 8, 8)
    assert (found.only_one, found.only_other, found.parted, found.options) == ((), (), (), {})
    assert {row.largest for row in found.variables} <= {0.0, None}
    assert {row.cells for row in found.variables} == {8}


def test_order_capacity_and_storage_are_no_difference(tmp_path, cube):
    one = cube("one")
    shuffled = grid(prompts={"first": TEXTS["first"][::-1]}, seeds=[2, 1], storage=EXACT)
    with Driver(tmp_path / "other", shuffled, facts(), PROMPT_TOKENS + 70) as run:
        for task in run.todo():
            write(task, facts())
    other = tmp_path / "other"
    for found in (diff(one, other), diff(other, one)):
        assert (found.equal, found.same, found.same_bits) == (True, 8, 0)
        assert 0 < largest(found, "attention").largest < 1 / 256
        assert 0 < largest(found, "logits").largest <= 0.5 / 2048 + 1e-6
        assert set(found.options) == {"storage.attention", "storage.logits"}


@pytest.mark.parametrize(
    ("storage", "change", "same"),
    [
        pytest.param({}, lambda code: code + 1, True, id="one code"),
        pytest.param({}, lambda code: code + 2, False, id="two codes"),
        pytest.param(EXACT, lambda weight: weight + 0.9e-5, True, id="within 1e-5"),
        pytest.param(EXACT, lambda weight: weight + 2e-5, False, id="beyond 1e-5"),
        pytest.param(EXACT, lambda weight: math.nan, False, id="a gap"),
    ],
)
def test_one_planted_value_is_found_and_named(cube, storage, change, same):
    one, other = cube("one", storage=storage), cube("other", storage=storage)
    name = "log_attention" if "log_attention" in other.data else "attention"
    plant(other, name, (1, 0, 1, 1, 2, 6, 3), change)
    found = diff(one, other)
    row = largest(found, "attention")
    assert (found.equal, found.same, row.beyond) == (same, 8 if same else 7, 0 if same else 1)
    assert row.cell == "prompt=p1 seed=1 mode=visible"
    assert row.at == "layer 1, head 2, query 6, key 3"
    assert row.largest > 0
    assert all(not each.largest for each in found.variables if each is not row)


@pytest.mark.parametrize(
    ("name", "place", "at"),
    [
        ("probability", (8,), "slot 8"),
        ("logits", (3, 17), "step 3, vocab 17"),
    ],
)
def test_a_planted_number_of_any_other_variable_is_found_too(cube, name, place, at):
    one, other = cube("one", storage=EXACT), cube("other", storage=EXACT)
    plant(other, name, (0, 1, 0, *place), lambda value: value + 0.25)
    found = diff(one, other)
    row = largest(found, name)
    assert (found.equal, found.same, row.beyond) == (False, 7, 1)
    assert (row.cell, row.at) == ("prompt=p0 seed=2 mode=isolated", at)
    assert row.largest == pytest.approx(0.25, abs=1e-6)


def test_other_sets_are_told_by_the_first_that_differs(cube):
    one, other = cube("one"), cube("other")
    slot = int(np.flatnonzero(one.read("slot_step", (0, 0, 0)) == 2)[0])
    plant(other, "token", (0, 0, 0, slot), lambda token: token + 1)
    found = diff(one, other)
    assert (found.equal, found.same, found.same_path) == (False, 7, 7)
    (parted,) = found.parted
    assert (parted.cell, parted.first_set) == ("prompt=p0 seed=1 mode=isolated", 2)
    assert largest(found, "attention").cells == 7


def test_other_values_on_the_same_path_are_named(cube, capsys):
    one, other = cube("one"), cube("other", replay="isolated")
    for index in ((0, 0, 0, 2), (0, 0, 0, 3), (1, 1, 0, 2)):
        plant(other, "margin_kept", index, lambda margin: 0.25)
    found = diff(one, other)
    assert (found.same_path, found.same, found.other_values, found.values) == (4, 2, 2, {"margin_kept": 2})
    words = str(one.place.path), str(other.place.path)
    told = "the same sets, but other values in 2 common cells"
    for names in ("margin_kept: sets that were forced have none", "probability, margin_kept"):
        with pytest.raises(typer.Exit):
            command(*words)
        assert f"{told} ({names})\n" in capsys.readouterr().out
        plant(other, "probability", (0, 0, 0, 8), lambda value: value + 0.25)


def test_other_tokens_of_the_prompt_are_told_as_such(cube):
    one, other = cube("one"), cube("other")
    plant(other, "token", (0, 0, 0, 1), lambda token: token + 1)
    assert [(each.what, each.first_set) for each in diff(one, other).parted] == [
        ("the tokens of the prompt", None)
    ]


def test_cells_of_one_cube_only_are_listed_with_what_the_other_says(tmp_path, cube):
    one = cube("one", count=3)
    with Driver(tmp_path / "other", grid(count=2, seeds=[1, 2, 3]), facts(), PROMPT_TOKENS) as run:
        for task in run.todo()[:-3]:
            write(task, facts())
    found = diff(one, tmp_path / "other")
    assert not found.equal
    assert found.common == found.same == 7
    there = [each.there for each in found.only_one]
    assert (there.count("pending"), there.count("not asked")) == (1, 4)
    assert [each.cell for each in found.only_other] == [
        f"prompt=p{p} seed=3 mode={mode}" for p, mode in ((0, "isolated"), (0, "visible"))
    ]


def test_what_only_one_captured_is_named_and_the_rest_compared(cube):
    part = {"attention": {"layers": [1], "heads": [0, 2], "queries": "generated"}, "logits": False}
    one, other = cube("one"), cube("other", capture=part)
    for found in (diff(one, other), diff(other, one)):
        assert (found.equal, found.same) == (True, 8)
        assert largest(found, "attention").largest == 0
        assert {found.variables_only_one, found.variables_only_other} == {("logits",), ()}
        assert "capture.attention.layers" in found.options or "capture.attention" in found.options
    plant(one, "log_attention", (0, 0, 0, 0, 0, 7, 1), lambda code: code + 90)  # a layer the other has not
    assert diff(one, other).equal
    plant(one, "log_attention", (0, 0, 0, 1, 2, 7, 1), lambda code: code + 90)
    assert largest(diff(one, other), "attention").at == "layer 1, head 2, query 7, key 1"
    nothing = cube("nothing", capture={"attention": {"layers": [0]}})
    assert largest(diff(nothing, other), "attention").not_compared == "no layer was captured in both"


def test_another_model_is_no_same_content_and_its_shapes_are_not_compared(cube):
    one, other = cube("one"), cube("other", facts(vocab=40))
    found = diff(one, other)
    assert not found.equal
    assert found.options["model vocab"] == (50, 40)
    assert largest(found, "logits").not_compared == "vocab: 50 and 40"


def test_a_value_swept_in_one_cube_matches_the_fixed_value_of_the_other(cube):
    swept, fixed = cube("swept", threshold=[0.1, 0.2]), cube("fixed", threshold=0.2)
    found = diff(fixed, swept)
    assert (found.common, found.same, len(found.only_one), len(found.only_other)) == (8, 8, 0, 8)
    assert all("threshold=0.1" in each.cell for each in found.only_other)


@pytest.mark.parametrize(("log", "same"), [(-110, True), (-5, False)])
def test_a_weight_that_float32_cannot_hold_is_the_same_as_its_code(log, same):
    code, weight = np.full((1, 1), -128 * log, np.uint16), np.zeros((1, 1), np.float32)
    assert apart(code, weight, DATA["log_attention"], DATA["attention"]).same == same
    assert apart(weight, code, DATA["attention"], DATA["log_attention"]).same == same


def test_what_is_no_cube_and_cubes_without_experiments_are_refused_in_one_line(tmp_path, cube):
    with pytest.raises(CubeError, match="no cube there"):
        diff(cube("one"), tmp_path / "nowhere")
    for name in ("a", "b"):
        with Driver(tmp_path / name, grid(), facts(), PROMPT_TOKENS):
            pass
    with pytest.raises(BadInput, match="no experiment is done in either"):
        diff(tmp_path / "a", tmp_path / "b")


def test_progress_counts_the_cells(cube):
    told = []
    one = cube("one")
    diff(one, one, lambda done, total: told.append((done, total)))
    assert told == [(n + 1, 8) for n in range(8)]


def test_the_command_says_the_same_in_words_and_in_json(cube, capsys):
    one, other = cube("one"), cube("other")
    words = str(one.place.path), str(other.place.path)
    with pytest.raises(typer.Exit) as ended:
        command(*words)
    assert ended.value.exit_code == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "the same content in 8 of 8 common cells; 8 hold equal values to the last bit"
    plant(other, "log_attention", (1, 0, 1, 1, 2, 6, 3), lambda code: code + 200)
    for as_json in (False, True):
        with pytest.raises(typer.Exit) as ended:
            command(*words, as_json=as_json)
        assert ended.value.exit_code == 1
        out = capsys.readouterr().out
        if as_json:
            (row,) = [row for row in json.loads(out)["variables"] if row["name"] == "attention"]
            assert (json.loads(out)["equal"], row["beyond"]) == (False, 1)
        else:
            assert out.startswith("the same content in 7 of 8 common cells")
            assert "prompt=p1 seed=1 mode=visible: layer 1, head 2, query 6, key 3" in out


@pytest.mark.slow
def test_two_runs_packed_otherwise_are_the_same_content(tmp_path):
    path = str(checkpoint(tmp_path / "llama", "llama"))
    for name, size, storage in (("alone", 1, {}), ("packed", "auto", {}), ("exact", "auto", EXACT)):
        asked = real_grid(model=path, max_tokens=3, temperature=0.7, seeds=[1, 2], storage=storage)
        assert tc.run(asked, tmp_path / name, workers=1, batch_size=size).ok
    for name in ("packed", "exact"):
        found = diff(tmp_path / "alone", tmp_path / name)
        assert (found.equal, found.common, found.same_path) == (True, 12, 12)
        assert largest(found, "probability").largest < 1e-5
