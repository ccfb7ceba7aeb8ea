"""The tutorial runs and prints what it shows; and how pages are held to what they show."""

import os
import re

import pytest

from pages import ROOT, as_a_reader, script

execute = script("execute")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a page's text in a new folder and gives it back as it is now."""
    monkeypatch.chdir(tmp_path)
    return lambda page: execute.run(page, tmp_path)


@pytest.mark.slow
def test_the_tutorial_runs_and_prints_what_it_shows(tmp_path):
    as_a_reader(ROOT / "docs" / "tutorial.md", tmp_path)


def test_what_the_tutorial_concludes_stands_in_its_report():
    """Every number of the paragraph at its end is one that a command printed."""
    page = (ROOT / "docs" / "tutorial.md").read_text()
    printed = " ".join(block.code for block in execute.blocks(page) if block.language == "text")
    paragraph = " ".join(line for line in page.splitlines() if line.startswith(">"))
    numbers = re.findall(r"\d+\.\d+", paragraph)
    assert len(numbers) > 5
    assert [number for number in numbers if number not in printed] == []


def test_blocks_share_a_folder_and_python_blocks_their_names(run):
    page = (
        "```sh\nmkdir four\n```\n\n```python\nimport os\n\nfound = os.listdir()\n```\nand\n"
        "```python\nprint(len(found[0]))\n```\n\n```text\n4\n```\n"
    )
    assert run(page) == page


def test_output_that_differs_is_renewed(run):
    page = "```sh\necho two words\n```\n\n```text\n{}\n```\n\n```sh\necho 5\n```\n\n```text\n5\n```\n"
    assert run(page.format("three words")) == page.format("two words")


def test_a_text_block_that_is_no_output_is_left_alone(run):
    page = "```sh\necho 1\n```\n\nThis is an example:\n\n```text\nx\n```\n"
    assert run(page) == page


@pytest.mark.parametrize("code", ["sh\nfalse", "sh\nls nowhere | cat\necho $UNSET", "python\n1 / 0"])
def test_the_first_error_ends_a_page_and_names_its_line(run, code):
    with pytest.raises(execute.Failed, match="line 4"):
        run(f"# Page\n\n```{code}\n```\n\n```sh\ntouch later\n```\n")
    assert not os.path.exists("later")


def test_an_exit_code_that_a_page_announces_is_asked_for(run):
    page = "<!-- exits with 2 -->\n\n```sh\necho no >&2; exit {}\n```\n\n```text\nno\n```\n"
    assert run(page.format(2)) == page.format(2)
    with pytest.raises(execute.Failed, match="exit code 0"):
        run(page.format(0))


def test_a_block_that_cannot_run_is_left_out(run):
    page = "<!-- not run: needs the network -->\n\n```sh\nexit 1\n```\n"
    assert run(page) == page


@pytest.mark.parametrize(
    ("page", "real"),
    [
        ("cells 36 done in 9.4 s", "cells 36 done in 1 min 22 s"),
        ("written about ... ago, by hand", "written about a year ago, by hand"),
        ("KL 4.0e-06", "KL 1.3e-07"),
        ("3.58 MB stored", "998 kB stored"),
        ("p = 0.386", "p = 0.387"),
        ("one\n...\nfour", "one\ntwo\nthree\nfour"),
        ("...\nb\n...", "a\nb\nc"),
        ("a\n...", "a"),
        ("a long\nline", "a\nlong line"),
        ("(one-\nsided)", "(one-sided)"),
    ],
)
def test_times_sizes_and_last_digits_may_differ(page, real):
    assert execute.alike(page, real)


@pytest.mark.parametrize(
    ("page", "real"),
    [
        ("36 done", "35 done"),
        ("p = 0.39", "p = 0.45"),
        ("shown", "not shown"),
        ("a\n...\nc", "a\nb"),
        ("...\nb\n...", "a\nc"),
        ("a\n...\na", "a"),
        ("x = 1", "x = -1"),
        ("", "something"),
    ],
)
def test_another_outcome_is_noticed(page, real):
    assert not execute.alike(page, real)
