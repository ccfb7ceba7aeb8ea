"""Pictures as files and as parts of a page: text as text, the same bytes each time, names of their own."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib
import pandas as pd
import pytest
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from cubes import facts, fill
from tempocube.dataset.grid import Grid
from tempocube.stats.figures import Picture, inline, pictures, png, svg
from tempocube.stats.figures.style import INK, label, ticks
from tempocube.stats.report import report

ODD = {
    "a $cat$ \u202e&<": ["$x^2$ for $5", "<script>alert(1)</script>", "你好 the model"],
    'b "id=" ]]>': ["long " * 2000, "tab\tand\nline \x07 bell", "مرحبا 🎉 e\u0301", 'id="x" url(#y) --> \\'],
}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Picture, ...]:
    """Pictures of prompts that are anything but plain."""
    where = tmp_path_factory.mktemp("files") / "odd.zarr"
    fill(where, Grid.from_dict({"prompts": ODD, "seeds": [1], "max_tokens": 12}), facts())
    return pictures(report(str(where)))


def texts(made: str) -> str:
    """All that is written in an SVG."""
    return " ".join("".join(each.itertext()) for each in ET.fromstring(made).iter(f"{SVG}text"))


def test_any_prompt_is_drawn_as_text_without_a_warning(drawn: tuple[Picture, ...]) -> None:
    assert {"forest", "maps", "positions"} <= {picture.name for picture in drawn}
    for picture in drawn:
        for made in (svg(picture), inline(picture)):
            assert "<script" not in made
            assert "\u202e" not in made
            assert "\x07" not in made
            ET.fromstring(made)
    forest = texts(inline(next(picture for picture in drawn if picture.name == "forest")))
    assert "p3" in forest
    assert "a $cat$" in forest


def test_the_same_picture_has_the_same_bytes(drawn: tuple[Picture, ...]) -> None:
    picture = drawn[0]
    assert picture.rendered("svg") == picture.rendered("svg")
    assert png(picture) == png(picture)
    assert "dc:date" not in svg(picture)


def test_a_picture_is_laid_out_once_and_drawn_once_a_file() -> None:
    made: list[str] = []

    class Counted(Artist):
        def draw(self, renderer: Any) -> None:
            made.append(type(renderer).__name__)

    def draw(figure: Figure, table: pd.DataFrame) -> None:
        made.append("made")
        figure.add_subplot().add_artist(Counted())

    picture = Picture("once", "design", "", "", "", pd.DataFrame({"x": [1]}), draw)
    svg(picture), inline(picture), png(picture)
    assert made == ["made", "MixedModeRenderer", "RendererAgg"]


def test_pictures_on_one_page_share_no_name_and_refer_to_their_own(drawn: tuple[Picture, ...]) -> None:
    seen: set[str] = set()
    for picture in drawn:
        made = inline(picture)
        own = re.findall(r'<[^>]*\bid="([^"]+)"', made)
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', " ".join(re.findall(r"<[^>]+>", made)))
        assert len(set(own)) == len(own) > 0, picture.name
        assert not seen & set(own), picture.name
        assert {a or b for a, b in used} <= set(own), picture.name
        seen |= set(own)


def test_a_page_gives_a_picture_its_colour_and_width(drawn: tuple[Picture, ...]) -> None:
    for picture in drawn:
        made = inline(picture)
        assert (made[:4], made[-6:]) == ("<svg", "</svg>"), picture.name
        assert "currentColor" in made, picture.name
        assert not [odd for odd in (INK, "<style", "pt;", "<?xml") if odd in made], picture.name
        root = ET.fromstring(made)
        assert root.get("width") is None
        assert root.get("viewBox")
        assert "width:100%" in str(root.get("style"))
        assert root.get("aria-label") == picture.alt


def test_a_file_is_dark_on_white_whatever_the_page(drawn: tuple[Picture, ...]) -> None:
    made = svg(drawn[0])
    assert made.startswith("<?xml")
    assert "currentColor" not in made
    assert INK not in made
    assert ET.fromstring(made)[0].get("fill") == "#ffffff"


def test_drawing_leaves_the_settings_of_others_alone(drawn: tuple[Picture, ...]) -> None:
    before = dict(matplotlib.rcParams)
    svg(drawn[-1]), png(drawn[-1])
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in _imported()


def _imported() -> str:
    import subprocess
    import sys

    told = "import sys, tempocube.stats.figures; print(' '.join(sys.modules))"
    return subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain", "plain"),
        ("two\nlines\tand  more", "two lines and more"),
        ("x" * 50, "x" * 27 + "…"),
        ("你好", "□□"),
        ("a\u202eb\x07", "a\\u202eb\\x07"),
    ],
)
def test_labels_are_one_short_line_that_any_font_can_draw(text: str, wanted: Any) -> None:
    assert label(text) == wanted


def test_ticks_of_ratios_are_round_and_few() -> None:
    assert ticks(0.15, 6.0) == [0.2, 0.5, 1.0, 2.0, 5.0]
    assert 1.0 in ticks(0.93, 1.08)
    for low, high in ((1e-6, 1e3), (0.5, 0.6), (0.2, 0.9), (0.9999, 1.0001)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 12
        assert all(low <= x <= high for x in found)
