import re
import subprocess
import sys

import pytest

from pages import PAGES, ROOT, anchors, links, name_of, script, typed

generate = script("generate")


def test_what_is_made_from_the_code_is_up_to_date():
    """Otherwise: make schema."""
    for path, text in generate.made().items():
        assert path.read_text() == text, f"{path.name} is out of date: run make schema"


def test_every_command_of_a_page_can_be_typed():
    """It, its options and what they are given exist: the command's own parser says so."""
    parsers = generate.parsers()
    wrong, looked_at = [], set()
    for page in (page for page in PAGES if page.name != "commands.md"):
        for line, words in typed(page.read_text(), parsers):
            command = next(name for name in parsers if words[: name.count(" ") + 1] == name.split())
            looked_at.add(command)
            try:
                parsers[command].make_context(command, words[command.count(" ") + 1 :])
            except Exception as error:  # noqa: BLE001 - typer has its errors under private names
                wrong.append(f"{name_of(page)}: {line}: {error}")
    assert not wrong
    assert looked_at == parsers.keys(), "a command is nowhere shown in use"


def test_a_command_that_does_not_exist_is_noticed():
    parsers = generate.parsers()
    page = "```sh\ntempo-stats reprot x.zarr\n```\nand `tempo-capture grid.yaml --wrokers 2`"
    with pytest.raises(ValueError, match="reprot"):
        list(typed(page, parsers))
    page = "```sh\nA=1 tempo-stats \\\n  verify x.zarr | head   # a remark\n```"
    assert [words for _, words in typed(page, parsers)] == [["tempo-stats", "verify", "x.zarr"]]


def test_every_command_has_its_section_and_every_option_its_row():
    page = (ROOT / "docs" / "commands.md").read_text()
    for name, parser in generate.parsers().items():
        section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        for option in (each for each in parser.params if each.param_type_name == "option"):
            assert all(f"`{spelled}`" in section for spelled in option.opts), (name, option.opts)


def test_the_demo_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "demo.py"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "100 done" in done.stdout
    assert "each row sums to 1: True" in done.stdout
    assert "Parallel tokens receive " in done.stdout
    page = tmp_path / "demo.zarr-report" / "index.html"
    assert page.exists()
    assert done.stdout.rstrip().endswith(str(page))


def test_every_measure_is_explained(tmp_path):
    """As are the checks of the gate and the answers."""
    import tempocube as tc

    sim = tc.dataset.simulated
    sim.cube(sim.Design(categories=(1, 1), seeds=1, layers=1, heads=1), sim.Effects(), tmp_path / "c.zarr")
    page = (ROOT / "docs" / "answers.md").read_text()
    frame = tc.stats.measures.experiments(tmp_path / "c.zarr")
    names = [*frame.columns.drop(["prompt", "category", "seed", "mode", "reason"]), *tc.stats.gate.ANSWERS]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_code_of_the_page_about_answers_runs(tmp_path, monkeypatch):
    import tempocube as tc

    sim = tc.dataset.simulated
    design = sim.Design(categories=(2, 2), seeds=2, steps=8, layers=2, heads=2)
    sim.cube(design, sim.Effects(), tmp_path / "cube.zarr", threshold=[0.1, 0.05])
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "answers.md").read_text(), re.DOTALL)
    names = {}
    exec(compile(code, "answers.md", "exec"), names)
    assert names["report"].at == {"threshold": 0.1}
    assert set(names["fit"].components) == {"prompt", "prompt:seed", "prompt:mode", "Residual"}


def test_every_link_of_a_page_leads_somewhere():
    """To a file that is there, and to a heading of it where it names one."""
    for page in PAGES:
        for link in links(page.read_text()):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{name_of(page)} links to {link}"
            assert not anchor or anchor in anchors(target.read_text()), f"{name_of(page)} links to {link}"


def test_the_index_lists_every_page():
    listed = set(links((ROOT / "docs" / "index.md").read_text()))
    pages = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")} - {"index.md"}
    assert pages <= {link.partition("#")[0] for link in listed}


def test_a_heading_is_linked_as_the_hub_makes_anchors():
    page = "# The `page`\n\n```sh\n# no heading\n```\n\n## What is 0, what is missing\n## Twice\n## Twice\n"
    assert anchors(page) == {"the-page", "what-is-0-what-is-missing", "twice", "twice-1"}
