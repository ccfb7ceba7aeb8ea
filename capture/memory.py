"""What a batch needs beside the model, told before it runs: a bound that a planner can work with."""

import math
from collections.abc import Sequence
from dataclasses import replace

from ..dataset.cell import Cell
from ..dataset.options import Curve
from ..dataset.schema import BLOCK, DATA, INTERNALS, ModelFacts
from .forest import MOST_PAIRS
from .pool import GROWTH
from .wanted import Wanted

FLOAT = 4
PADDED = 1.5  # rows of attention wait in arrays padded to the longest of their block
SPARE = 4 << 20  # numbers: what BLAS and the allocators keep for themselves


def slots(cell: Cell, prompt: int) -> int:
    """The most slots an experiment can come to after a prompt of so many tokens."""
    most = prompt + cell.max_tokens * _widest(cell)
    return most if cell.max_slots is None else min(most, cell.max_slots)


def needed(facts: ModelFacts, cells: Sequence[Cell], prompts: Sequence[int], wanted: Wanted) -> int:
    """Bytes that a batch of cells, whose prompts have so many tokens, takes at its fullest."""
    histories = {_history(cell): (cell, prompt) for cell, prompt in zip(cells, prompts, strict=True)}
    trees = {(cell.prompt, cell.ablate): prompt for cell, prompt in histories.values()}
    longest = max(slots(cell, prompt) for cell, prompt in histories.values())
    nodes = sum(trees.values()) + sum(slots(cell, prompt) - prompt for cell, prompt in histories.values())
    rows = max(
        sum(min(BLOCK, p) for p in trees.values()), sum(_widest(cell) for cell, _ in histories.values())
    )
    node = 2 * facts.kv_heads * facts.head_dim  # a key and a value
    pools = 3 * max(nodes, GROWTH) * facts.layers * node  # twice as large by growing, the old one beside it
    row = len(wanted.layers) * len(wanted.heads) * longest + _node(facts, wanted)
    waiting = PADDED * row * sum(min(BLOCK, slots(*each)) for each in histories.values())
    passing = 2 * PADDED * row * rows + rows * (8 * facts.hidden + 4 * facts.neurons)
    blocks = 5 * facts.heads * min(MOST_PAIRS, rows * longest) + node * len(histories) * longest
    logits = rows * facts.vocab * 6
    kept = sum(min(BLOCK, cell.max_tokens) for cell, _ in histories.values()) * facts.vocab * wanted.logits
    leaving = 3 * row * BLOCK
    return math.ceil(FLOAT * (SPARE + pools + waiting + passing + blocks + logits + kept + leaving))


def _widest(cell: Cell) -> int:
    threshold = cell.threshold.lowest if isinstance(cell.threshold, Curve) else cell.threshold
    # A set holds at most floor(1 / threshold) tokens; the sliver is for 1 / 0.1 and its like.
    return 1 if cell.mode == "single" else min(cell.max_width, int(1 / threshold + 1e-9))


def _history(cell: Cell) -> Cell:
    """Cells that cannot part count once: at temperature 0 a seed changes nothing."""
    return cell if cell.temperature else replace(cell, seed=0)


def _node(facts: ModelFacts, wanted: Wanted) -> int:
    """Numbers that are kept of every slot."""
    sizes = {
        "layer": facts.layers,
        "residual_layer": facts.layers + 1,
        "kv_head": facts.kv_heads,
        "head": facts.heads,
        "head_dim": facts.head_dim,
        "hidden": facts.hidden,
        "neuron": facts.neurons if wanted.neurons is None else len(wanted.neurons),
        "trait": 0 if wanted.vectors is None else wanted.vectors.shape[1],
        "slot": 1,
    }
    part = sizes | {"layer": len(wanted.internals)}
    return sum(
        math.prod((part if name in INTERNALS else sizes)[dim] for dim in DATA[name].dims)
        for name in wanted.nodes
    )
