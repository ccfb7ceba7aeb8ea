"""The report as files: each whole, none stale, nobody else's touched."""

import json
import shutil
from math import log

import pytest

import tempocube as tc
from tempocube.dataset.simulated import Design, Effects, cube
from tempocube.errors import BadInput
from tempocube.stats.page import folder

DESIGN = Design(categories=(2, 2, 2), seeds=2, steps=8, layers=2, heads=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "half.zarr"
    cube(DESIGN, Effects(mean=log(0.5)), path, seed=3)
    return tc.report(path)


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    """What it puts into a folder that is not there."""
    return made.write(tmp_path_factory.mktemp("files") / "deep" / "report").parent


def names(where):
    """Every file of a folder, but for the list of them."""
    found = {str(path.relative_to(where)) for path in where.rglob("*") if path.is_file()}
    return found - {folder.LIST}


def test_a_report_is_a_page_numbers_tables_and_figures(made, written):
    found = names(written)
    assert json.loads((written / "report.json").read_text()) == made.to_dict()
    figures = {name.partition("/")[2].partition(".")[0] for name in found if name.startswith("figures/")}
    tables = {name.partition("/")[2].removesuffix(".csv") for name in found if name.startswith("tables/")}
    assert len(figures) >= 5
    assert figures <= tables  # what is drawn is there as numbers
    assert tables >= {"answers", "gate", "experiments", "between", "steps"}
    assert {f"figures/{name}.{kind}" for name in figures for kind in ("svg", "png")} <= found
    assert (written / "figures" / "forest.png").read_bytes().startswith(b"\x89PNG")
    assert (written / "index.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    again = tc.report(written / "tables" / "experiments.csv")
    key = "downweighting"
    assert again.answers.answers[key].estimate == pytest.approx(made.answers.answers[key].estimate)


def test_numbers_alone_take_away_the_page_they_do_not_belong_to(made, written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    (tmp_path / "figures" / "mine.svg").write_text("of somebody else")
    (tmp_path / "notes.txt").write_text("of somebody else")
    assert made.write(tmp_path, html=False) == tmp_path / "report.json"
    left = names(tmp_path)
    assert "index.html" not in left
    assert {name for name in left if name.startswith("figures/")} == {"figures/mine.svg"}
    assert "notes.txt" in left
    assert not {name for name in left if ".part" in name}


def test_a_file_that_is_none_of_ours_is_never_removed(tmp_path):
    outside = tmp_path / "outside.csv"
    outside.write_text("x")
    where = tmp_path / "report"
    where.mkdir()
    (where / "setup.py").write_text("x")
    listed = ["../outside.csv", "setup.py", str(outside), "tables/../../outside.csv", 7, None]
    for text in (json.dumps(listed), json.dumps({"a": 1}), "no list"):
        (where / folder.LIST).write_text(text)
        (where / "report.json").unlink(missing_ok=True)
        folder.replace(where, {"report.json": b"{}"}, "report.json")
        assert outside.exists()
        assert (where / "setup.py").exists()


def test_a_report_that_was_interrupted_has_no_page(made, tmp_path):
    where = tmp_path / "report"
    folder.replace(where, {"tables/a.csv": b"1", "report.json": b"{}", "index.html": b"old"}, "index.html")
    (where / "tables" / "b.csv").mkdir()  # what stands in the way of a new table
    listed = json.loads((where / folder.LIST).read_text())
    (where / folder.LIST).write_text(json.dumps([*listed, "tables/b.csv"]))
    with pytest.raises(BadInput, match="the report cannot be written there"):
        folder.replace(
            where, {"tables/b.csv": b"2", "report.json": b"{}", "index.html": b"new"}, "index.html"
        )
    assert not (where / "index.html").exists()
    assert not list(where.rglob("*.part"))
    (where / "tables" / "b.csv").rmdir()
    folder.replace(where, {"tables/b.csv": b"2", "report.json": b"{}", "index.html": b"new"}, "index.html")
    assert names(where) == {"tables/b.csv", "report.json", "index.html"}
    assert (where / "index.html").read_bytes() == b"new"


def test_folders_that_held_ours_alone_go_with_them(tmp_path):
    folder.replace(tmp_path, {"figures/a.svg": b"1", "report.json": b"{}"}, "report.json")
    folder.replace(tmp_path, {"report.json": b"{}"}, "report.json")
    assert not (tmp_path / "figures").exists()
    assert names(tmp_path) == {"report.json"}


def test_where_no_folder_can_be_made_it_is_said(made, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="file: the report cannot be written there"):
        made.write(tmp_path / "file", html=False)


@pytest.mark.parametrize("name", ["index.html", "report.json", "tables/answers.csv", "grid.yaml"])
def test_a_file_of_the_same_name_that_no_report_wrote_is_neither_replaced_nor_removed(made, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("of somebody else")
    with pytest.raises(BadInput, match=f"holds {name}, which no report has put there"):
        made.write(tmp_path)
    assert names(tmp_path) == {name}
    assert (tmp_path / name).read_text() == "of somebody else"


def test_no_report_is_written_into_a_cube(made, tmp_path):
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr" / "zarr.json").write_text("{}")
    for where in (tmp_path / "c.zarr", tmp_path / "c.zarr" / "report"):
        with pytest.raises(BadInput, match="is a cube, or in one"):
            made.write(where, html=False)
    assert names(tmp_path / "c.zarr") == {"zarr.json"}


def test_what_is_tried_beforehand_leaves_nothing_behind(tmp_path):
    folder.must_be_free(tmp_path / "deep" / "report", ["index.html"])
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="the report cannot be written there"):
        folder.must_be_free(tmp_path / "file" / "report")
