"""What the explorer embeds, without a browser."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cubes import facts, fill, grid
from tempocube.dataset.reading import open_cube
from tempocube.dataset.simulated import Design, Effects, cube
from tempocube.errors import BadInput
from tempocube.stats.page.explorer import section
from tempocube.stats.page.explorer_data import (
    BOUND,
    LOWEST,
    SHOWN,
    codes,
    embedded,
    label_text,
    pairs,
    weights,
)
from tempocube.stats.view import view

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><!--",
    "\u2028\u2029",
    "\u202eabc",
    "שלום",
    "\n",
    "\x00\x1b[2J",
    "&amp;",
    "\ud7ff\u0301",
]
SMALL = Design(categories=(2, 1), seeds=2, steps=6, layers=2, heads=3)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Any:
    where = tmp_path_factory.mktemp("explorer") / "small.zarr"
    cube(SMALL, Effects(), where, seed=1)
    return open_cube(where)


def data_of(html: str) -> Any:
    """The data inside, as a browser's parser finds it."""

    class Finder(HTMLParser):
        found = ""
        inside = False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.inside = tag == "script" and ("type", "application/json") in attrs

        def handle_endtag(self, tag: str) -> None:
            self.inside = False

        def handle_data(self, data: str) -> None:
            self.found += data if self.inside else ""

    finder = Finder()
    finder.feed(html)
    return json.loads(finder.found)


def about(html: str) -> str:
    return re.findall(r'class="xp-about">([^<]*)<', html)[0]


def prompts_of(html: str) -> list[str]:
    return list(data_of(html)["prompts"])


def decoded(data: Any, made: Any, seen: Any, of: list[int | None]) -> tuple[np.ndarray, Any]:
    """The weights of one map over the pairs that are embedded, and those pairs."""
    where = pairs(seen, 0 if data["prompt_rows"] else seen.prompt_slots)
    code = np.frombuffer(base64.b64decode(made["attention"]), dtype=np.uint8)
    return weights(code.reshape(len(data["maps"]), -1)[data["maps"].index(of)]), where


def test_weights_come_back_within_the_bound_and_hidden_ones_are_exactly_0() -> None:
    weight = np.r_[np.geomspace(1, 3.3e-6, 500), 0, 0, 1e-9, np.nan].astype(np.float32)
    visible = np.r_[np.ones(500, bool), False, True, True, True]
    back = weights(codes(weight, visible))
    np.testing.assert_allclose(back[:500], weight[:500], rtol=BOUND + 1e-6)
    assert back[500] == 0  # hidden
    assert (back[501:503] > 0).all()  # seen, and merely too small
    assert (back[501:503] < 3.3e-6).all()
    assert np.isnan(back[503])


def test_every_layer_head_and_mean_is_the_cubes(simulated: Any) -> None:
    data = data_of(section(simulated, ["p1"]))
    assert len(data["maps"]) == 1 + 2 * (1 + 3)
    for made in data["experiments"]:
        seen = view(simulated, made["at"]["prompt"], made["at"]["seed"], made["mode"])
        for layer, head in data["maps"]:
            found, where = decoded(data, made, seen, [layer, head])
            np.testing.assert_allclose(
                found, seen.attention(layer, head)[where], rtol=BOUND + 1e-3, atol=4e-6
            )
            hidden = ~seen.visible[where]
            assert (found[hidden] == 0).all()
            assert (found[~hidden] > 0).all()


def test_the_bound_that_is_told_holds_for_every_number_that_is_shown(simulated: Any) -> None:
    weight = np.geomspace(LOWEST * 1.0001, 1, 200_000).astype(np.float32)
    back = weights(codes(weight, np.ones(weight.shape, bool)))
    printed = np.array([float(f"{value:.3g}") for value in back])
    off = np.abs(printed / weight - 1).max()
    assert BOUND < off < SHOWN
    said = float(re.findall(r"within ([\d.]+)\xa0%", about(section(simulated)))[0])
    assert off <= SHOWN <= said / 100 < 1.05 * SHOWN


def test_rows_that_were_never_captured_are_not_said_to_be_left_out(tmp_path: Path) -> None:
    fill(tmp_path / "cube.zarr", grid(1, capture={"attention": {"queries": "generated"}}))
    html = section(open_cube(tmp_path / "cube.zarr"))
    assert "what prompt tokens attend to" not in about(html)
    assert "Left out" not in about(html)


@pytest.mark.parametrize(("temperature", "told"), [(0.7, True), (0.0, False)])
def test_where_noise_chose_it_is_told_what_p_is(tmp_path: Path, temperature: float, told: bool) -> None:
    fill(tmp_path / "cube.zarr", grid(1, temperature=temperature))
    assert ("p is without it" in about(section(open_cube(tmp_path / "cube.zarr")))) == told


def test_sets_and_candidates_are_the_cubes(simulated: Any) -> None:
    data = data_of(section(simulated, ["p0"]))
    assert {(made["at"]["seed"], made["mode"]) for made in data["experiments"]} == {
        (seed, mode) for seed in ("42", "123") for mode in ("isolated", "visible")
    }
    made = data["experiments"][0]
    seen = view(simulated, "p0", 42, made["mode"])
    assert made["token"] == seen.token.tolist()
    assert made["logical"] == seen.logical.tolist()
    assert made["gone"] == seen.pruned_at.tolist()
    for step, others in enumerate(made["others"]):
        theirs = [each for each in seen.candidates(step) if not each.kept]
        assert [token for token, _ in others] == [each.token for each in theirs][: len(others)]
        assert others


def test_left_alone_it_takes_the_first_prompt_with_a_parallel_set_of_each_category(simulated: Any) -> None:
    assert prompts_of(section(simulated)) == ["p0", "p2"]


def test_chosen_prompts_go_by_id_or_text_and_a_wrong_one_is_named(simulated: Any) -> None:
    text = str(simulated.prompt_text.values[1])
    assert prompts_of(section(simulated, ["p2", text, "p1"])) == ["p2", "p1"]
    with pytest.raises(BadInput, match="p9"):
        section(simulated, ["p9"])


def test_a_selection_shows_what_it_selects(simulated: Any) -> None:
    data = data_of(section(simulated.sel(mode=["visible"], layer=[1])))
    assert {made["mode"] for made in data["experiments"]} == {"visible"}
    assert {layer for layer, _ in data["maps"]} == {None, 1}


def test_a_cube_without_a_done_experiment_has_no_explorer(simulated: Any) -> None:
    assert section(simulated.assign(status=simulated.status.load() * 0)) == ""


@pytest.fixture(scope="module")
def broad(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Longer experiments of more layers and heads, so that less and less of them fits."""
    where = tmp_path_factory.mktemp("explorer") / "broad.zarr"
    cube(Design(categories=(1, 1), seeds=2, steps=20, layers=6, heads=8), Effects(), where, seed=1)
    return open_cube(where)


def test_under_a_smaller_limit_first_seeds_then_heads_then_layers_are_left_out_and_said(broad: Any) -> None:
    seen = []
    for limit in (1_000_000, 300_000, 100_000, 77_000, 67_000):
        html = section(broad, limit_bytes=limit)
        assert len(html.encode()) <= limit
        data = data_of(html)
        layers = sum(layer is not None and head is None for layer, head in data["maps"])
        heads = sum(head is not None for _, head in data["maps"])
        seen.append((limit, len(data["experiments"]), layers, heads, data["prompt_rows"]))
        full = (layers, heads, data["prompt_rows"], len(data["experiments"])) == (6, 48, True, 8)
        assert ("Left out" in about(html)) == (not full)
    assert seen == [
        (1_000_000, 8, 6, 48, True),
        (300_000, 8, 6, 4, True),
        (100_000, 4, 6, 0, True),
        (77_000, 4, 2, 0, True),
        (67_000, 4, 0, 0, True),
    ]


def test_a_limit_that_nothing_fits_is_refused(simulated: Any) -> None:
    with pytest.raises(BadInput, match="limit_bytes: the explorer takes at least"):
        section(simulated, limit_bytes=1000)


def test_a_cube_without_attention_shows_its_sets_and_says_why_no_more(tmp_path: Path) -> None:
    fill(tmp_path / "cube.zarr", grid(capture={"attention": False}))
    html = section(open_cube(tmp_path / "cube.zarr"))
    assert data_of(html)["maps"] == []
    assert "Attention was not captured" in about(html)
    assert "hidden, exactly 0" not in html
    assert "sibling" not in re.findall(r'class="xp-keys">(.*?)</p>', html)[0]


def test_labels_of_any_vocabulary_are_data_and_never_markup(tmp_path: Path) -> None:
    words = (HOSTILE * 6)[:50]
    fill(tmp_path / "cube.zarr", grid(1), facts(), vocabulary=lambda: words)
    html = section(open_cube(tmp_path / "cube.zarr"))
    assert "<script>alert" not in html
    assert html.count("</script>") == 2  # data and code: no label closes them
    assert not set("\u2028\u2029\u202e\x00\x1b") & set(html)
    assert set(data_of(html)["labels"].values()) <= {label_text(word) for word in words}


def test_a_prompt_of_markup_or_of_ten_thousand_characters_is_cut_and_embedded_as_text(tmp_path: Path) -> None:
    asked = grid(1, prompts={"a": ["<script>alert(1)</script>" + "x" * 10_000]})
    fill(tmp_path / "cube.zarr", asked)
    html = section(open_cube(tmp_path / "cube.zarr"))
    assert "<script>alert" not in html
    assert data_of(html)["prompts"]["p0"].startswith("<script>alert(1)</script>xxx")
    assert len(html) < 400_000


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (" the", "␣the"),
        ("\n", "⏎"),
        ("", "∅"),
        ("\x1b", "\\x1b"),
        ("\u202e", "\\u202e"),
        ("\u0301", "◌\u0301"),
        ("x" * 99, "x" * 39 + "…"),
    ],
)
def test_a_label_shows_what_cannot_be_seen(text: str, seen: str) -> None:
    assert label_text(text) == seen


def test_embedded_json_survives_any_text() -> None:
    for text in HOSTILE:
        made = embedded({"text": text})
        assert not set("<>&\u2028\u2029") & set(made)
        assert json.loads(made) == {"text": text}
