"""Does a grid fit its model, and the cube that is there."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput, CubeError, DamagedError
from .cube import Cube
from .grid import Grid
from .schema import ModelFacts, capacity

MOST_SLOTS = 1 << 20


def must_fit(grid: Grid, facts: ModelFacts, prompt_tokens: int) -> None:
    """Refuse by option what the model has not got."""
    have = {"layers": facts.layers, "heads": facts.heads, "neurons": facts.neurons}
    traits(grid)
    for option, kind, number in _named(grid):
        if number >= have[kind]:
            raise BadInput(f"{option}: the model has {kind} 0 to {have[kind] - 1}, got {number}")
    if (slots := capacity(grid, prompt_tokens)) > MOST_SLOTS:
        raise BadInput(
            f"the grid asks for up to {slots:.0f} slots an experiment, a cube has room for {MOST_SLOTS}"
        )
    if grid.max_slots is not None and grid.max_slots <= prompt_tokens:
        raise BadInput(
            f"max_slots: {grid.max_slots} slots do not hold the longest prompt, "
            f"{prompt_tokens} tokens, and one more"
        )


def must_agree(cube: Cube, grid: Grid, facts: ModelFacts) -> None:
    """An extension adds prompts, seeds, modes and values of axes; whatever else differs is listed."""
    if cube.asked_labels() != cube.labels:
        raise DamagedError(f"{cube.place}: its coordinates are damaged; 'tempo-stats verify' says more")
    there, here = _fixed(cube.grids[0]), _fixed(grid)
    there |= _prefixed("model", cube.facts.to_dict()) | _prefixed("trait", cube.attrs["traits"])
    here |= _prefixed("model", facts.to_dict()) | _prefixed("trait", traits(grid))
    there["model id"] = here["model id"]  # the same files are the same model, whatever they are called
    differences = [
        f"{name}: {there.get(name)!r} there, {here.get(name)!r} here"
        for name in there | here
        if there.get(name) != here.get(name)
    ]
    if differences:
        raise CubeError(
            f"{cube.place} cannot take this grid: {'; '.join(differences)}; "
            f"write it to another place, or overwrite the cube"
        )


def traits(grid: Grid) -> dict[str, str]:
    """SHA-256 of each trait's vector file: a vector is what it holds, wherever it lies."""
    found = {}
    for name, file in grid.capture.project:
        if not Path(file).is_file():
            raise BadInput(f"capture.project.{name}: {file}: no such file")
        found[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def _fixed(grid: Grid) -> dict[str, Any]:
    """What an extension must not change, less what is compared by its hash."""
    options = grid.invariants()
    return {
        name: options[name] for name in options if name != "model" and not name.startswith("capture.project")
    }


def _prefixed(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{kind} {name}": value for name, value in values.items()}


def _named(grid: Grid) -> Iterator[tuple[str, str, int]]:
    """Every layer, head and neuron that a grid names, with the option it stands in."""
    capture = grid.capture
    lists = [
        ("capture.internals", "layers", capture.internals),
        ("capture.neurons", "neurons", capture.neurons),
    ]
    if capture.attention:
        lists.append(("capture.attention.layers", "layers", capture.attention.layers))
        lists.append(("capture.attention.heads", "heads", capture.attention.heads))
    lists += [("prune.layers", "layers", prune.layers) for prune in grid.values("prune") if prune]
    for option, kind, numbers in lists:
        yield from ((option, kind, number) for number in (() if numbers == "all" else numbers))
    for target in (target for value in grid.values("ablate") for target in value):
        layer, *head = map(int, re.findall(r"\d+", target))
        yield "ablate", "layers", layer
        yield from (("ablate", "heads", number) for number in head)
