"""What a cube cannot take, and what is no cube: one line each, and nothing is touched."""

import json
from pathlib import Path

import numpy as np
import pytest

from cubes import PROMPT_TOKENS, facts, fill, grid
from tempocube.dataset.cube import Cube
from tempocube.dataset.reading import open_cube
from tempocube.dataset.store import Driver
from tempocube.dataset.verify import verify
from tempocube.errors import BadInput, CubeError


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"max_slots": 50}, "max_slots: None there, 50 here"),
        ({"threshold": 0.2}, "threshold: 0.1 there, 0.2 here"),
        ({"threshold": [0.1]}, "axes"),
        ({"storage": {"attention": "float32"}}, "storage.attention: 'log16' there, 'float32' here"),
        ({"control": "clone"}, "control: None there, 'clone' here"),
        ({"prompts": {"second": ["prompt 0"]}}, "category 'first' in this cube, 'second' in the grid"),
    ],
)
def test_any_other_difference_is_refused_with_the_differences_listed(tmp_path, other, named):
    where = tmp_path / "a.zarr"
    fill(where, grid())
    before = snapshot(where)
    with (
        pytest.raises(CubeError, match=r"there|in this cube") as refused,
        Driver(where, grid(**other), facts(), 5),
    ):
        pass
    assert named in str(refused.value)
    assert snapshot(where) == before


def test_another_model_is_refused_the_same_one_elsewhere_is_not(tmp_path):
    fill(tmp_path / "a.zarr", grid())
    with (
        pytest.raises(CubeError, match="model heads: 3 there, 4 here"),
        Driver(tmp_path / "a.zarr", grid(), facts(heads=4), 5),
    ):
        pass
    fill(tmp_path / "a.zarr", grid(model="some-org/the-same-model"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"capture": {"attention": {"layers": [0, 7]}}},
            "capture.attention.layers: the model has layers 0 to 1, got 7",
        ),
        (
            {"capture": {"attention": {"heads": [3]}}},
            "capture.attention.heads: the model has heads 0 to 2, got 3",
        ),
        ({"capture": {"internals": [2]}}, "capture.internals: the model has layers 0 to 1, got 2"),
        (
            {"capture": {"internals": [1], "neurons": [24]}},
            "capture.neurons: the model has neurons 0 to 23, got 24",
        ),
        ({"ablate": ["L1H5"]}, "ablate: the model has heads 0 to 2, got 5"),
        ({"ablate": [["L0H0"], ["L2.mlp"]]}, "ablate: the model has layers 0 to 1, got 2"),
        ({"prune": {"threshold": 0.1, "layers": [9]}}, "prune.layers: the model has layers 0 to 1, got 9"),
        ({"max_slots": 3}, "max_slots: 3 slots do not hold the longest prompt, 5 tokens, and one more"),
    ],
)
def test_a_grid_that_does_not_fit_the_model_is_refused_and_nothing_created(tmp_path, options, named):
    with (
        pytest.raises(BadInput) as refused,
        Driver(tmp_path / "a.zarr", grid(**options), facts(), PROMPT_TOKENS),
    ):
        pass
    assert named in str(refused.value)
    assert not (tmp_path / "a.zarr").exists()


def test_a_trait_is_what_its_vector_holds_wherever_it_lies(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "v.npy", np.ones(12))
    asked = [grid(capture={"project": {"calm": str(tmp_path / folder / "v.npy")}}) for folder in ("a", "b")]
    fill(tmp_path / "a.zarr", asked[0])
    fill(tmp_path / "a.zarr", asked[1])
    np.save(tmp_path / "b" / "v.npy", np.zeros(12))
    with pytest.raises(CubeError, match=r"trait calm: .* there, .* here"):
        fill(tmp_path / "a.zarr", asked[1])
    (tmp_path / "b" / "v.npy").unlink()
    with pytest.raises(BadInput, match=r"capture.project.calm: .*no such file"):
        fill(tmp_path / "b.zarr", asked[1])
    assert not (tmp_path / "b.zarr").exists()


def snapshot(folder):
    """Every file that is not part of a lease, with its bytes."""
    files = [p for p in Path(folder).rglob("*") if p.is_file() and "lease" not in p.parts]
    return {str(p): p.read_bytes() for p in files}


@pytest.mark.parametrize("what", ["file", "folder", "zarr", "torn", "other schema"])
def test_what_is_not_a_cube_is_left_alone(tmp_path, what):
    path = tmp_path / "a.zarr"
    if what == "file":
        path.write_text("notes")
    else:
        path.mkdir()
        root = {"zarr_format": 3, "node_type": "group", "attributes": {}}
        if what == "other schema":
            root["attributes"] = {"tempocube_schema": 99, "versions": {"tempocube": "9.9"}}
        content = {"folder": "notes", "torn": '{"zarr'}.get(what) or json.dumps(root)
        (path / ("notes.txt" if what == "folder" else "zarr.json")).write_text(content)
    before = sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file())
    for overwrite in (False, True) if what != "other schema" else (False,):
        with pytest.raises(CubeError) as refused, Driver(path, grid(), facts(), 5, overwrite=overwrite):
            pass
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
    assert sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()) == before


@pytest.mark.parametrize("what", ["notes.md", "inner.zarr/zarr.json"])
def test_overwrite_removes_nothing_that_is_no_part_of_the_cube(where, what):
    cube = fill(where, grid(1))
    cube.place.put(what, b"mine")
    with pytest.raises(CubeError, match=f"holds {what.split('/')[0]}, no part of a cube"):
        fill(where, grid(2), overwrite=True)
    assert cube.place.get(what) == b"mine"
    assert Cube.open(where).grids == (grid(1),)


@pytest.mark.parametrize(
    ("root", "said"),
    [
        (b'{"attributes": null}', "is not one"),
        (b'{"attributes": {"tempocube_schema": "1"}}', "has schema '1', this version reads 1"),
        (b'{"attributes": {"tempocube_schema": 1}}', "was damaged by another tool"),
        (
            b'{"attributes": {"tempocube_schema": 1, "grid": []}, "consolidated_metadata": null}',
            "was damaged by another tool",
        ),
    ],
)
def test_an_odd_root_is_one_line(tmp_path, root, said):
    (tmp_path / "zarr.json").write_bytes(root)
    for look in (Cube.open, open_cube, verify):
        with pytest.raises(CubeError, match=said) as refused:
            look(tmp_path)
        assert "\n" not in str(refused.value)


def test_ids_of_prompts_are_kept_or_refused(tmp_path):
    def made(*prompts):
        return grid(prompts=[dict(zip(("prompt", "id"), each, strict=False)) for each in prompts])

    where = tmp_path / "a.zarr"
    fill(where, made(("A", "x"), ("B", "y")))
    with pytest.raises(CubeError, match="prompt 'A' has id 'x' in this cube, 'y' here"):
        fill(where, made(("A", "y"), ("B", "x")))
    fill(where, made(("C", "p3")))
    fill(where, grid(prompts=["D", "E"]))
    assert open_cube(where).prompt.values.tolist() == ["x", "y", "p3", "p4", "p5"]


def test_a_copy_that_xarray_trimmed_does_not_pass_for_a_cube(tmp_path):
    fill(tmp_path / "a.zarr", grid())
    trimmed = open_cube(tmp_path / "a.zarr")[["length"]]
    trimmed.to_zarr(tmp_path / "copy.zarr", consolidated=False, zarr_format=3)
    with pytest.raises(CubeError, match="not a tempocube cube"):
        Cube.open(tmp_path / "copy.zarr")


def test_more_slots_than_any_cube_has_are_refused(tmp_path):
    with pytest.raises(BadInput, match="the grid asks for up to 100000005 slots"):
        fill(tmp_path / "a.zarr", grid(max_tokens=10**7))
    assert not (tmp_path / "a.zarr").exists()


def test_looking_for_a_cube_creates_nothing(tmp_path):
    for look in (open_cube, Cube.open, verify):
        with pytest.raises(CubeError, match="no cube there"):
            look(tmp_path / "deep" / "a.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_is_not_there_is_one_line(s3):
    with (
        pytest.raises(CubeError, match="bucket does not exist") as refused,
        Driver("s3://nowhere/a.zarr", grid(), facts(), 5),
    ):
        pass
    assert "\n" not in str(refused.value)
    with pytest.raises(CubeError, match="nonsense://x"):
        open_cube("nonsense://x/a.zarr")
