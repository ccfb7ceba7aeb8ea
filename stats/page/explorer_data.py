"""What the explorer embeds of an experiment: its sets as JSON, its attention as one byte a weight.

Code c stands for the weight exp(-c / 20), so 0 to 253 cover 1 to 3e-6 within 2.6 %; smaller weights get 253.
254: the key was hidden, the weight exactly 0. 255: no such row was captured.
"""

import base64
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...dataset.visibility import existence
from ...words import shown
from ..view import View

__all__ = [
    "BOUND",
    "CODES_PER_NAT",
    "LOWEST",
    "MEAN",
    "SHOWN",
    "codes",
    "embedded",
    "encoded",
    "label_text",
    "labels",
    "layers",
    "pairs",
    "record",
    "weights",
]

CODES_PER_NAT = 20
LEAST, HIDDEN, MISSING = 253, 254, 255
BOUND = float(np.expm1(0.5 / CODES_PER_NAT))  # largest relative error of a weight that is not under the least
SHOWN = (1 + BOUND) * 1.005 - 1  # the same of a number with three digits
LOWEST = float(np.exp(-(LEAST - 0.5) / CODES_PER_NAT))  # smaller ones are `under` some number
MOST_OTHERS = 4  # candidates of a step that were not taken
LONGEST = 40  # characters of a label

Map = tuple[int | None, int | None]  # layer and head; None: the mean over them
MEAN: Map = (None, None)
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Pairs = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]

SYMBOLS = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "⍽", "": "∅"}


def codes(weight: Floats, visible: npt.NDArray[np.bool_]) -> Bytes:
    """(..., query, key): one byte a weight; what is 0 although visible was merely too small."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rounded = np.clip(np.rint(-CODES_PER_NAT * np.log(weight)), 0, LEAST)
    rounded = np.where((weight == 0) & ~visible, HIDDEN, rounded)
    return np.where(np.isnan(weight), MISSING, rounded).astype(np.uint8)


def weights(code: Bytes) -> Floats:
    """What the browser makes of the bytes."""
    table = np.exp(-np.arange(256, dtype=np.float32) / CODES_PER_NAT)
    table[HIDDEN], table[MISSING] = 0, np.nan
    return np.asarray(table[code], dtype=np.float32)


def pairs(seen: View, first: int) -> Pairs:
    """(pair,), (pair,): queries from slot `first` on with the keys that existed for them, row by row."""
    query, key = np.nonzero(existence(seen.slot_step, slice(first, None)))
    return query + first, key


def encoded(seen: View, maps: Sequence[Map], first: int) -> str:
    """base64 of the maps, one after the other, over the pairs; one layer is in memory at a time."""
    query, key = pairs(seen, first)
    found = {of: code[query, key] for of, code in _coded(seen, set(maps)) if of in maps}
    return base64.b64encode(b"".join(found[of].tobytes() for of in maps)).decode()


def _coded(seen: View, wanted: set[Map]) -> Iterator[tuple[Map, Bytes]]:
    total = np.zeros((seen.slots, seen.slots))
    for layer, weight in layers(seen):
        mean = weight.mean(axis=0, dtype=np.float64)
        total += mean
        if (layer, None) in wanted:
            yield (layer, None), codes(mean.astype(np.float32), seen.visible)
        heads = [number for number, head in enumerate(seen.heads) if (layer, head) in wanted]
        for number, code in zip(heads, codes(weight[heads], seen.visible), strict=True):
            yield (layer, seen.heads[number]), code
    yield MEAN, codes((total / len(seen.layers)).astype(np.float32), seen.visible)


def layers(seen: View) -> Iterator[tuple[int, Floats]]:
    """The captured layers with their weights (head, query, key), one at a time."""
    return ((layer, seen.by_head(layer)) for layer in seen.layers)


def record(seen: View) -> dict[str, Any]:
    """An experiment as JSON takes it, without its attention."""
    others = [
        [[each.token, _rounded(each.probability)] for each in seen.candidates(step) if not each.kept]
        for step in range(seen.steps)
    ]
    return {
        "at": {dim: str(value) for dim, value in seen.place.items() if dim not in ("mode", "category")},
        "mode": seen.mode,
        "token": seen.token.tolist(),
        "logical": seen.logical.tolist(),
        "step": seen.slot_step.tolist(),
        "p": [_rounded(p) for p in seen.probability],
        "gone": seen.pruned_at.tolist(),
        "threshold": [_rounded(value) for value in seen.threshold_used],
        "entropy": [_rounded(value) for value in seen.entropy],
        "capped": seen.capped.astype(int).tolist(),
        "others": [of[:MOST_OTHERS] for of in others],
    }


def labels(seen: View, made: Mapping[str, Any]) -> dict[str, str]:
    """The text of every token of a record, by its number."""
    used = {*made["token"], *(token for of in made["others"] for token, _ in of)}
    return {str(token): label_text(seen.label_of(token)) for token in sorted(used)}


def label_text(text: str) -> str:
    """A token as one sees it: blanks and line ends as symbols, what a screen would obey is spelled."""
    cut = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    seen = "".join(SYMBOLS.get(c) or shown(c) for c in cut) or SYMBOLS[""]
    return "◌" + seen if unicodedata.combining(seen[0]) else seen


def embedded(value: Any) -> str:
    """JSON that no HTML parser can mistake for markup, whatever text is in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
