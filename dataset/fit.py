"""Does a grid fit a model: layers, heads and neurons that it names, and slots for its prompts."""

import re
from collections.abc import Iterator

from ..errors import BadInput
from .grid import Grid
from .schema import ModelFacts


def must_fit(grid: Grid, facts: ModelFacts, prompt_tokens: int) -> None:
    """Refuse by option what the model has not got."""
    have = {"layers": facts.layers, "heads": facts.heads, "neurons": facts.neurons}
    for option, kind, number in _named(grid):
        if number >= have[kind]:
            raise BadInput(f"{option}: the model has {kind} 0 to {have[kind] - 1}, got {number}")
    if grid.max_slots is not None and grid.max_slots <= prompt_tokens:
        raise BadInput(
            f"max_slots: {grid.max_slots} slots do not hold the longest prompt, "
            f"{prompt_tokens} tokens, and one more"
        )


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
