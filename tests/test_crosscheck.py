"""A sample captured again, held against the cube: agreement is recorded, corruption is caught."""

import math
from functools import partial

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from runs import grid
from tempocube.capture import selftest
from tempocube.capture.crosscheck import compared, sample
from tempocube.capture.run import run
from tempocube.dataset.cube import Cube
from tempocube.dataset.encoding import HIDDEN
from tempocube.dataset.schema import CHECKS, DONE, FAILED
from tempocube.errors import BadInput
from tiny import checkpoint

LOG16 = {"attention": "log16", "logits": "log16", "activations": "float32"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(checkpoint(tmp_path_factory.mktemp("tiny") / "llama", "llama"))


@pytest.fixture(scope="module")
def model(path):
    return selftest.load(path)


@pytest.fixture(scope="module", params=["float32", "log16"])
def made(request, tmp_path_factory, path):
    """A finished cube, stored exactly or packed, that tests copy before they spoil it."""
    storage = LOG16 if request.param == "log16" else dict.fromkeys(LOG16, "float32")
    where = tmp_path_factory.mktemp("made") / "cube.zarr"
    wanted = grid(model=path, temperature=0.7, prune={"threshold": 0.05}, storage=storage)
    assert run(wanted, where, workers=1, progress=None).ok
    return where


@given(cells=st.integers(0, 300), fraction=st.floats(0, 1))
def test_a_sample_is_that_share_and_the_same_one_every_time(cells, fraction):
    all_of_them = [(i, 0) for i in range(cells)]
    chosen = sample(all_of_them, fraction)
    assert len(chosen) == min(cells, math.ceil(fraction * cells))
    assert chosen == sorted(set(chosen)) == sample(all_of_them, fraction)


def test_what_was_captured_in_company_agrees_with_a_capture_alone(made, model):
    cube = Cube.open(made)
    for index in cube.cells(DONE):
        heard = []
        found, work = compared(model, cube, index, partial(heard.append, 1))
        assert len(heard) > work.passes  # after every pass, so that a slow model is not taken for hung
        assert found.wrong == ""
        assert work.passes > 1
        packed = "log_attention" in cube.data
        assert found.apart.attention <= (8e-3 if packed else 1e-5)
        assert abs(found.apart.kl) < 1e-3
        assert found.check_value[CHECKS.index("cross_attention")] == found.apart.attention


def spoil(cube, index, name, change):
    array = zarr.open_group(cube.place.path, mode="r+", use_consolidated=False)[name]
    cell = np.array(array[index])
    array[index] = change(cell)


def lighter(cell):
    """One visible weight of one head changed, by two codes or by more than rounding could."""
    spot = tuple(np.argwhere(np.isfinite(cell) & (cell > 0) & (cell < HIDDEN - 9))[-1])
    cell[spot] = cell[spot] + 2 if cell.dtype.kind == "u" else cell[spot] + 1e-4
    return cell


def seen(cell):
    """A hidden pair that is not hidden any more."""
    spot = tuple(np.argwhere(cell == (HIDDEN if cell.dtype.kind == "u" else 0))[0])
    cell[spot] = 700 if cell.dtype.kind == "u" else 1e-3
    return cell


def odd(cell):
    cell[0, 3] += 40 if cell.dtype.kind == "u" else 0.01
    return cell


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [("attention", lighter, "attention"), ("attention", seen, "attention"), ("logits", odd, "logits")],
)
def test_a_planted_corruption_is_caught_and_named(made, model, name, change, told):
    cube = Cube.open(made)
    index = next(i for i in cube.cells(DONE) if cube.labels.mode[i[2]] == "isolated")
    stored = name if name in cube.data else f"log_{name}"
    before = np.array(zarr.open_group(cube.place.path, mode="r")[stored][index])
    spoil(cube, index, stored, change)
    try:
        found, _ = compared(model, Cube.open(made), index)
    finally:
        spoil(cube, index, stored, lambda cell: before)
    assert found.wrong.startswith(f"cross-check: a second capture differs in {told} by ")
    assert compared(model, Cube.open(made), index)[0].wrong == ""


def test_a_run_records_the_largest_difference_and_fails_what_differs(tmp_path, path):
    wanted, cube = grid(model=path, seeds=[1, 2], temperature=0.5), tmp_path / "cube.zarr"
    first = run(wanted, cube, workers=1, progress=None)
    assert first.cross is None
    opened = Cube.open(cube)
    asked = [index for index, _ in opened.asked(wanted)]
    chosen = sample(asked, 0.3)
    spoil(opened, chosen[0], "attention", lighter)
    second = run(wanted, cube, workers=1, cross_check=0.3, progress=None)
    assert second.cross["cells"] == len(chosen) == 4
    assert second.cross["attention"] > 5e-5
    assert list(second.failed) == [opened.name(chosen[0])]
    assert Cube.open(cube).status()[chosen[0]] == FAILED
    values = Cube.open(cube).read("check_value")[..., CHECKS.index("cross_attention")]
    assert {tuple(map(int, i)) for i in np.argwhere(np.isfinite(values))} == set(chosen)

    third = run(
        wanted, cube, workers=1, cross_check=0.3, progress=None
    )  # again, and what was mended is checked
    assert (third.done, third.ok, third.cross["cells"]) == (1, True, 1)
    assert third.cross["attention"] <= 1e-5
    fourth = run(wanted, cube, workers=1, cross_check=0.3, progress=None)
    assert (fourth.workers, fourth.cross, fourth.ok) == ((), None, True)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_between_none_and_all(tmp_path, path, share):
    with pytest.raises(BadInput, match="cross_check: a share of the cells from 0 to 1"):
        run(grid(model=path), tmp_path / "cube.zarr", cross_check=share)
    assert not list(tmp_path.iterdir())


def test_there_must_be_something_to_compare(tmp_path, path):
    nothing = grid(model=path, capture={"attention": False, "logits": False})
    with pytest.raises(BadInput, match="this grid captures neither"):
        run(nothing, tmp_path / "cube.zarr", cross_check=0.1)
