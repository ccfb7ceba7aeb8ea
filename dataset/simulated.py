"""Frames and whole cubes with known truth, for calibration, power and tests.

>>> values(Design(), SCENARIOS["A"], n=20_000, seed=1).shape
(20000, 10, 5, 2)
>>> made = cube(Design(), Effects(mean=math.log(0.5)), "half.zarr", seed=1)
>>> made.truth["downweighting"]          # what an estimator should find in open_cube("half.zarr")
"""

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..errors import BadInput
from .cube import Cube
from .encoding import row_axis
from .grid import Cell, Grid
from .options import threshold_at
from .place import Place
from .planted import Path, checks, log_attention, path, selection, shifted
from .scenarios import SCENARIOS, THRESHOLD, Design, Effects, frame, lost, matching, stream, values
from .schema import BLOCK, ModelFacts
from .store import Driver, Task
from .visibility import asked_rows
from .writing import CellWriter

__all__ = ["SCENARIOS", "Design", "Effects", "Simulated", "cube", "frame", "grid", "values"]

MODEL = "simulated"
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Simulated:
    """A simulated cube, and what is true of it.

    `truth` is the frame of its done cells: its downweighting is what attention in the cube was made with.
    """

    url: str
    design: Design
    effects: Effects
    truth: pd.DataFrame


def cube(
    design: Design,
    effects: Effects,
    where: str | os.PathLike[str] | Place,
    seed: int = 0,
    *,
    overwrite: bool = False,
    **options: Any,
) -> Simulated:
    """Write a real cube, at a path or URL, of experiments made from numbers alone; `options` go to the grid.

    Lost cells stay pending; those whose treatment failed are written and have failed. The same call again
    finishes what is missing; a cube of another truth is refused.
    """
    asked, model = grid(design, effects, **options), facts(design, effects, seed)
    there = None if overwrite else Cube.find(Place.at(where))
    if there and there.facts.sha256 != model.sha256:
        raise BadInput(
            f"{where}: the cube there has another design, other effects or another seed; overwrite it"
        )
    _must_be_possible(asked, design, effects)
    responses = values(design, effects, 1, seed)[0]
    gone = lost(design, effects, 1, seed)[0]
    with Driver(where, asked, model, design.prompt_tokens, overwrite=overwrite) as run:
        for task in run.todo():
            if not gone[task.index[:3]]:
                _write(task, design, effects, seed, float(responses[task.index[:3]]))
    truth = frame(design, effects, seed)
    truth["downweighting"] += float(np.mean(effects.by_head)) if effects.by_head else 0.0
    return Simulated(Place.at(where).url, design, effects, truth)


def grid(design: Design, effects: Effects, **options: Any) -> Grid:
    """The grid that a design would have been run from."""
    labels = design.labels
    prompts: dict[str, list[str]] = {}
    for name, category in zip(labels["prompt"], labels["category"], strict=True):
        prompts.setdefault(str(category), []).append(f"Simulated {category} {name}")
    own = {
        "model": MODEL,
        "prompts": prompts,
        "seeds": labels["seed"],
        "modes": labels["mode"],
        "max_tokens": design.steps,
        "max_width": design.max_width,
        "threshold": THRESHOLD,
        "temperature": 0.0 if effects.same_seeds else 0.7,
        "replay": design.leader
        if design.parting is None and len(set(design.modes) - {"single"}) > 1
        else None,
        "control": effects.control,
    }
    return Grid.from_dict(own | options, source="simulated")


def facts(design: Design, effects: Effects, seed: int) -> ModelFacts:
    """A model that exists in numbers only, and says so; its hash stands for all that is true of the cube."""
    width = 8 * design.heads
    shape = (design.layers, design.heads, design.heads, 8, width, 4 * width, design.vocab)
    return ModelFacts(
        MODEL, hashlib.sha256(f"{MODEL} {design} {effects} {seed}".encode()).hexdigest(), *shape
    )


def _must_be_possible(asked: Grid, design: Design, effects: Effects) -> None:
    capture, heads = asked.capture, (design.layers, design.heads)
    if capture.keys_values or capture.residual or capture.internals or capture.project:
        raise ValueError("attention and logits can be simulated, cached keys, residuals and internals cannot")
    if effects.by_head and np.shape(effects.by_head) != heads:
        raise ValueError(f"by_head: must have shape {heads} (layers, heads), got {np.shape(effects.by_head)}")


def _write(task: Task, design: Design, effects: Effects, seed: int, response: float) -> None:
    """Make one cell and write it, as a worker does."""
    index, cell = task.index, task.cell
    mode = _applied(design, effects, index)
    shape = path(design, effects, seed, index)
    same_mode = effects.same_modes or not shape.wide.any()
    # Copies get the very same random numbers.
    where = (index[0], 0 if effects.same_seeds else index[1], 0 if same_mode else index[2], *index[3:])
    rng = stream("attention", seed, *where)
    logs = log_attention(shape, shape.sees(mode), response, design, effects, rng)
    moved = 0.0 if same_mode or cell.mode == design.leader else effects.logit_sd
    readout = shifted(shape.readout, moved, stream("readout", seed, *where))
    checked = checks(shape, cell.mode, logs, effects)
    writer = task.writer()
    attention = writer.cube.grids[0].capture.attention
    logs[..., ~asked_rows(attention.queries if attention else "all", shape.slot_step), :] = np.nan
    for name in writer.cube.data:
        values = readout if name == "logits" else logs
        _send(writer, name, np.exp(values) if name == "attention" else values)
    applied = mode if cell.control == "no_mask" else None
    writer.finish(_small(shape, cell, readout) | checked, applied_mode=applied)


def _applied(design: Design, effects: Effects, index: tuple[int, ...]) -> str:
    """The mode whose mask is really applied; what is declared may be another."""
    mode = design.modes[index[2]]
    if mode != "single" and effects.same_modes:
        mode = design.leader
    if effects.control == "no_mask" and mode == "isolated":
        return "visible"
    if matching(design, effects.untreated)[index[:3]]:
        return "visible" if mode == "isolated" else "isolated"
    return mode


def _small(shape: Path, cell: Cell, readout: Array) -> dict[str, Any]:
    sets = shape.width.size
    threshold = np.array([threshold_at(cell.threshold, step, sets) for step in range(sets)])
    words = [f"w{token}" for token in shape.token]
    ends = np.cumsum(shape.width)
    said = ["|".join(words[end - width : end]) for end, width in zip(ends, shape.width, strict=True)]
    return {
        "token": np.r_[shape.prompt, shape.token],
        "logical": shape.logical,
        "slot_step": shape.slot_step,
        "width": shape.width,
        "text": " ".join([cell.prompt, *said]),
        "seconds": 1e-3 * shape.slot_step.size,
        "worker": MODEL,
        **selection(shape, readout, threshold, cell.mode, forced=cell.replay is not None),
    }


def _send(writer: CellWriter, name: str, values: Array) -> None:
    """One big array, block by block, as far as it was asked for."""
    variable = writer.cube.data[name]
    for dim, chosen in writer.cube.captured(variable).items():
        values = values.take(chosen, axis=variable.dims.index(dim))
    axis = row_axis(variable)
    for start in range(0, values.shape[axis], BLOCK):
        rows = range(start, min(start + BLOCK, values.shape[axis]))
        writer.write(name, values.take(rows, axis=axis).astype(np.float32), start)
