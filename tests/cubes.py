"""Small cubes for tests: made-up experiments whose values follow from the cell alone."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import obstore
import pytest

from tempocube.dataset.cube import Cube
from tempocube.dataset.encoding import row_axis
from tempocube.dataset.grid import Cell, Grid
from tempocube.dataset.schema import BLOCK, CHECKS, DONE, PASS, ModelFacts
from tempocube.dataset.store import Driver, Task
from tempocube.dataset.visibility import existence, visibility
from tempocube.dataset.writing import Receipt

PROMPT_TOKENS = 5

# A server that has imported everything, and has neither threads nor stores, forks what a test asks for.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["cubes", "tempocube.dataset.verify", "tempocube.dataset.reading"])


def facts(layers: int = 2, heads: int = 3, vocab: int = 50, **other: Any) -> ModelFacts:
    """A model that only exists in numbers."""
    sizes = {"kv_heads": 1, "head_dim": 4, "hidden": 12, "neurons": 24} | other
    return ModelFacts("made-up", "ab" * 32, layers, heads, vocab=vocab, **sizes)


def grid(count: int = 2, **options: Any) -> Grid:
    """A grid with so many prompts, two seeds and two modes, unless the options say otherwise."""
    texts = {"first": [f"prompt {i}" for i in range(count)]}
    return Grid.from_dict({"prompts": texts, "seeds": [1, 2], "max_tokens": 6} | options)


def experiment(cell: Cell, model: ModelFacts) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Index values, log weights and log-probabilities of a cell: any numbers, but always the same ones."""
    rng = np.random.default_rng(int(cell.key, 16))
    width = np.ones(cell.max_tokens, int) if cell.mode == "single" else rng.integers(1, 4, cell.max_tokens)
    steps = np.repeat(np.arange(cell.max_tokens), width)
    slot_step = np.concatenate([np.full(PROMPT_TOKENS, -1), steps])
    logical = np.concatenate([np.arange(PROMPT_TOKENS), PROMPT_TOKENS + steps])
    slots = len(slot_step)
    seen = visibility(cell.mode, logical, slot_step, np.full(slots, -1))
    score = np.where(seen, rng.normal(0, 3, (model.layers, model.heads, slots, slots)), -np.inf)
    logs = score - np.logaddexp.reduce(score, axis=-1, keepdims=True)
    logs = np.where(existence(slot_step), logs, np.nan).astype(np.float32)
    readout = rng.normal(0, 2, (cell.max_tokens, model.vocab))
    readout -= np.logaddexp.reduce(readout, axis=-1, keepdims=True)
    small = {
        "token": rng.integers(0, model.vocab, slots),
        "logical": logical,
        "slot_step": slot_step,
        "width": width,
        "probability": rng.random(slots),
        "check_result": [PASS] * len(CHECKS),
        "text": f"{cell.prompt} … {cell.seed}",
        "seconds": 0.5,
        "worker": str(os.getpid()),
    }
    return small, logs, readout.astype(np.float32)


def write(task: Task, model: ModelFacts) -> Receipt:
    """Capture one cell of the made-up model, as an engine would hand it over: block by block."""
    writer = task.writer()
    small, logs, readout = experiment(task.cell, model)
    for name, variable in writer.cube.data.items():
        if name in ("attention", "log_attention"):
            values = np.exp(logs) if name == "attention" else logs
        elif name == "logits":
            values = readout
        else:
            rows = {"slot": len(small["token"]), "step": len(small["width"])}
            shape = [rows.get(dim, writer.cube.sizes[dim]) for dim in variable.dims]
            values = np.random.default_rng(len(name)).normal(size=shape).astype(np.float32)
        for dim, chosen in writer.cube.captured(variable).items():
            values = values.take(chosen, axis=variable.dims.index(dim))
        axis = row_axis(variable)
        for start in range(0, values.shape[axis], BLOCK):
            writer.write(name, values.take(range(start, min(start + BLOCK, values.shape[axis])), axis), start)
    return writer.finish(small)


def fill(where: Any, asked: Grid, model: ModelFacts | None = None, **options: Any) -> Cube:
    """Drive a grid to its end in this process."""
    model = model or facts()
    with Driver(where, asked, model, PROMPT_TOKENS, **options) as run:
        for task in run.todo():
            write(task, model)
    return Cube.open(where)


def digests(where: Any) -> dict[str, str]:
    """Digest of every done cell, by name."""
    cube = Cube.open(where)
    values = cube.read("digest")
    return {cube.name(index): str(values[index]) for index in cube.cells(DONE)}


def environment() -> dict[str, str]:
    """What leads to the S3 server, for processes that tests start."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def hold(where: str, asked: Grid, ready: Any, environment: dict[str, str]) -> None:
    """A driver that holds a cube until it is killed."""
    os.environ.update(environment)
    with Driver(where, asked, facts(), PROMPT_TOKENS):
        ready.set()
        time.sleep(60)


def write_for_ever(tasks: Sequence[Task], model: ModelFacts, environment: dict[str, str]) -> None:
    """What a worker process of the crash tests does until it is killed."""
    os.environ.update(environment)
    while True:
        for task in tasks:
            write(task, model)


def drive(where: str, asked: Grid, environment: dict[str, str], calls: int, overwrite: bool = False) -> None:
    """A whole run in one process, killed right before the change to the store that comes after `calls`."""
    os.environ.update(environment)
    if calls >= 0:
        die_after(calls)
    fill(where, asked, overwrite=overwrite)


def die_after(calls: int) -> None:
    """Kill this very process, as -9 does, right after so many changes to any store or folder."""
    left = [calls]
    lock = threading.Lock()

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with lock:
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
            return change(*args, **kwargs)

        return wrapped

    for module, names in ((obstore, ("put", "put_async", "delete", "delete_async")), (os, ("rename",))):
        for name in names:
            setattr(module, name, counted(getattr(module, name)))


# Sink, recency, true ratio, and where the original's formula ends up: four planted cubes.
PLANTED_RATIOS = pytest.mark.parametrize(
    ("sink", "recency", "truth", "fooled"),
    [
        pytest.param(0.0, 0.0, 1.0, (0.98, 1.02), id="no sink, no recency"),
        pytest.param(0.5, 0.0, 1.0, (0.34, 0.37), id="sink"),
        pytest.param(0.5, 0.15, 1.0, (0.3, 0.7), id="sink and recency"),
        pytest.param(0.5, 0.15, 0.5, (0.3, 0.4), id="half, sink and recency"),
    ],
)
