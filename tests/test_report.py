"""Reports: a cube or a table in, report.json out; swept axes; what cannot be read is refused."""

import json
from dataclasses import replace
from math import log

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import tempocube as tc
from tempocube.dataset.simulated import Design, Effects, cube, frame
from tempocube.errors import BadInput
from tempocube.stats import table

DESIGN = Design(categories=(2, 2, 2), seeds=2, steps=8, layers=2, heads=2)
HALF = Effects(mean=log(0.5), prompt_sd=0.1)
ANSWERS = (
    *("downweighting", "prompt_variance", "outliers", "effect_size", "category", "seeds"),
    *("generalisation", "modes", "cross_parallel", "logits", "maps", "over_steps"),
)


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A cube whose parallel tokens get half the attention."""
    path = tmp_path_factory.mktemp("report") / "half.zarr"
    cube(DESIGN, HALF, path, seed=3)
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two axes: at each point the same experiments but for their noise."""
    path = tmp_path_factory.mktemp("swept") / "swept.zarr"
    cube(DESIGN, HALF, path, seed=3, threshold=[0.1, 0.05], temperature=[0.7, 1.0])
    return path


def test_a_cube_gives_every_answer_in_the_shape_of_report_json(where):
    told = tc.report(where).to_dict()
    assert json.loads(tc.report(str(where)).to_json()) == told
    assert set(told) >= {"schema", "design", "gate", "answers", "scenario", "warnings", "versions", "axes"}
    assert tuple(told["answers"]) == ANSWERS
    assert told["schema"] == 1
    assert {key: told["design"][key] for key in ("prompts", "cells", "done")} == {
        "prompts": 6,
        "cells": 24,
        "done": 24,
    }
    found = told["answers"]["downweighting"]
    low, high = found["ci"]
    assert low < log(0.5) < high
    assert (found["n"], found["df"]) == (6, 5.0)
    assert (told["source"]["name"], told["source"]["model"]) == ("half.zarr", "simulated")


def test_a_path_and_an_open_cube_give_the_same_report(where):
    assert tc.report(tc.open_cube(where)).to_json() == tc.report(where).to_json()


def test_layers_and_heads_can_be_chosen_either_way(where):
    by_option = tc.report(where, layers=[1]).to_dict()
    by_selection = tc.report(tc.open_cube(where).sel(layer=[1])).to_dict()
    assert by_option["answers"] == by_selection["answers"]
    assert by_option["answers"] != tc.report(where).to_dict()["answers"]
    assert by_option["source"]["layers"] == [1]


@pytest.mark.parametrize("name", ["frame.csv", "frame.csv.gz", "frame.tsv", "frame.parquet"])
def test_a_table_gives_the_answers_of_the_cube_it_was_made_from(where, tmp_path, name):
    measured = tc.stats.measures.experiments(where)
    path = tmp_path / name
    if name.endswith("parquet"):
        measured.to_parquet(path)
    else:
        measured.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    of_table, of_cube = tc.report(path).to_dict(), tc.report(where).to_dict()
    for key in ("downweighting", "category", "outliers", "generalisation", "cross_parallel"):
        for number in ("estimate", "p", "n"):
            assert of_table["answers"][key][number] == pytest.approx(of_cube["answers"][key][number]), key
    assert of_table["design"]["distinct_captures"] == of_cube["design"]["distinct_captures"]
    assert "not_tested" in of_table["answers"]["maps"]


def test_answers_are_at_the_first_value_of_each_axis_unless_said_otherwise(swept):
    first, other = tc.report(swept), tc.report(swept, at={"threshold": 0.05})
    assert first.at == {"threshold": 0.1, "temperature": 0.7}
    assert other.at == {"threshold": 0.05, "temperature": 0.7}
    assert tc.report(swept, at={"threshold": "0.05"}).to_json() == other.to_json()
    part = tc.open_cube(swept).sel(threshold=[0.05], temperature=[0.7])
    assert tc.report(part).to_dict()["answers"] == other.to_dict()["answers"]
    assert first.to_dict()["design"]["cells"] == 24


def test_each_axis_has_a_table_paired_by_prompt(swept):
    made = tc.report(swept)
    assert set(made.axes) == {"threshold", "temperature"}
    frames = {
        value: tc.stats.measures.experiments(tc.open_cube(swept).sel(threshold=[0.1], temperature=[value]))
        for value in (0.7, 1.0)
    }
    means = {value: each.groupby("prompt")["entropy"].mean() for value, each in frames.items()}
    (row,) = [row for row in made.axes["temperature"] if (row.measure, row.value) == ("entropy", 1.0)]
    by_hand = stats.ttest_rel(means[1.0], means[0.7])
    assert row.p == pytest.approx(by_hand.pvalue)
    assert row.difference == pytest.approx(float((means[1.0] - means[0.7]).mean()))
    assert (row.reference, row.pairs, row.p_holm) == (0.7, 6, row.p)
    assert row.mean == pytest.approx(float(means[1.0].mean()))


def test_a_table_with_swept_columns_is_answered_at_one_value(swept, tmp_path):
    measured = tc.stats.measures.experiments(swept)
    measured.to_csv(tmp_path / "swept.csv", index=False)
    of_table = tc.report(tmp_path / "swept.csv", at={"temperature": 1}).to_dict()
    of_cube = tc.report(swept, at={"temperature": 1.0}).to_dict()
    assert of_table["at"] == of_cube["at"] == {"threshold": 0.1, "temperature": 1.0}
    assert of_table["answers"]["downweighting"]["p"] == pytest.approx(
        of_cube["answers"]["downweighting"]["p"]
    )


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ({"thresold": 1}, "'thresold' is not swept; its axes are threshold, temperature"),
        ({"threshold": 0.2}, "threshold=0.2: no such value; threshold has 0.1, 0.05"),
    ],
)
def test_a_point_that_is_not_there_is_refused_with_those_that_are(swept, at, said):
    with pytest.raises(BadInput, match=said):
        tc.report(swept, at=at)


def test_progress_counts_the_experiments_of_every_point_once(swept, tmp_path):
    seen = []
    tc.report(swept, progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {24 * 3}  # the first point, and one more on each axis
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (72, 72)


def test_a_cube_that_is_still_being_written_says_how_many_cells_were_used(tmp_path):
    cube(DESIGN, Effects(lost=((0, 1, None), (3, 0, 1))), tmp_path / "part.zarr", seed=1)
    made = tc.report(tmp_path / "part.zarr")
    first = made.answers.gate[0]
    assert (first.check, first.status) == ("cells", "suspect")
    assert first.detail.startswith("21 of 24 cells are used, 3 pending")
    assert first.detail in made.answers.warnings
    assert made.to_dict()["design"]["done"] == 21


def test_a_cube_with_nothing_in_it_is_refused(tmp_path):
    everything = Effects(lost=((None, None, None),))
    cube(DESIGN, everything, tmp_path / "empty.zarr")
    with pytest.raises(BadInput, match=r"no experiment is done yet \(24 pending\); run tempo-capture"):
        tc.report(tmp_path / "empty.zarr")


def test_some_answers_can_be_taken_out(where):
    made = tc.report(where).only("modes", "category")
    assert set(made.to_dict()["answers"]) == {"modes", "category"}
    with pytest.raises(BadInput, match="no answer 'mode'; there are downweighting, prompt_variance"):
        made = tc.report(where).only("mode")


def test_words_in_a_table_stay_words(tmp_path):
    text = "prompt,category,seed,mode,y\nNA,1,7,null,2.5\n007,None,8,nan,NA\n"
    (tmp_path / "t.csv").write_text(text)
    found = table.load(tmp_path / "t.csv")
    assert found["prompt"].tolist() == ["NA", "007"]
    assert found["category"].tolist() == ["1", "None"]
    assert found["mode"].tolist() == ["null", "nan"]
    assert found["y"].isna().tolist() == [False, True]


TABLES = {
    "": "cannot be read as a table",
    "prompt,category,seed\na,b,1": "the frame has no columns 'mode', 'downweighting'",
    "prompt,category,seed,mode,y\na,b,1,isolated,2": "no column 'downweighting'",
    "prompt,category,seed,mode,downweighting\na,b,1,isolated,low": "holds 'low', which is no number",
    "prompt,category,seed,mode,downweighting\n": "the frame has no rows",
    "prompt,category,seed,mode,downweighting\n,b,1,isolated,2": "'prompt' is missing in 1 of 1 rows",
    "prompt,category,seed,mode,mode\na,b,1,isolated,2": "there are several columns 'mode'",
    "prompt,category,seed,mode,downweighting\na,b,1,isolated,2\na,b,1,isolated,3": "has 2 rows",
    "prompt,category\na,b,c,d,e\n": "its rows have more values than its header has names",
    "prompt,category\na,b\na,b,c\n": "cannot be read as a table",
    "prompt;category;seed\na;b;1\n": "its columns are not separated by ','",
    "prompt,category,seed,mode,downweighting,parallel_sets\na,b,1,isolated,2,many": "row 1 of column 'par",
}


@pytest.mark.parametrize("text", TABLES)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadInput) as refused:
        tc.report(tmp_path / "t.csv")
    assert TABLES[text] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_are_no_tables_are_refused(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "t.csv").write_bytes(bytes(range(128, 256)))
    for name in ("t.parquet", "t.csv", "none.csv", "."):
        with pytest.raises(tc.TempoError) as refused:
            tc.report(tmp_path / name)
        assert "\n" not in str(refused.value)


def test_maps_are_those_of_the_value_that_is_asked_for(swept):
    there = tc.report(swept, at={"threshold": 0.05}).to_dict()["answers"]["maps"]
    assert (there["n"], there.get("not_tested")) == (6, None)
    part = tc.open_cube(swept).sel(threshold=[0.05], temperature=[0.7], prompt=["p1", "p4"])
    made = tc.stats.measures.maps(part)
    assert made.sizes["threshold"] == made.sizes["temperature"] == 1
    assert (made.prompt.values.tolist(), made.category.values.tolist()) == (
        ["p1", "p4"],
        ["narrative", "technical"],
    )
    assert made.notnull().all()


def test_layers_of_a_table_are_refused(where):
    with pytest.raises(BadInput, match="layers and heads can be chosen of a cube, not of a table"):
        tc.report(tc.stats.measures.experiments(where), layers=[0])


def test_any_response_can_be_asked_about(where):
    made = tc.report(where, response="entropy")
    means = tc.stats.measures.experiments(where).groupby("prompt")["entropy"].mean()
    found = made.to_dict()["answers"]["downweighting"]
    assert found["estimate"] == pytest.approx(float(means.mean()))
    assert made.to_dict()["design"]["response"] == "entropy"


def test_a_frame_in_memory_is_a_table(monkeypatch):
    simulated = frame(Design(), Effects(mean=log(0.5)), seed=4)
    found = tc.report(simulated).to_dict()
    assert found["answers"]["downweighting"]["n"] == 10
    assert np.exp(found["answers"]["downweighting"]["estimate"]) == pytest.approx(0.5, rel=0.3)
    assert found["source"]["name"] == "table"
    assert isinstance(simulated, pd.DataFrame)


def test_a_swept_value_may_be_none():
    one = frame(Design(), Effects(), seed=4)
    made = tc.report(pd.concat([one.assign(prune=None), one.assign(prune="a")]))
    assert made.at == {"prune": None}
    assert {row.value for row in made.axes["prune"]} == {None, "a"}
    assert tc.report(pd.concat([one.assign(prune=None), one.assign(prune="a")]), at={"prune": "a"}).at == {
        "prune": "a"
    }


@pytest.mark.parametrize("source", [None, 3, ["cube.zarr"], pd.Series([1.0])])
def test_what_is_neither_cube_nor_table_is_named(source):
    with pytest.raises(BadInput, match=r"answers are of a cube .* or a table .*, got a "):
        tc.report(source)


def test_a_column_that_is_there_twice_is_named():
    one = frame(Design(), Effects(), seed=4)
    with pytest.raises(BadInput, match="several columns 'prompt'"):
        tc.report(pd.concat([one, one[["prompt"]]], axis=1))


def test_a_notebook_is_shown_every_sentence_as_text():
    made = tc.report(frame(Design(), Effects(), seed=1))
    odd = replace(made, source=dict(made.source) | {"name": "<script>alert(1)</script>"})
    shown = odd._repr_html_()
    assert shown.count("<li>") == len(made.answers.answers)
    assert "<script>" not in shown
