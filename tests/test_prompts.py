"""Prompts are read as they are written, and a file with a mistake names its line."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tempocube.dataset.grid import Grid, Prompt
from tempocube.dataset.prompts import as_written
from tempocube.errors import BadInput

from . import strategies


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, content: str | bytes) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def read(name: str, **options: Any) -> tuple[Prompt, ...]:
    return Grid.from_dict({"prompts_file": name} | options).prompts


def refusal(options: dict[str, Any]) -> str:
    with pytest.raises(BadInput) as refused:
        Grid.from_dict(options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Once upon", [("Once upon", "uncategorised")]),
        (["Once upon", " She said "], [("Once upon", "uncategorised"), (" She said ", "uncategorised")]),
        ({"x": "Once upon", "y": ["a", "b"]}, [("Once upon", "x"), ("a", "y"), ("b", "y")]),
        (["a", {"prompt": "b", "category": "y"}], [("a", "uncategorised"), ("b", "y")]),
    ],
)
def test_prompts_may_be_written_in_several_forms(written: Any, read: list[tuple[str, str]]) -> None:
    assert [(p.text, p.category) for p in Grid.from_dict({"prompts": written}).prompts] == read


def test_a_text_file_has_a_prompt_a_line() -> None:
    text = "\ufeff# a comment\r\n\r\n  Once upon a time \r\n   # another\rShe said\x0cto him\n\n"
    assert read(write("prompts_uncertainty.txt", text)) == (
        Prompt("Once upon a time", "prompts_uncertainty"),
        Prompt("She said\x0cto him", "prompts_uncertainty"),
    )


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("a.txt", "a"),
        ("prompts_.txt", "prompts_"),
        ("prompts.TXT", "prompts"),
        ("sub/prompts_b.txt", "prompts_b"),
    ],
)
def test_the_category_is_the_stem(name: str, category: str) -> None:
    assert read(write(name, "Once upon")) == (Prompt("Once upon", category),)


def test_a_csv_file_has_columns_in_any_order() -> None:
    text = 'id, prompt ,category\n7,"Well, once",story\n\nb,"two\nlines",\n,third,fact\n'
    assert read(write("stories.csv", "\ufeff" + text)) == (
        Prompt("Well, once", "story", "7"),
        Prompt("two\nlines", "stories", "b"),
        Prompt("third", "fact", None),
    )
    assert read(write("prompts_x.csv", "prompt\na\n")) == (Prompt("a", "prompts_x"),)


def test_a_jsonl_file_has_an_object_a_line() -> None:
    text = '{"prompt": "a", "id": 7}\n\n{"prompt": " b ", "category": "y", "id": null}\n'
    assert read(write("x.jsonl", text)) == (Prompt("a", "x", "7"), Prompt(" b ", "y", None))


def test_files_start_at_the_grids_folder_and_follow_the_written_prompts() -> None:
    write("sub/one.txt", "from a file")
    write("sub/two.jsonl", '{"prompt": "from another"}')
    write("sub/grid.yaml", "prompts: [written]\nprompts_file: [one.txt, two.jsonl]\n")
    assert Grid.load("sub/grid.yaml").prompt_texts == ("written", "from a file", "from another")


WRONG_FILES = [
    (
        "x.csv",
        "prompt,categry\na,b\n",
        'x.csv:1: unknown column "categry"; did you mean category?; allowed are',
    ),
    ("x.csv", "prompt,zzz\na,b\n", 'x.csv:1: unknown column "zzz"; allowed are prompt, category, id'),
    ("x.csv", "text\na\n", 'x.csv:1: unknown column "text"; allowed are prompt, category, id'),
    ("x.csv", "id\na\n", "x.csv:1: there is no column prompt; the first line names the columns"),
    ("x.csv", "prompt,prompt\na,b\n", "x.csv:1: the column prompt is there twice"),
    (
        "x.csv",
        "prompt,category\na,b\nWell, once,b\n",
        "x.csv:3: has 3 cells, and there are 2 columns; put quotes around a prompt that holds a comma",
    ),
    ("x.csv", 'prompt\n"a\nb"\n" "\n', 'x.csv:4: a prompt must not be empty (got " ")'),
    ("x.csv", 'prompt\n"a\n', "x.csv:2: not valid CSV (unexpected end of data)"),
    ("x.csv", "", "grid: prompts_file: x.csv: has no prompts"),
    ("x.csv", "prompt\n", "grid: prompts_file: x.csv: has no prompts"),
    ("x.txt", "# nothing\n\n", "grid: prompts_file: x.txt: has no prompts"),
    ("x.txt", b"fine\nna\xefve\n", "x.txt:2: not UTF-8 text (byte 0xef)"),
    ("x.txt", b"fine\n\0\n", "x.txt:2: not a text file (it has NUL bytes)"),
    ("x.txt", "a\nb\na\n", 'x.txt:3: the prompt "a" is already at x.txt:1'),
    ("x.jsonl", '{"prompt": "a"}\n{"prompt": \n', "x.jsonl:2: not valid JSON (Expecting value)"),
    ("x.jsonl", "[" * 100_000, "x.jsonl:1: not valid JSON (a number too long or nested too deeply)"),
    ("x.jsonl", '["a"]\n', 'x.jsonl:1: must be an object such as {"prompt": "Once upon"} (got ["a"])'),
    ("x.jsonl", '{"prompts": "a"}\n', 'x.jsonl:1: unknown key "prompts"; did you mean prompt?'),
    ("x.jsonl", '{"category": "a"}\n', "x.jsonl:1: prompt is missing"),
    ("x.jsonl", '{"prompt": 5}\n', "x.jsonl:1: a prompt must be text; put quotes around it (got 5)"),
    (
        "x.jsonl",
        '{"prompt": "a", "category": 5}\n',
        "x.jsonl:1: a category must be text; put quotes around it",
    ),
    (
        "x.jsonl",
        '{"prompt": "a", "id": true}\n',
        "x.jsonl:1: an id must be text; put quotes around it (got true)",
    ),
    ("x.jsonl", '{"prompt": "a", "prompt": "b"}\n', "x.jsonl:1: a key is given twice"),
    ("x.jsonl", '{"prompt": "a\\ud800"}\n', "x.jsonl:1: a prompt must be plain Unicode without NUL"),
    (
        "x.jsonl",
        '{"prompt": "a", "id": "n"}\n{"prompt": "b", "id": "n"}\n',
        'x.jsonl:2: the id "n" is already at x',
    ),
    (
        "x.jsonl",
        '{"prompt": "a", "id": "p1"}\n{"prompt": "b"}\n',
        "x.jsonl:1: the id p1 is one the cube gives",
    ),
    ("x.parquet", "a", "grid: prompts_file: x.parquet: a prompts file ends in .txt, .csv, .jsonl"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG_FILES)
def test_a_mistake_in_a_prompts_file_is_named_with_its_line(name: str, content: Any, message: str) -> None:
    assert refusal({"prompts_file": write(name, content)}).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, "grid: prompts: must be a text or a list of texts (got [])"),
        ({"prompts": {"x": []}}, "grid: prompts.x: must be a text or a list of texts (got [])"),
        ({"prompts": {"x": [1]}}, "grid: prompts.x[0]: a prompt must be text; put quotes around it (got 1)"),
        ({"prompts": {"x": "\t"}}, 'grid: prompts.x: a prompt must not be empty (got "\\t")'),
        ({"prompts": {"": "a"}}, 'grid: prompts.: a category must not be empty (got "")'),
        (
            {"prompts": {"x": {"y": "a"}}},
            'grid: prompts.x: must be a text or a list of texts (got {"y": "a"})',
        ),
        (
            {"prompts": 5},
            'grid: prompts: must be a mapping such as {narrative: ["Once upon a time"]}, or a list',
        ),
        ({"prompts": None}, "grid: prompts: is empty; prompts or prompts_file is needed"),
        ({}, "grid: prompts: is missing; prompts or prompts_file is needed"),
        (
            {"prompts": {"x": "a", "y": ["b", "a"]}},
            'grid: prompts.y[1]: the prompt "a" is already at grid: prompts.x',
        ),
        ({"prompts_file": [5]}, "grid: prompts_file[0]: must be the path of a file (got 5)"),
        ({"prompts_file": "."}, "grid: prompts_file: .: a prompts file ends in .txt, .csv, .jsonl"),
    ],
)
def test_wrong_prompts_are_named(options: dict[str, Any], message: str) -> None:
    assert refusal(options).startswith(message)


def test_a_prompt_in_two_places_is_named_with_both() -> None:
    write("more.txt", "# comment\nOnce upon a time\n")
    write("grid.yaml", "seeds: [1]\nprompts:\n  x:\n    - Once upon a time\nprompts_file: more.txt\n")
    with pytest.raises(BadInput) as refused:
        Grid.load("grid.yaml")
    more = Path("more.txt").absolute()
    assert (
        str(refused.value)
        == f'{more}:2: the prompt "Once upon a time" is already at grid.yaml:4: prompts.x[0]'
    )


def test_a_missing_prompts_file_is_named_with_the_line_that_wants_it() -> None:
    write("prompts_a.txt", "a")
    write("grid.yaml", "seeds: [1]\nprompts_file:\n  - prompts_a.txt\n  - prompts_b.txt\n")
    with pytest.raises(BadInput) as refused:
        Grid.load("grid.yaml")
    missing = Path("prompts_b.txt").absolute()
    assert str(refused.value) == (
        f"grid.yaml:4: prompts_file[1]: {missing}: no such file; did you mean prompts_a.txt?"
    )


def test_other_mistakes_in_the_grid_are_counted_beside_that_of_a_prompt() -> None:
    assert refusal({"prompts": [" "], "seeds": [-1]}).endswith("(and 1 more)")


def test_ten_thousand_prompts_are_no_limit() -> None:
    write("many.txt", "\n".join(f"Prompt number {i}" for i in range(10_000)))
    assert len(read("many.txt")) == 10_000


@given(strategies.prompts())
def test_any_prompts_survive_being_written(written: Any) -> None:
    prompts = Grid.from_dict({"prompts": written}).prompts
    assert Grid.from_dict({"prompts": as_written(prompts)}).prompts == prompts
