"""What a grid will weigh: raw float32 bytes, and bytes as stored."""

import math
from dataclasses import dataclass

from .grid import Grid
from .schema import BLOCK, ModelFacts, capacity, captured, data_variables, sizes

# Stored bytes a raw byte, as `python benchmarks/storage.py` prints them (profiles seeds and long).
SHORT = {"log_attention": 0.23, "attention": 0.53, "packed logits": 0.46, "logits": 0.72}
LONG = {"log_attention": 0.19, "attention": 0.47, "packed logits": 0.49, "logits": 0.76}
ACTIVATIONS = 0.93  # float32 noise hardly compresses
INDEX_BYTES = 2_000  # receipt and row of the small arrays, a cell


@dataclass(frozen=True)
class Weight:
    """Bytes of one big array over all cells."""

    raw: int
    stored: int


def estimate(
    grid: Grid, facts: ModelFacts, prompt_tokens: int, mean_width: float | None = None
) -> dict[str, Weight]:
    """Bytes by variable if sets have so many tokens on average (None: as many as there is room for).

    Raw is what the same arrays would take in float32, all queries by all keys, without compression.
    """
    lengths = sizes(grid, facts, prompt_tokens)
    if mean_width is not None:
        slots = min(capacity(grid, prompt_tokens), prompt_tokens + round(mean_width * grid.max_sets))
        lengths |= {"slot": slots, "query": slots, "key": slots}
    measured = SHORT if lengths["slot"] <= BLOCK else LONG
    cells, weights = len(grid.cells()), {}
    for variable in data_variables(grid):
        asked = lengths | {dim: len(part) for dim, part in captured(grid, variable).items()}
        raw = cells * 4 * math.prod(asked[dim] for dim in variable.dims)
        kind = f"packed {variable.name}" if variable.codec == "logits" else variable.name
        kept = _rows_kept(grid, lengths, prompt_tokens) if variable.dims[-1] == "key" else 1.0
        weights[variable.name] = Weight(raw, round(raw * kept * measured.get(kind, ACTIVATIONS)))
    return weights | {"index": Weight(cells * INDEX_BYTES, cells * INDEX_BYTES)}


def _rows_kept(grid: Grid, lengths: dict[str, int], prompt_tokens: int) -> float:
    """Share of the rows of attention that are asked for."""
    queries = grid.capture.attention.queries if grid.capture.attention else "all"
    rows = {"generated": lengths["slot"] - prompt_tokens, "last": grid.max_sets + 1}
    return min(1.0, rows.get(queries, lengths["slot"]) / lengths["slot"])
