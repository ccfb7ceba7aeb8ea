import os
from pathlib import Path

import numpy as np
import pytest

from cubes import PROMPT_TOKENS, experiment, facts, fill, grid, write
from tempocube.dataset.cube import Cube
from tempocube.dataset.schema import CHECKS
from tempocube.dataset.store import Driver
from tempocube.dataset.verify import verify
from tempocube.errors import CubeError

CELL = "prompt=p1 seed=2 mode=visible"


@pytest.fixture
def cube(where):
    return fill(where, grid(max_tokens=60))


def shard(cube, name):
    """The first shard of the last cell."""
    return first_shard(cube, name, [n - 1 for n in cube.shape])


def first_shard(cube, name, index):
    """Shards of a cell, by their names."""
    mine = f"{name}/c.{'.'.join(map(str, index))}."
    return next(stored.key for stored in cube.place.list(name) if stored.key.startswith(mine))


def problems(cube):
    return [str(problem) for problem in verify(cube.place).problems]


@pytest.mark.parametrize("name", ["log_attention", "logits"])
def test_a_missing_shard_is_named_with_its_cell(cube, name):
    cube.place.delete([shard(cube, name)])
    (problem,) = problems(cube)
    assert problem.startswith(f"{CELL}: {name}: the shard of rows 0.. is missing")


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_truncated_shard_names_its_cell(cube, kept):
    key = shard(cube, "log_attention")
    data = cube.place.get(key)
    cube.place.put(key, data[: int(len(data) * kept)])
    (problem,) = problems(cube)
    assert problem.startswith(CELL)


@pytest.mark.parametrize("at", [0.01, 0.3, 0.6, 0.9, 0.9999])
def test_a_bit_flipped_anywhere_in_a_shard_names_its_cell(cube, at):
    key = shard(cube, "log_attention")
    data = bytearray(cube.place.get(key))
    data[int(len(data) * at)] ^= 4
    cube.place.put(key, bytes(data))
    (problem,) = problems(cube)
    assert problem.startswith(CELL)


def test_a_shard_of_another_cell_in_its_place_is_noticed(cube):
    cube.place.put(shard(cube, "logits"), cube.place.get(first_shard(cube, "logits", [0, 0, 0])))
    assert problems(cube) == [f"{CELL}: the stored values are not those that were written (digest differs)"]


def test_a_small_array_that_was_changed_is_noticed(cube):
    array = cube.array("token", cube.place.zarr(read_only=False))
    array[1, 1, 1, 3] += 1
    assert problems(cube) == [f"{CELL}: the stored values are not those that were written (digest differs)"]


def test_a_small_array_that_cannot_be_read_is_named(cube):
    key = cube.place.list("token/c")[0].key
    cube.place.put(key, cube.place.get(key)[:-7])
    assert any("token cannot be read" in problem for problem in problems(cube))


def test_missing_cells_are_listed(where):
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        for task in run.todo()[2:]:
            write(task, facts())
    verdict = verify(where)
    assert not verdict.ok
    assert verdict.problems == []
    assert verdict.missing == ["prompt=p0 seed=1 mode=isolated", "prompt=p0 seed=1 mode=visible"]


def test_a_variable_that_another_tool_removed_is_missed(cube):
    document = cube.place.get("zarr.json").decode().replace('"margin_kept": {', '"margin_cept": {')
    cube.place.put("zarr.json", document.encode())
    assert problems(cube)[0] == "variable margin_kept is missing"


def test_a_failed_treatment_check_is_named(tmp_path):
    asked, model = (
        grid(1, seeds=[1], modes=["visible"], capture={"attention": False, "logits": False}),
        facts(),
    )
    small = {"token": [1], "logical": [0], "slot_step": [-1], "width": []}
    with Driver(tmp_path / "a.zarr", asked, model, PROMPT_TOKENS) as run:
        results = [0 if check == "isolation" else 1 for check in CHECKS]
        run.todo()[0].writer().finish(small | {"check_result": results})
    assert [str(p) for p in verify(tmp_path / "a.zarr").problems] == [
        "prompt=p0 seed=1 mode=visible: failed: treatment check isolation failed"
    ]


def test_verifying_changes_nothing(tmp_path):
    fill(tmp_path / "a.zarr", grid())
    before = {p: (p.stat().st_mtime_ns, os.path.getsize(p)) for p in Path(tmp_path).rglob("*")}
    assert verify(Cube.open(tmp_path / "a.zarr")).ok
    assert {p: (p.stat().st_mtime_ns, os.path.getsize(p)) for p in Path(tmp_path).rglob("*")} == before


@pytest.mark.parametrize("name", ["status", "prompt_text", "seed", "category"])
def test_an_index_that_is_gone_is_noticed(cube, name):
    cube.place.delete([stored.key for stored in cube.place.list(f"{name}/c")])
    verdict = verify(Cube.open(cube.place))
    assert not verdict.ok
    said = (
        "was asked for, but its status" if name == "status" else "the coordinates are not those of the grids"
    )
    assert said in str(verdict.problems[0])


@pytest.mark.parametrize("name", ["status", "seed"])
def test_an_index_that_cannot_be_read_is_one_line(cube, name):
    key = cube.place.list(f"{name}/c")[0].key
    data = bytearray(cube.place.get(key))
    data[len(data) // 2] ^= 255
    cube.place.put(key, bytes(data))
    with pytest.raises(CubeError, match=f"{name} cannot be read") as refused:
        verify(Cube.open(cube.place))
    assert "\n" not in str(refused.value)


WRONG = {
    "gaps": lambda logs: np.where(logs > -1, np.nan, logs),
    "do not sum to 1": lambda logs: logs - 0.1,
    "weight on hidden pairs": lambda logs: np.where(np.isneginf(logs), -20, logs),
    "tokens that did not exist": lambda logs: np.nan_to_num(logs, nan=-3, neginf=-np.inf),
}


@pytest.mark.parametrize("said", WRONG)
@pytest.mark.parametrize("storage", ["log16", "float32"])
def test_what_is_no_attention_does_not_verify(tmp_path, storage, said):
    """Written just so, with a digest that agrees."""
    asked, model = grid(1, seeds=[1], modes=["isolated"], storage={"attention": storage}), facts()
    with Driver(tmp_path / "a.zarr", asked, model, PROMPT_TOKENS) as run:
        task = run.todo()[0]
        small, logs, readout = experiment(task.cell, model)
        writer, wrong = task.writer(), WRONG[said](logs)
        name = "log_attention" if storage == "log16" else "attention"
        writer.write(name, wrong if storage == "log16" else np.exp(wrong), 0)
        writer.write("logits", readout, 0)
        writer.finish(small)
    assert said in str(verify(tmp_path / "a.zarr").problems[0])


@pytest.mark.parametrize("name", ["path_digest", "seconds", "token"])
def test_one_small_array_that_is_damaged_hides_nothing_else(cube, name):
    cube.place.put(cube.place.list(f"{name}/c")[0].key, b"garbage")
    cube.place.delete([first_shard(cube, "log_attention", [0, 0, 0])])
    said = [str(problem) for problem in verify(cube.place).problems]
    assert any(f"{name} cannot be read" in each for each in said)
    assert any(each.startswith(CELL) for each in said)


def test_a_forged_path_digest_is_noticed(cube):
    array = cube.array("path_digest", cube.place.zarr(read_only=False))
    array[1, 1, 1] = "forged"
    assert problems(cube) == [f"{CELL}: path_digest is not that of its tokens and masks"]


def test_metadata_of_an_array_that_was_changed_is_noticed(cube):
    cube.place.delete(["token/zarr.json"])
    assert problems(cube) == ["token/zarr.json is not what the root says; the next run puts it right"]
    fill(cube.place, cube.grids[0])
    assert verify(cube.place).ok


@pytest.mark.parametrize("name", ["layer", "head", "check"])
def test_a_coordinate_that_is_gone_is_noticed(cube, name):
    cube.place.delete([stored.key for stored in cube.place.list(f"{name}/c")])
    assert problems(cube) == [f"the coordinate {name} is not what it was"]
