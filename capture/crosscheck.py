"""Cells captured a second time, alone and along the sets they took, and held against the cube."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import model as models  # first: it prepares the BLAS before MLX is there  # isort: skip

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..dataset.cube import Cube, Index
from ..dataset.encoding import HIDDEN, decode, encode, row_axis
from ..dataset.schema import Variable
from ..dataset.verify import blocks
from . import engine, selftest
from .again import Difference
from .experiment import Track
from .wanted import Wanted

SEED = 2026  # of the sample: the same cells whenever a grid is asked
# How far two captures may be apart, packed and alone: in weights, and in log-probabilities. One code of log16
# is nothing. What half precision adds is a bound from its rounding.
LIMITS = {mx.float32: (1e-5, 1e-3), mx.float16: (5e-3, 0.2), mx.bfloat16: (3e-2, 0.5)}

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Found:
    """One cell's second capture against its first."""

    index: Index
    apart: Difference
    check_value: npt.NDArray[np.float64]  # the cell's, with the differences in it
    wrong: str  # empty where they agree


def sample(cells: Sequence[Index], fraction: float) -> list[Index]:
    """That share of a grid's cells, at least one, the same ones every time."""
    if not cells or fraction <= 0:
        return []
    number = min(len(cells), math.ceil(fraction * len(cells)))
    chosen = np.random.default_rng(SEED).choice(len(cells), number, replace=False)
    return [cells[i] for i in sorted(chosen)]


def compared(
    model: models.Model, cube: Cube, index: Index, alive: Callable[[], None] = lambda: None
) -> tuple[Found, engine.Work]:
    """Capture a done cell again and say how far the cube's arrays are from it."""
    row = cube.row(index)
    grid = cube.grids[0]
    wanted = Wanted.of(grid.capture, grid.storage, model.facts)
    alive()
    kept, work = engine.again(model, cube.cell(index), Track.recorded(row), wanted)
    apart = {"attention": math.nan, "logits": math.nan}
    codes = dict(apart)
    divergence = math.nan
    for name, variable in cube.data.items():
        kind = {"log_attention": "attention", "attention": "attention", "logits": "logits"}.get(name)
        if kind is None:
            continue
        pairs = list(_pairs(cube, variable, index, row, kept.data[name]))
        codes[kind] = max((_codes_apart(*pair, variable) for pair in pairs), default=0.0)
        apart[kind] = max((_apart(*pair, variable) for pair in pairs), default=0.0)
        if kind == "logits":
            divergence = max((_divergence(*pair, variable) for pair in pairs), default=0.0)
    found = Difference(apart["attention"], apart["logits"], divergence)
    wrong = _wrong(found, codes, LIMITS[selftest.coarsest(model)], selftest.coarsest(model) == mx.float32)
    return Found(index, found, found.values("cross", row["check_value"]), wrong), work


def _pairs(
    cube: Cube, variable: Variable, index: Index, row: dict[str, Array], again: npt.NDArray[np.float32]
) -> "Sequence[tuple[Array, Array]]":
    """Block by block: what is stored, and what the second capture would have stored."""
    axis, length = row_axis(variable), len(row["token"])
    pairs: list[tuple[Array, Array]] = []
    for start, stored in blocks(cube, variable, index, length, len(row["width"])):
        part = again.take(range(start, start + stored.shape[axis]), axis=axis)
        pairs.append((stored, encode(part, variable.codec) if variable.codec else part))
    return pairs


def _codes_apart(one: Array, two: Array, variable: Variable) -> float:
    """The most codes between two blocks in log16 (infinite where other pairs are hidden); 0 in float32."""
    if not variable.codec:
        return 0.0
    first, second = one.astype(np.int32), two.astype(np.int32)
    special = (first >= HIDDEN) | (second >= HIDDEN)
    if (first[special] != second[special]).any():
        return math.inf
    return float(np.abs(first - second).max(initial=0))


def _apart(one: Array, two: Array, variable: Variable) -> float:
    """The largest difference of weights, or of log-probabilities."""
    first, second = _values(one, variable), _values(two, variable)
    if not np.array_equal(np.isnan(first), np.isnan(second)):
        return math.inf
    return float(np.nanmax(np.abs(first - second), initial=0.0))


def _divergence(one: Array, two: Array, variable: Variable) -> float:
    p, q = (_values(block, variable).astype(np.float64) for block in (one, two))
    return float((np.exp(p) * (p - q)).sum(axis=-1).max(initial=0.0))


def _values(block: Array, variable: Variable) -> npt.NDArray[np.float32]:
    if not variable.codec:
        return block.astype(np.float32)
    return decode(block.astype(np.uint16), variable.codec, logs=variable.name == "logits")


def _wrong(found: Difference, codes: dict[str, float], limits: tuple[float, float], exact: bool) -> str:
    """What the two captures disagree on, in words."""
    told = []
    for kind, apart, limit in zip(codes, (found.attention, found.logprob), limits, strict=True):
        packed = codes[kind] > 0
        if exact and packed and codes[kind] <= 1:
            continue
        if apart > limit or (exact and codes[kind] > 1):
            of = f" ({codes[kind]:.0f} codes of log16)" if 1 < codes[kind] < math.inf else ""
            told.append(f"{kind} by {apart:.2g}{of}")
    return f"cross-check: a second capture differs in {' and '.join(told)}" if told else ""
