import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_what_is_made_from_the_code_is_up_to_date():
    """Otherwise: make schema."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, text in generate.made().items():
        assert path.read_text() == text, f"{path.name} is out of date: run make schema"


def test_the_demo_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "demo.py"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "100 done" in done.stdout
    assert "each row sums to 1: True" in done.stdout
    assert "Parallel tokens receive " in done.stdout
    assert (tmp_path / "demo.zarr-report" / "report.json").exists()


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
    import re

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


def test_every_page_that_a_page_links_to_is_there():
    import re

    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
