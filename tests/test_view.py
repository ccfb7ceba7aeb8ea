import json

import numpy as np
import pytest

from cubes import facts, fill, grid
from tempocube.dataset.cube import Cube
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import ROOT
from tempocube.dataset.store import Driver
from tempocube.dataset.verify import verify
from tempocube.errors import BadInput
from tempocube.stats.view import view, views

WORDS = [f" w{i}" for i in range(50)]


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    where = tmp_path_factory.mktemp("view") / "cube.zarr"
    return fill(where, grid(max_tokens=8), vocabulary=lambda: WORDS).place.url


def test_attention_is_what_the_cube_holds(cube):
    seen = view(cube, prompt="p1", seed=2, mode="visible")
    held = open_cube(cube).attention.sel(prompt="p1", seed=2, mode="visible")
    held = held.isel(query=slice(seen.slots), key=slice(seen.slots)).values
    np.testing.assert_array_equal(seen.cube_attention(), held)
    np.testing.assert_array_equal(seen.attention(1, 2), held[1, 2])
    np.testing.assert_allclose(seen.attention(1), held[1].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(seen.attention(), held.mean(axis=(0, 1)), rtol=1e-5)


def test_hidden_pairs_have_no_weight_and_visible_ones_have_some(cube):
    for seen in views(cube):
        weights = seen.attention()
        assert (weights[seen.visible] > 0).all()
        assert not np.nan_to_num(weights[~seen.visible]).any()


def test_sets_and_labels_are_those_of_the_tokens(cube):
    seen = view(cube, mode="isolated")
    assert [len(seen.of_step(step)) for step in range(seen.steps)] == seen.width.tolist()
    assert seen.labels == tuple(WORDS[token] for token in seen.token)
    assert seen.prompt_slots + seen.width.sum() == seen.slots
    assert all(seen.width[step] > 1 for step in seen.wide_steps)


def test_a_prompt_goes_by_its_id_and_by_its_text(cube):
    assert view(cube, prompt="prompt 1").name == view(cube, prompt="p1").name


def test_the_members_of_a_set_come_first_among_its_candidates(cube):
    seen = view(cube)
    for step in range(seen.steps):
        members = [each.token for each in seen.candidates(step) if each.kept]
        assert members == seen.token[seen.of_step(step)].tolist()


def test_a_cube_without_vocabulary_is_read_by_numbers(tmp_path):
    seen = view(fill(tmp_path / "cube.zarr", grid(1)).place.url)
    assert seen.labels[0] == f"#{seen.token[0]}"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"prompt": "p7"}, r"prompt 'p7': not in this cube; it has p0 \(prompt 0\), p1 \(prompt 1\)"),
        ({"mode": "causal"}, "mode 'causal': not in this cube; it has isolated, visible"),
        ({"threshold": 0.1}, "has no 'threshold'; it has prompt, seed, mode"),
    ],
)
def test_what_the_cube_has_not_got_is_named(cube, asked, told):
    with pytest.raises(BadInput, match=told):
        view(cube, **asked)


def test_a_step_and_a_layer_that_are_not_there_are_named(cube):
    seen = view(cube)
    with pytest.raises(BadInput, match=r"step 8: .* has steps 0 to 7"):
        seen.of_step(8)
    with pytest.raises(BadInput, match="layer 2: not captured; there are 0 to 1"):
        seen.attention(2)


def test_the_vocabulary_survives_an_extension_and_is_verified(tmp_path):
    cube = fill(tmp_path / "cube.zarr", grid(1), vocabulary=lambda: WORDS)
    with Driver(cube.place, grid(2), facts(), 5, vocabulary=lambda: pytest.fail("made twice")):
        pass
    extended = Cube.open(cube.place)
    assert extended.read("vocabulary").tolist() == WORDS
    root = json.loads(cube.place.get(ROOT))
    root["attributes"]["vocabulary_sha256"] = "0" * 64
    cube.place.put(ROOT, json.dumps(root).encode())
    assert "the vocabulary is not what it was" in {str(problem) for problem in verify(cube.place).problems}
