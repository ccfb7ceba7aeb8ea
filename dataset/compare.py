"""How far two captures are apart, array by array: as values, and against what packing and storage may do."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .encoding import HIDDEN, decode, encode
from .schema import Variable

__all__ = ["Apart", "apart", "numbers_apart"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.int32]

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
    a, b = _values(one, first), _values(two, second)
    found = numbers_apart(a, b)
    codec = first.codec or second.codec
    if codec is None:
        limit = WEIGHTS if is_attention(first) else _limit(a)
        return Apart(found.largest, found.at, found.largest <= limit)
    same = _within_a_code(_codes(one, first, codec), _codes(two, second, codec))
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


def _values(block: Array, variable: Variable) -> Floats:
    if not variable.codec:
        return block
    return decode(block.astype(np.uint16, copy=False), variable.codec, logs=not is_attention(variable))


def _codes(block: Array, variable: Variable, codec: str) -> Codes:
    if not variable.codec:
        with np.errstate(divide="ignore"):
            block = encode(np.log(block) if is_attention(variable) else block, codec)
    return block.astype(np.int32)


def _within_a_code(one: Codes, two: Codes) -> npt.NDArray[np.bool_]:
    """Hidden and missing are the same only as themselves."""
    special = (one >= HIDDEN) | (two >= HIDDEN)
    return np.asarray(np.where(special, one == two, np.abs(one - two) <= CODES))
