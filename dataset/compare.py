"""How far two captures are apart, array by array: as values, and against what packing and storage may do."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .encoding import HIDDEN, decode, encode
from .schema import Variable

__all__ = ["Apart", "apart", "codes_apart", "numbers_apart", "values"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.floating[Any]]

WEIGHTS = 1e-5  # float32 weights of the same content, packed in other company (DESIGN section 4)
CODES = 1  # log16 codes of the same content
NUMBERS = 1e-3  # any other number, relative to the largest there if that is above 1
UNDERFLOW = 1e-37  # what float32 may hold as 0


@dataclass(frozen=True, slots=True)
class Apart:
    """The largest difference, where it is, and whether all of them are such as packing makes.

    Infinite where only one has a value.
    """

    largest: float
    at: tuple[int, ...]
    same: bool


def apart(one: Array, two: Array, first: Variable, second: Variable) -> Apart:
    """Between blocks of the same shape as stored; attention counts as weights, logits as logs."""
    a, b = values(one, first), values(two, second)
    found = numbers_apart(a, b)
    codec = first.codec or second.codec
    if codec is None:
        limit = WEIGHTS if is_attention(first) else _limit(a)
        return Apart(found.largest, found.at, found.largest <= limit)
    same = codes_apart(_codes(one, first, codec), _codes(two, second, codec)) <= CODES
    if is_attention(first):  # where one is float32, a weight may be 0 in it and still visible in codes
        same |= (a < UNDERFLOW) & (b < UNDERFLOW)
    return Apart(found.largest, found.at, bool(same.all()))


def is_attention(variable: Variable) -> bool:
    """Whether it holds attention, in either form."""
    return variable.name in ("attention", "log_attention")


def numbers_apart(a: Floats, b: Floats) -> Apart:
    """Between any numbers; what is missing, or infinite, in both is no difference."""
    if not a.size:
        return Apart(0.0, (), True)
    with np.errstate(invalid="ignore"):
        off = np.abs(a - b)
    off = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.where(np.isnan(off), np.inf, off))
    where = np.unravel_index(int(off.argmax()), off.shape)
    largest = float(off[where])
    return Apart(largest, tuple(int(i) for i in where), largest <= _limit(a))


def _limit(values: Floats) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return NUMBERS * max(1.0, float(finite.max(initial=0.0)))


def values(block: Array, variable: Variable) -> Floats:
    """What is stored, as numbers: attention as weights, logits as logs."""
    if not variable.codec:
        return block
    return decode(block.astype(np.uint16, copy=False), variable.codec, logs=not is_attention(variable))


def _codes(block: Array, variable: Variable, codec: str) -> Array:
    if not variable.codec:
        with np.errstate(divide="ignore"):
            block = encode(np.log(block) if is_attention(variable) else block, codec)
    return block


def codes_apart(one: Array, two: Array) -> Floats:
    """How many codes of log16 apart, each; hidden and missing are the same only as themselves."""
    a, b = one.astype(np.int32), two.astype(np.int32)
    special = ((a >= HIDDEN) | (b >= HIDDEN)) & (a != b)
    return np.where(special, np.inf, np.abs(a - b))
