"""What a run keeps: the parts that are chosen, and the vectors of traits, good and bad."""

from pathlib import Path

import numpy as np
import pytest

import cubes
from tempocube.capture.wanted import Wanted
from tempocube.dataset.options import Capture, Storage
from tempocube.dataset.schema import INTERNALS, data_variables
from tempocube.errors import BadInput

MODEL = cubes.facts(layers=2, heads=3, hidden=12)


def wanted(storage=None, **capture):
    return Wanted.of(Capture.model_validate(capture), Storage.model_validate(storage or {}), MODEL)


def saved(folder, name, values):
    file = folder / f"{name}.npy"
    np.save(file, values, allow_pickle=np.asarray(values).dtype == object)
    return str(file)


# parts


def test_by_default_all_attention_and_the_logits_are_kept_and_nothing_else():
    found = wanted()
    assert (found.attention, found.layers, found.heads) == ("log_attention", (0, 1), (0, 1, 2))
    assert found.logits
    assert found.logs
    assert not found.residual
    assert (found.nodes, found.internals, found.vectors) == ((), (), None)


def test_parts_are_those_that_are_chosen():
    some = {"layers": [1], "heads": [0, 2], "queries": "last"}
    found = wanted(attention=some, internals=[1], neurons=[3, 5], storage={"attention": "float32"})
    assert (found.attention, found.logs) == ("attention", False)
    assert (found.layers, found.heads, found.queries) == ((1,), (0, 2), "last")
    assert (found.nodes, found.internals, found.neurons) == (INTERNALS, (1,), (3, 5))


def test_without_attention_no_layer_and_no_head_is_kept():
    found = wanted(attention=False, logits=False)
    assert (found.attention, found.layers, found.heads, found.logits) == (None, (), (), False)


@pytest.mark.parametrize(
    "capture",
    [
        {},
        {"attention": False, "logits": False},
        {"keys_values": True},
        {"residual": True},
        {"internals": [0]},
        {"keys_values": True, "residual": True, "internals": [0, 1]},
    ],
)
def test_what_is_kept_is_what_the_cube_has_room_for(capture):
    asked = cubes.grid(capture=capture, storage={"attention": "float32", "logits": "float32"})
    found = Wanted.of(asked.capture, asked.storage, MODEL)
    kept = {*found.nodes, *["logits"] * found.logits, *([found.attention] if found.attention else [])}
    assert kept == {variable.name for variable in data_variables(asked)}


def test_projections_alone_need_the_stream_but_do_not_keep_it(tmp_path):
    found = wanted(project={"joy": saved(tmp_path, "joy", np.ones(12))})
    assert found.residual
    assert found.nodes == ("projection",)


# vectors


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16"])
def test_vectors_have_length_one_whatever_they_are_stored_as(tmp_path, dtype):
    given = np.arange(1, 13).astype(dtype)
    vectors = wanted(project={"joy": saved(tmp_path, "joy", given)}).vectors
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 1, 12)
    expected = np.arange(1, 13) / np.linalg.norm(np.arange(1, 13))
    np.testing.assert_allclose(vectors[:, 0], np.broadcast_to(expected, (3, 12)), rtol=1e-6)


def test_traits_stand_in_the_order_of_their_names_each_layer_with_its_own_vector(tmp_path):
    by_layer = np.random.default_rng(0).normal(size=(3, 12))
    files = {"zeal": saved(tmp_path, "zeal", by_layer), "awe": saved(tmp_path, "awe", np.eye(12)[4])}
    vectors = wanted(project=files).vectors
    assert vectors.shape == (3, 2, 12)
    np.testing.assert_array_equal(vectors[:, 0], np.tile(np.eye(12)[4], (3, 1)))
    unit = by_layer / np.linalg.norm(by_layer, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors[:, 1], unit, rtol=1e-6)


def one_zero_row():
    values = np.ones((3, 12))
    values[1] = 0
    return values


BAD = {
    "too short": (np.ones(11), r"12 numbers, or 3 x 12, got float64 of shape \(11,\)"),
    "a vector too few": (np.ones((2, 12)), r"12 numbers, or 3 x 12, got float64 of shape \(2, 12\)"),
    "sides swapped": (np.ones((12, 3)), r"shape \(12, 3\)"),
    "a number": (np.float64(1), r"shape \(\)"),
    "text": (np.array(["a"] * 12), "got <U1"),
    "flags": (np.ones(12, bool), "got bool"),
    "complex numbers": (np.ones(12, complex), "got complex128"),
    "objects": (np.array([1.0] * 12, dtype=object), "no .npy file of numbers"),
    "zeros": (np.zeros(12), "length 0"),
    "zeros in one layer": (one_zero_row(), "length 0"),
    "not a number": (np.full(12, np.nan), "not finite"),
    "infinite": (np.r_[np.inf, np.ones(11)], "not finite"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_vector_is_refused_by_the_name_of_its_trait(tmp_path, bad):
    values, message = BAD[bad]
    file = saved(tmp_path, "joy", values)
    refused(file, message)


WRECKS = {
    "empty": b"",
    "no .npy": b"1.0, 2.0",
    "an archive that is none": b"PK\x03\x04 and so on",
    "cut off": (
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (12,), }".ljust(128)
    ),
}


@pytest.mark.parametrize("wreck", WRECKS)
def test_a_file_that_is_no_vector_is_refused_by_the_name_of_its_trait(tmp_path, wreck):
    (tmp_path / "joy.npy").write_bytes(WRECKS[wreck])
    refused(str(tmp_path / "joy.npy"), "no .npy file of numbers")


def test_an_archive_of_vectors_is_refused(tmp_path):
    with (tmp_path / "joy.npy").open("wb") as file:
        np.savez(file, joy=np.ones(12))
    refused(str(tmp_path / "joy.npy"), "no .npy file of numbers")


@pytest.mark.parametrize("name", ["missing.npy", "folder.npy"])
def test_a_file_that_is_not_there_is_refused_by_the_name_of_its_trait(tmp_path, name):
    (tmp_path / "folder.npy").mkdir()
    refused(str(tmp_path / name), "no .npy file of numbers")


def refused(file: str, message: str) -> None:
    """One line that names the trait and the file, beside a good one that is not named."""
    good = saved(Path(file).parent, "good", np.ones(12))
    with pytest.raises(BadInput, match=message) as error:
        wanted(project={"awe": good, "joy": file})
    text = str(error.value)
    assert text.startswith(f"capture.project.joy: {file} ")
    assert "\n" not in text
