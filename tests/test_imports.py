"""The statistics do their work where MLX, distributed and what trains models cannot be imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tempocube.dataset.simulated import Design, Effects, cube

BLOCKED = ("mlx", "mlx_lm", "distributed", "torch", "transformers")
BLOCK = f"""
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
"""
WORK = """
import tempocube.stats
from tempocube.stats import answer, measures, mixed

where = sys.argv[1]
frame = measures.experiments(where)
report = answer(frame).to_dict()
fitted = mixed.fit(frame, "downweighting ~ mode", random=["1|prompt"])
loaded = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps([len(frame), sorted(report), sorted(fitted.components), loaded]))
"""


def blocked(code: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """The code in a new interpreter that refuses these imports."""
    run = [sys.executable, "-c", BLOCK + code, *words]
    return subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)


def test_measures_answers_and_mixed_models_work_where_mlx_and_distributed_cannot(tmp_path: Path) -> None:
    design = Design(categories=(2, 2, 2), seeds=2, steps=8, layers=2, heads=2)
    where = cube(design, Effects(), tmp_path / "cube.zarr", 1).url
    done = blocked(WORK, where)
    assert done.returncode == 0, done.stderr
    rows, report, components, loaded = json.loads(done.stdout)
    assert rows == 24
    assert {"answers", "gate"} <= set(report)
    assert components == ["Residual", "prompt"]
    assert not set(BLOCKED) & set(loaded)


@pytest.mark.parametrize("name", BLOCKED)
def test_the_blocked_interpreter_blocks(name: str) -> None:
    done = blocked(f"import {name}")
    assert done.returncode == 1
    assert f"{name} is blocked" in done.stderr
