"""What the page says of design, methods and provenance is what was done."""

import re
import shlex
from html import unescape

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

import tempocube as tc
from cubes import facts, fill, grid
from tempocube.dataset.imported import bring_in
from tempocube.dataset.scenarios import Design as Drawn
from tempocube.dataset.scenarios import frame
from tempocube.dataset.simulated import Design, Effects
from tempocube.stats.gate import judge
from tempocube.stats.legacy import export
from tempocube.stats.page import methods, page, parts, provenance, questions
from tempocube.stats.page.frames import frames
from tempocube.stats.study import read
from test_page import DESIGN, Outline

ODD = [
    "joined \u200d \u200c",
    "turned \u202e\u200e\u2066 back",
    "bell \x07 nbsp \u00a0 nel \x85",
    "tag \U000e0041 'x': \"y\" # z",
]


def bare(report, explore=()):
    return page.html(report, (), explore)


def told(report):
    return " ".join(methods.paragraphs(report))


def captured(where, **options):
    """A cube of prompts with two categories, that says it was captured."""
    fill(
        where,
        grid(**{"prompts": {"a": ["one", "two", "three"], "b": ["four", "five", "six"]}} | options),
        facts(),
    )
    return where


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return tc.report(captured(tmp_path_factory.mktemp("truth") / "usual.zarr", temperature=0.7))


@pytest.fixture(scope="module")
def table():
    return frame(Drawn(categories=(3, 3), seeds=4), Effects(), seed=3)


def test_the_regression_is_told_with_what_it_left_out(usual):
    assert "All tokens of the prompt and the keys of the row's own set were left out." in told(usual)


def test_what_chose_tokens_is_told_with_its_noise_and_without_where_there_was_none(usual, tmp_path):
    assert "whose share of softmax(l + T G) was at least" in told(usual)
    assert "T = 0.7 the temperature, and G Gumbel noise" in told(usual)
    still = told(tc.report(captured(tmp_path / "still.zarr", temperature=0.0)))
    assert "every token with a probability of at least" in still
    assert "temperature 0: without noise" in still
    assert "Gumbel" not in still


def test_the_grid_on_the_page_loads_to_the_same_prompts_whatever_cannot_be_seen_in_them(tmp_path):
    where = captured(tmp_path / "odd.zarr", prompts={f"a{ODD[1]}": ODD[:2], "b": ODD[2:]})
    made = tc.report(where)
    shown = re.search(r'<details class="grid">.*?<code>(.*?)</code>', bare(made), re.DOTALL).group(1)
    loaded = YAML(typ="safe").load(unescape(shown))
    assert loaded["prompts"] == {f"a{ODD[1]}": ODD[:2], "b": ODD[2:]}
    assert all(c.isprintable() or c == "\n" for c in unescape(shown))


def test_what_joins_letters_stays_in_the_text_of_a_prompt(tmp_path):
    text = bare(
        tc.report(
            captured(tmp_path / "odd.zarr", prompts={"a": ["\u0645\u06cc\u200c\u062e", "first\nsecond"]})
        )
    )
    assert "\u0645\u06cc\u200c\u062e" in text
    assert "first ⏎ second" in text


def test_a_page_without_room_for_explorer_and_grid_says_so_and_the_grid_is_whole_beside_it(
    tmp_path, monkeypatch
):
    made = tc.report(
        captured(tmp_path / "long.zarr", prompts={"a": [f"{i} " + "word " * 2_000 for i in range(6)]})
    )
    monkeypatch.setattr(page, "MOST", 100_000)
    text = bare(made)
    assert "There is no room for the explorer on this page" in text
    assert "all of it is in grid.yaml beside this page" in text
    monkeypatch.undo()
    folder = made.write(tmp_path / "report", html=False).parent
    assert tc.Grid.from_dict(YAML(typ="safe").load(folder / "grid.yaml")) == tc.Grid.from_dict(
        made.part.cube.attrs["grid"][0]
    )


def test_texts_of_many_long_prompts_are_cut_on_the_page_and_whole_in_their_table(usual, monkeypatch):
    from tempocube.stats.page import prompts

    monkeypatch.setattr(prompts, "OF_TEXTS", 12)
    monkeypatch.setattr(prompts, "SHORTEST", 2)
    texts = [row[2].text for row in prompts.table_of(usual).rows]
    assert texts[2] == "th… (the first 2 of 5 characters; all are in tables/prompts.csv)"
    whole = frames(usual)["prompts"]
    assert whole["text"].tolist() == ["one", "two", "three", "four", "five", "six"]
    assert whole["experiments"].tolist() == [4] * 6


def test_treatment_checks_are_in_the_tables_and_in_report_json(usual):
    assert frames(usual)["checks"].set_index("check")["holds"].to_dict() == {
        name: count["pass"] for name, count in usual.to_dict()["checks"].items()
    }


def test_experiments_that_were_done_and_not_used_are_counted_and_named(table):
    gaps = table.copy()
    gaps.loc[(gaps["prompt"] == "p5") & (gaps["seed"] == gaps["seed"].iloc[0]), "downweighting"] = np.nan
    beside = gaps[gaps["mode"] == "isolated"].assign(mode="causal")
    made = tc.report(pd.concat([gaps, beside], ignore_index=True))
    for text in (told(made), " ".join(parts.effective(made))):
        assert "Left out: p5 (2 of its 8 experiments have no value)" in text
        assert "24 experiments in mode causal, not averaged in" in text
    assert "72 of 72 experiments were done, and 40 of these, of 5 prompts, were used" in told(made)
    assert (
        "of 72 experiments done, 40 are used, and they are 5 prompts to every test"
        in parts.effective(made)[0]
    )


def test_how_prompts_became_numbers_is_told_for_the_route_that_was_taken(table):
    assert "its experiments in the modes isolated and visible were averaged with equal weight" in told(
        tc.report(table)
    )
    lost = told(tc.report(table.drop(index=[0, 9])))
    assert "entered a linear mixed model" in lost
    assert "averaged with equal weight" not in lost


def test_copies_are_told_as_they_were_treated(table):
    assert "No two experiments were copies, by a hash" in told(tc.report(table))
    some = table.copy()
    some.loc[some.index[1:3], "path_digest"] = some["path_digest"].iloc[0]
    assert "46 of 48 experiments were distinct" in told(tc.report(some))
    assert "single copies were averaged like the rest" in told(tc.report(some))
    assert "counted once" not in told(tc.report(some))
    assert "by their values alone, as no hash was told" in told(tc.report(table.drop(columns="path_digest")))


def test_made_up_data_are_called_that_and_nothing_is_said_of_a_capture(make):
    made = tc.report(make(DESIGN))
    assert "These data are made up" in told(made)
    assert "Text was generated" not in told(made)
    text = Outline(bare(made)).text
    assert "These data are made up." in text[: text.index("What was found")]
    assert "tempo-capture grid" not in text


@pytest.mark.parametrize("control", ["clone", "no_mask"])
def test_methods_of_a_control_say_what_it_was(tmp_path, control):
    made = tc.report(captured(tmp_path / "control.zarr", control=control))
    was = "every sibling" if control == "clone" else "isolation was declared"
    assert f"This was a control ({control}): {was}" in told(made)


def test_what_was_imported_is_not_said_to_be_captured_and_tells_what_files_lacked(make, tmp_path):
    export(make(DESIGN), tmp_path / "files")
    made = tc.report(bring_in(tmp_path / "files", tmp_path / "back.zarr").url)
    assert "imported from files, not captured by this program; missing there: " in told(made)
    assert "Text was generated" not in told(made)
    lacking = dict(provenance.facts(made))["missing in what was imported"]
    assert made.part.cube.attrs["imported"]["missing"][0]["what"] in lacking
    assert provenance.commands(made) == ["tempo-stats report back.zarr"]


def test_a_p_that_is_one_sided_says_for_which_claim(make):
    made = tc.report(make(DESIGN, Effects(logit_sd=1.0)))
    found = made.answers.answers["logits"]
    named = dict(questions.facts("logits", found, True))
    assert "more than 0.01 nat is shown" in found.sentence
    assert "p" not in named
    assert named["p (one-sided, for less than 0.01 nat)"] == "1.000"
    assert float(named["95 % lower bound, one-sided"].split()[0]) == pytest.approx(
        found.details["lower"], rel=1e-2
    )
    assert "95 % CI, two-sided" in named
    rows = frames(made)["answers"].set_index("key")
    assert rows.loc["logits", "p_of"] == "one-sided, for less than 0.01 nat"
    assert rows.loc["downweighting", "p_of"] == ""


def test_commands_are_of_this_page_and_safe_for_a_shell(tmp_path):
    made = tc.report(
        captured(tmp_path / "-x $(y) 'z'.zarr", threshold=[0.1, 0.05]), layers=[1], at={"threshold": 0.05}
    )
    capture, again = provenance.commands(made.with_experiments("exp1"), ("p0", "p2"))
    name = "./-x $(y) 'z'.zarr"
    assert shlex.split(capture) == ["tempo-capture", "grid.yaml", "-o", name]
    options = ["--at", "threshold=0.05", "--layers", "1", "--experiment", "exp1", "--explore", "p0,p2"]
    assert shlex.split(again) == ["tempo-stats", "report", name, *options]
    text = unescape(bare(made))
    assert f"tempo-stats power {shlex.quote(name)}<" in text
    assert "At threshold = 0.05, as the answers" in text


def test_a_dataframe_and_a_part_of_the_answers_are_made_again_in_python(table, tmp_path):
    assert provenance.commands(tc.report(table, seed=3)) == [
        "tempocube.report(frame, seed=3).write('report')"
    ]
    table.to_csv(tmp_path / "t.csv", index=False)
    made = tc.report(tmp_path / "t.csv")
    assert provenance.commands(made.only("modes")) == [
        "tempocube.report('t.csv').only('modes').write('report')"
    ]
    assert dict(provenance.facts(made))["SHA-256 of the table's file"] == made.source["file_sha256"]


def test_layers_that_were_chosen_are_named(usual, tmp_path):
    assert "averaged over 2 layers and 3 heads" in told(usual)
    some = tc.report(captured(tmp_path / "c.zarr"), layers=[1], heads=[0, 2])
    assert "averaged over layer 1 and heads 0,2" in told(some)


def test_gaps_in_every_prompt_are_not_called_undefined_everywhere(table):
    gaps = table.copy()
    gaps.loc[gaps["seed"] != gaps["seed"].iloc[0], "downweighting"] = np.nan
    reason = judge(read(gaps)).withheld["downweighting"]
    assert (
        reason
        == "downweighting has too many gaps in every prompt (more than 10 % of its experiments undefined)"
    )
    gaps = gaps[gaps["mode"] == "isolated"].assign(downweighting=np.nan)
    assert judge(read(gaps)).withheld["downweighting"] == "downweighting is undefined in every prompt"


def test_titles_that_ask_end_once_and_limits_without_a_row_say_so(make):
    assert page._environment().from_string("{{ 'Why?' | ended }} {{ 'So' | ended }}").render() == "Why? So."
    alone = bare(tc.report(make(Design(categories=(1,), seeds=2, steps=8, layers=2, heads=2))))
    assert "No answer here tells what its design could have seen." in alone
    assert "This is what the design could have seen" not in alone
