"""Foreign text on the page: whatever somebody calls a prompt, a category or a column, it stays text."""

import os
import re
import shutil

import pytest

import tempocube as tc
from cubes import facts, fill, grid
from tempocube.stats.page import page
from tempocube.stats.page.frames import safe
from test_page import Outline

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(2)>'
LONG = "long " * 2_000
RIGHT = (
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645"  # written from right to left
)
CONTROL = "bell \x07 escape \x1b[31m turned \u202e back"
TEXTS = [SCRIPT, IMAGE, LONG, RIGHT, "{{ 7 * 7 }} {% raw %}", "]]><!-- x"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """The page of a cube whose prompts and categories want to be more than text."""
    path = tmp_path_factory.mktemp("safe") / "<b>cube&amp;.zarr"
    asked = {SCRIPT: TEXTS[:3], f"</style>{RIGHT}": TEXTS[3:]}
    fill(path, grid(prompts=asked), facts())
    return page.html(tc.report(path), ())


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """The page of a table with such ids, and control characters in them."""
    rows = ["prompt,category,seed,mode,y"]
    names = [SCRIPT, "'" + IMAGE.replace('"', ""), "x" * 10_000, RIGHT, CONTROL, "={{1+1}}"]
    for i, name in enumerate(names):
        rows += [
            f"{name},{SCRIPT if i % 2 else CONTROL},1,{mode},{i * i % 5 + k}"
            for k, mode in enumerate(("a", "b"))
        ]
    path = tmp_path_factory.mktemp("safe") / "ids.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    return page.html(tc.report(path, response="y"), ())


def test_markup_in_prompts_and_categories_is_text(texts):
    outline = Outline(texts)
    assert SCRIPT in outline.text
    assert IMAGE in outline.text
    assert "{{ 7 * 7 }} {% raw %}" in outline.text
    assert "<b>cube&amp;.zarr" in outline.text
    assert not outline.named("img")
    assert not outline.named("b")
    assert not [attrs for _, attrs in outline.tags if any(name.startswith("on") for name in attrs)]
    assert not re.search(r"<script[^>]*>\s*alert", texts)
    assert outline.tags.count(("style", {})) <= 2


def test_ten_thousand_characters_are_folded_and_all_there(texts):
    folded = re.findall(r'<details class="long"><summary>(.*?)</summary>(.*?)</details>', texts, re.DOTALL)
    short, whole = next((short, whole) for short, whole in folded if LONG.strip() in whole)
    assert len(re.sub(r"<[^>]+>", "", short)) < 200
    assert whole.count("long") == 2_000


def test_text_from_right_to_left_turns_nothing_around_it(texts, frames):
    for of in (texts, frames):
        assert f'<bdi dir="auto">{RIGHT}</bdi>' in of


def test_control_characters_are_spelled(frames):
    assert r"bell \x07 escape \x1b[31m turned \u202e back" in frames
    assert not set(re.findall(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", frames))


def test_ids_of_a_table_are_text(frames):
    outline = Outline(frames)
    assert SCRIPT in outline.text
    assert "={{1+1}}" in outline.text
    assert not outline.named("img")
    assert not outline.named("script")


def test_a_file_of_the_report_has_a_plain_name():
    assert safe("../../etc/passwd") == "etc_passwd"
    assert safe("<>") == "unnamed"
    assert len(safe("y" * 500)) == 80


@pytest.mark.parametrize("which", ["texts", "frames"])
def test_a_browser_runs_none_of_it_and_fetches_nothing(which, request, tmp_path):
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: the page was not opened"
    )
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or os.environ.get("CHROMIUM")
    if chromium is None:
        pytest.skip("no chromium here: the page was not opened in a browser")
    path = tmp_path / "page.html"
    path.write_text(request.getfixturevalue(which), encoding="utf-8")
    seen = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 400, "height": 800})
        tab.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
        tab.on("console", lambda message: seen.append(message.text))
        tab.on("pageerror", lambda error: seen.append(str(error)))
        tab.on("request", lambda asked: seen.append(asked.url) if not asked.url.startswith("file:") else None)
        tab.goto(path.as_uri())
        width = tab.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert seen == []
    assert width == 400
