"""The engine beside mlx-lm: it decodes like it, and the model that it borrows is given back as it was."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runs import EVERYTHING, Results, grid, run, sets_of, tiny
from tempocube.capture.engine import capture
from tempocube.capture.model import Model, load
from tempocube.capture.rows import Kept
from tempocube.capture.wanted import Wanted
from tempocube.dataset.grid import Grid

import mlx.core as mx  # isort: skip  (after the BLAS)
import mlx.nn as nn  # isort: skip
import mlx_lm  # isort: skip
from mlx_lm.generate import generate_step  # isort: skip

LONG = "".join(str(i * i % 10) for i in range(99))  # 100 tokens: more than one block


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny(tmp_path_factory.mktemp("models"))


def test_the_engine_can_be_imported_first() -> None:
    """Whatever is imported first, the fast BLAS is there before MLX."""
    command = [sys.executable, "-c", "import tempocube.capture.engine"]
    assert (
        "imported already" not in subprocess.run(command, check=True, capture_output=True, text=True).stderr
    )


# --- mlx-lm


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "gpt2", "embedded"])
def test_single_is_greedy_decoding_token_for_token(name: str, tmp_path: Path) -> None:
    loaded = load(name) if name == "embedded" else tiny(tmp_path, name)
    asked = grid(prompts={"a": ["the cat sat on the mat", "that one"]}, modes=["single"], max_tokens=24)
    plain = load(str(loaded.path)).net
    for cell, kept in run(loaded, asked).items():
        prompt = mx.array(loaded.prompt_tokens(cell.prompt))
        for net in (plain, loaded.net):  # one never tapped, one after it
            greedy = [int(token) for token, _ in generate_step(prompt, net, max_tokens=24)]
            assert [token for (token,) in sets_of(kept)] == greedy


def test_single_writes_what_mlx_lm_writes() -> None:
    loaded = load("embedded")
    (kept,) = run(loaded, grid(prompts={"a": ["Once upon a time"]}, modes=["single"], max_tokens=20)).values()
    text = mlx_lm.generate(loaded.net, loaded.tokenizer, "Once upon a time", max_tokens=20)
    assert kept.small["text"] == "Once upon a time" + text
    assert len(text) > 40


# --- the model is borrowed


def anatomy(model: Model) -> dict[str, Any]:
    """All that a tap might have changed of a model and of the modules it is made of."""
    parts = dict(model.net.named_modules())
    sources = {sys.modules[kind.__module__] for each in parts.values() for kind in type(each).__mro__}
    spaces = {module.__name__: vars(module) for module in {*sources, *model.attention_modules, mx.fast, nn}}
    found = {f"{space}.{name}": value for space, names in spaces.items() for name, value in names.items()}
    for path, part in parts.items():
        found |= {f"{path}.{name}": value for name, value in part.items()}
        found |= {f"{path}.{name} of its class": value for name, value in vars(type(part)).items()}
        found[path] = part
    return found


def unchanged(before: dict[str, Any], model: Model) -> bool:
    after = anatomy(model)
    return before.keys() == after.keys() and all(before[name] is after[name] for name in before)


def everything() -> Grid:
    """A grid that needs every way to look into a model and to change it."""
    capture = EVERYTHING | {"internals": [0, 1]}
    ablate = [[], ["L0H1", "L1.mlp"]]
    return grid(prompts={"a": [LONG, "lal"]}, capture=capture, ablate=ablate, prune={"threshold": 0.02})


class Stops(Kept):
    """A sink that cannot take a block, or the end."""

    def __init__(self, at: str, error: type[BaseException]) -> None:
        super().__init__()
        self.at, self.error = at, error

    def write(self, name: str, block: Any, start: int) -> None:
        if self.at == "a block":
            raise self.error("no room")

    def finish(self, small: Mapping[str, Any], *, applied_mode: str | None = None) -> None:
        raise self.error("no room")


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "gpt_neox"])
def test_nothing_of_the_tap_is_left_behind(name: str, tmp_path: Path) -> None:
    loaded = tiny(tmp_path, name)
    before = anatomy(loaded)
    run(loaded, everything())
    assert unchanged(before, loaded)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("at", ["a block", "the end"])
def test_an_exception_leaves_nothing_behind_either(at: str, error: type[BaseException], model: Model) -> None:
    asked = everything()
    expected = run(model, asked)
    before = anatomy(model)
    sinks = [Stops(at, error) for _ in asked.cells()]
    with pytest.raises(error, match="no room"):
        capture(model, asked.cells(), sinks, Wanted.of(asked.capture, asked.storage, model.facts))
    assert unchanged(before, model)
    same_bits(run(model, asked), expected)


def test_a_model_that_fails_in_a_pass_is_as_it_was(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [0]
    norm = nn.RMSNorm.__call__

    def fails(self: nn.RMSNorm, x: mx.array) -> mx.array:
        calls[0] += 1
        if calls[0] == 20:
            raise KeyboardInterrupt
        return norm(self, x)

    with monkeypatch.context() as patched:
        patched.setattr(nn.RMSNorm, "__call__", fails)
        before = anatomy(model)
        with pytest.raises(KeyboardInterrupt):
            run(model, everything())
        assert unchanged(before, model)
    assert calls[0] == 20
    same_bits(run(model, grid()), run(model, grid()))


def same_bits(one: Results, other: Results) -> None:
    for cell, kept in one.items():
        data, small = other[cell].data, other[cell].small
        assert kept.data.keys() == data.keys()
        for name, values in kept.data.items():
            np.testing.assert_array_equal(values, data[name])
        for name in small.keys() - {"seconds"}:
            np.testing.assert_array_equal(kept.small[name], small[name])


def test_what_ran_in_between_does_not_matter(model: Model) -> None:
    first = run(model, grid())
    run(model, everything())
    same_bits(run(model, grid()), first)
