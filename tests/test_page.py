"""The page: what it says where, for whom, and that its numbers are those of the report."""

import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from math import exp, log

import pandas as pd
import pytest

import tempocube as tc
from tempocube.dataset.simulated import Design, Effects, cube
from tempocube.stats.page import cells, methods, page, parts
from tempocube.stats.titles import TITLES

DESIGN = Design(categories=(2, 2, 2), seeds=2, steps=8, layers=2, heads=2)
ALONE = {"br", "meta", "link", "img", "input", "path", "use", "rect", "hr", "col"}
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


class Outline(HTMLParser):
    """Tags in order, with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in ALONE:
            assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def bare(report):
    """The page without pictures, which is quick."""
    return page.html(report, ())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The report of a cube whose parallel tokens get half the attention."""
    path = tmp_path_factory.mktemp("page") / "half.zarr"
    cube(DESIGN, Effects(mean=log(0.5)), path, seed=3, threshold=[0.1, 0.05])
    return tc.report(path)


@pytest.fixture(scope="module")
def text(made):
    return bare(made)


@pytest.fixture(scope="module")
def outline(text):
    return Outline(text)


def test_the_page_begins_with_what_was_found(made, outline):
    top = outline.text[: outline.text.index("Design and effective n")]
    assert top.index("half.zarr") < top.index("24 of 24 experiments") < top.index("checks hold")
    for found in made.answers.answers.values():
        assert found.sentence in top
    assert made.answers.scenario.sentence in top
    assert "24 distinct captures" in top


def test_parts_come_in_the_order_of_the_design(outline):
    ids = [attrs["id"] for attrs in outline.named("section") if "id" in attrs]
    there = ["summary", "design", "gate", "answers", "axes", "explorer", "limits", "methods", "provenance"]
    assert ids == there
    answers = [attrs["id"] for attrs in outline.named("article") if attrs["id"].startswith("answer-")]
    assert answers == [f"answer-{key}" for key in TITLES]


def test_the_page_is_one_file_that_may_fetch_nothing(text, outline):
    policy = next(each["content"] for each in outline.named("meta") if "http-equiv" in each)
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy[policy.index("script-src") : policy.index("style-src")]
    assert not outline.named("link") + outline.named("iframe") + outline.named("img")
    assert not [attrs for _, attrs in outline.tags if "src" in attrs or attrs.get("href", "#")[0] != "#"]
    assert not re.findall(r"@import|url\(\s*['\"]?http", text)
    assert len(text.encode()) < page.MOST


def test_the_page_can_be_read_without_seeing_it(outline):
    tags = [tag for tag, _ in outline.tags]
    levels = [HEADINGS.index(tag) for tag in tags if tag in HEADINGS]
    assert tags.count("h1") == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert [tags.count(name) for name in ("header", "main", "nav", "footer")] == [1, 1, 1, 1]
    assert tags.count("caption") == tags.count("table") > 12
    assert all(attrs.get("scope") in ("col", "row") for attrs in outline.named("th"))
    ids = Counter(attrs["id"] for _, attrs in outline.tags if "id" in attrs)
    assert max(ids.values()) == 1
    for attrs in outline.named("a"):
        assert attrs["href"].removeprefix("#") in ids
    assert not outline.open


def test_an_answer_has_its_numbers_its_method_and_what_it_hangs_by(made):
    first = parts.sections(made, ())[0]
    found = made.answers.answers["downweighting"]
    told = dict(first.facts)
    assert told["ratio"] == f"{exp(found.estimate):#.3g}x"
    assert told["95 % CI"] == "[{:#.3g}, {:#.3g}]".format(*map(exp, found.ci))
    assert (told["df"], told["prompts"], first.method) == ("5", "6", found.method)
    assert "Leaving out any one prompt keeps it within" in first.change
    assert [row[0].text for row in first.tables[1].rows] == [f"p{i}" for i in range(6)]


def test_each_picture_stands_with_its_answer(made):
    from tempocube.stats.figures import pictures

    drawn = pictures(made)
    outline = Outline(page.html(made, drawn))
    figures = [attrs["id"] for attrs in outline.named("figure")]
    assert sorted(figures) == sorted(f"figure-{picture.name}" for picture in drawn)
    at = [
        attrs["id"]
        for tag, attrs in outline.tags
        if tag in ("article", "figure", "section") and "id" in attrs
    ]
    for picture in drawn:
        before = at[: at.index(f"figure-{picture.name}")]
        home = f"answer-{picture.answer}" if picture.answer in made.answers.answers else "design"
        assert next(name for name in reversed(before) if not name.startswith("figure-")) == home
        assert picture.caption.split("<")[0][:40] in outline.text
    ids = Counter(attrs["id"] for _, attrs in outline.tags if "id" in attrs)
    assert [name for name, count in ids.items() if count > 1] == []


def test_decimal_points_stand_below_each_other():
    made = cells.table("t", ("a", "b"), [["x", 0.5], ["y", 12.25], ["z", 1234.5], ["none", None]])
    shown = [row[1] for row in made.rows]
    assert [cell.text for cell in shown] == ["0.500", "12.2", "1,234", ""]
    ends = {len((cell.text + cell.pad).partition(".")[2]) for cell in shown if cell.text}
    assert ends == {3}
    assert made.kinds == ["text", "number"]
    assert [cells.chance(p).text for p in (0.0004, 0.0123, 1.0, None)] == ["< 0.001", "0.012", "1.000", ""]
    assert cells.interval((log(0.5), log(2)), logs=True).text == "[0.500, 2.00]"
    assert cells.number(1.5e-7).text == "1.50e-07"


def test_a_long_table_says_what_it_left_out():
    made = cells.table("t", ("a",), [[i] for i in range(1_500)], most=200)
    assert (len(made.rows), made.more) == (200, "1,300 more rows are in report.json and the folder tables")
    assert cells.table("t", ("a",), []) is None


def test_a_control_is_called_a_control_at_the_top(make):
    text = Outline(bare(tc.report(make(DESIGN, Effects(control="clone"))))).text
    top = text[: text.index("What was found")]
    assert "This is a control, not data." in top
    assert "Control clone:" in top


def test_a_failed_gate_is_said_at_the_top(make):
    made = tc.report(make(Design(categories=(1,), seeds=2, steps=8, layers=2, heads=2)))
    text = Outline(bare(made)).text
    assert "The gate FAILED: prompts. one prompt: nothing" in text[: text.index("What was found")]
    assert 'class="mark fail"' in bare(made)


def test_a_table_has_a_page_without_what_only_a_cube_has(made, tmp_path):
    made.part.frame.to_csv(tmp_path / "measured.csv", index=False)
    outline = Outline(bare(tc.report(tmp_path / "measured.csv")))
    ids = [attrs.get("id") for attrs in outline.named("section")]
    assert "explorer" not in ids
    assert "Treatment checks" not in outline.text
    assert "tempo-capture" not in outline.text[outline.text.index("Provenance") :]
    assert "tempo-stats report measured.csv" in outline.text
    assert "Text was generated" not in outline.text


def test_the_methods_tell_the_route_that_was_taken(made, make):
    complete = " ".join(methods.paragraphs(made))
    assert (
        "6 prompts from 3 categories were crossed with 2 seeds and the modes isolated and visible" in complete
    )
    assert "t-test of 6 prompt means" in complete
    assert "Kenward-Roger" not in complete
    assert "Swept options were held at threshold = 0.1" in complete
    gaps = make(DESIGN, Effects(lost=((0, 1, None), (3, 0, 1))))
    assert "with Kenward-Roger degrees of freedom" in " ".join(methods.paragraphs(tc.report(gaps)))


def test_the_page_says_how_to_make_it_again(make):
    made = tc.report(
        make(DESIGN, threshold=[0.1, 0.05]), at={"threshold": 0.05}, layers=[1], sesoi=0.2, seed=7
    )
    text = Outline(bare(made)).text
    assert ("tempo-stats report cube.zarr --at threshold=0.05 --layers 1 --sesoi 0.2 --seed 7") in text
    assert made.source["digest"] in text
    grid = next(iter(made.part.cube.attrs["grid"]))
    assert tc.Grid.from_dict(_yaml(bare(made))) == tc.Grid.from_dict(grid)


def _yaml(text):
    """The grid as it stands on the page."""
    from html import unescape

    from ruamel.yaml import YAML

    told = re.search(r'<details class="grid">.*?<code>(.*?)</code>', text, re.DOTALL).group(1)
    return YAML(typ="safe").load(unescape(told))


def test_effective_n_shrinks_where_seeds_are_alike(make):
    alike = " ".join(parts.effective(tc.report(make(DESIGN, Effects(prompt_sd=1.0, prompt_seed_sd=0.1)))))
    copies = " ".join(parts.effective(tc.report(make(DESIGN, Effects(same_seeds=True)))))
    assert "of 24 experiments done, 24 are used, and they are 6 prompts to every test" in alike
    worth = float(re.search(r"12 pairs of prompt and seed are worth ([\d.]+)", alike).group(1))
    assert 6 <= worth < 8
    assert "not applicable: seeds are copies" in copies


def test_experiments_have_a_part_of_their_own(made):
    told = made.with_experiments("exp1")
    outline = Outline(bare(told))
    assert "experiments" in [attrs.get("id") for attrs in outline.named("section")]
    assert told.experiments[0].question in outline.text
    assert told.to_dict()["experiments"][0]["name"] == "exp1"
    assert "experiments" not in made.to_dict()


def test_a_response_of_ones_own_is_told_on_its_own_scale(made):
    frame = made.part.frame.assign(mine=made.part.frame["entropy"] * 10)
    told = tc.report(frame[["prompt", "category", "seed", "mode", "mine"]], response="mine", sesoi=0.5)
    first = parts.sections(told, ())[0]
    assert dict(first.facts)["estimate"] == f"{told.answers.answers['downweighting'].estimate:#.3g}"
    text = Outline(bare(told)).text
    assert "The response was mine." in text
    assert "down-weighting of parallel tokens" not in text


def test_numbers_alone_need_neither_matplotlib_nor_jinja(made, tmp_path):
    frame = tmp_path / "t.csv"
    made.part.frame.to_csv(frame, index=False)
    code = (
        "import sys, tempocube as tc\n"
        f"tc.report({str(frame)!r}).write({str(tmp_path / 'out')!r}, html=False)\n"
        "print([name for name in ('matplotlib', 'jinja2') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_answers_that_were_chosen_are_all_there_is(made):
    chosen = Outline(bare(made.only("modes")))
    assert [attrs["id"] for attrs in chosen.named("article")] == ["answer-modes", "scenario"]


def test_tables_hold_the_numbers_of_the_report(made):
    from tempocube.stats.page.frames import frames

    told = frames(made)
    assert set(told) == {
        *("answers", "gate", "experiments", "between", "steps", "axis_threshold", "prompts", "checks")
    }
    rows = told["answers"].set_index("key")
    for key, found in made.answers.answers.items():
        assert rows.loc[key, "sentence"] == found.sentence
        assert rows.loc[key, "n"] == found.n
        if found.estimate is not None:
            assert rows.loc[key, "estimate"] == found.estimate
    assert len(told["axis_threshold"]) == len(made.axes["threshold"])
    assert isinstance(told["steps"], pd.DataFrame)
