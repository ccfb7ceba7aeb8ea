"""Cells captured a second time, alone and along the sets they took, and held against the cube."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import model as models  # first: it prepares the BLAS before MLX is there  # isort: skip

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..dataset.compare import codes_apart, values
from ..dataset.cube import Cube, Index
from ..dataset.encoding import encode
from ..dataset.schema import Variable
from ..dataset.verify import blocks
from . import engine, selftest
from .again import Difference, apart, divergence, larger
from .experiment import Track
from .wanted import Wanted

SEED = 2026  # of the sample: the same cells whenever a grid is asked
# How far two captures may be apart, packed and alone: in weights, and in log-probabilities. One code of log16
# is nothing. What half precision adds is a bound from its rounding.
LIMITS = {mx.float32: (5e-5, 1e-3), mx.float16: (5e-3, 0.2), mx.bfloat16: (3e-2, 0.5)}

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
    chosen = np.random.default_rng(SEED).permutation(len(cells))[
        :number
    ]  # a larger share has the smaller in it
    return [cells[i] for i in sorted(chosen)]


def compared(
    model: models.Model, cube: Cube, index: Index, alive: Callable[[], None] = lambda: None
) -> tuple[Found, engine.Work]:
    """Capture a done cell again and say how far the cube's arrays are from it."""
    row = cube.row(index)
    grid = cube.grids[0]
    wanted = Wanted.of(grid.capture, grid.storage, model.facts)
    kept, work = engine.again(model, cube.cell(index), Track.recorded(row), wanted, alive=alive)
    worst = {"attention": _Worst(), "logits": _Worst()}
    for name, variable in cube.data.items():
        if (kind := name.removeprefix("log_")) in worst:
            stored = blocks(cube, variable, index, len(row["token"]), len(row["width"]))
            for (_, first), again in zip(stored, kept.blocks(name), strict=True):
                worst[kind].see(first, _as_stored(again, first, variable), variable)
    found = Difference(worst["attention"].apart, worst["logits"].apart, worst["logits"].divergence)
    return Found(index, found, found.values("cross", row["check_value"]), _wrong(worst, model)), work


@dataclass
class _Worst:
    """The largest differences over the blocks of one array; NaN where there are none."""

    codes: float = math.nan
    apart: float = math.nan
    divergence: float = math.nan

    def see(self, one: Array, two: Array, variable: Variable) -> None:
        """Hold one stored block against another."""
        codes = float(codes_apart(one, two).max(initial=0)) if variable.codec else 0.0
        self.codes = larger(self.codes, codes)
        first, second = values(one, variable), values(two, variable)
        self.apart = larger(self.apart, apart(first, second))
        if variable.name == "logits":
            self.divergence = larger(self.divergence, divergence(first, second))


def _as_stored(block: npt.NDArray[np.float32], like: Array, variable: Variable) -> Array:
    """A block of the second capture as the cube would hold it: to the keys of the whole experiment."""
    if block.shape != like.shape:
        wide = np.full(like.shape, np.nan, np.float32)
        wide[tuple(slice(n) for n in block.shape)] = block
        block = wide
    return encode(block, variable.codec) if variable.codec else block


def _wrong(worst: dict[str, _Worst], model: models.Model) -> str:
    """What the two captures disagree on, in words."""
    kind, told = selftest.coarsest(model), []
    for (name, found), limit in zip(worst.items(), LIMITS[kind], strict=True):
        exact = kind == mx.float32
        if exact and 0 < found.codes <= 1:
            continue
        if found.apart > limit or (exact and found.codes > 1):
            of = f" ({found.codes:.0f} codes of log16)" if 1 < found.codes < math.inf else ""
            told.append(f"{name} by {found.apart:.2g}{of}")
    return f"cross-check: a second capture differs in {' and '.join(told)}" if told else ""
