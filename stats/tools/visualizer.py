"""AttentionVisualizer of seeds/002: attention as text that fits a terminal, and as data for other plots."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import BadInput
from .analyzer import Cross, OfToken, Parallel
from .text import bar, cut, heatmap, label

__all__ = ["AttentionVisualizer"]

KINDS = ("sink", "prompt", "generated", "own", "siblings")
WIDE = 12  # cells of a token in a table
SHARES = (
    "shares of weight: sink, the first token; prompt, the others of the prompt; generated, sets before; own; "
    "siblings, all together"
)


class AttentionVisualizer:
    """Text no wider than `width` cells, in characters that `encoding` has."""

    def __init__(self, width: int = 100, encoding: str = "utf-8") -> None:
        if width < 40:
            raise BadInput(f"width: at least 40 columns are needed, got {width}")
        self.width, self.encoding = width, encoding

    def visualize_attention_matrix(
        self,
        attention_matrix: npt.ArrayLike,
        source_tokens: Sequence[str],
        target_tokens: Sequence[str],
        height: int = 60,
    ) -> str:
        """A heatmap of (source, target) weights, a row a source token."""
        matrix = np.asarray(attention_matrix, dtype=np.float64)
        asked = len(source_tokens), len(target_tokens)
        if matrix.shape != asked:
            raise BadInput(
                f"attention_matrix: must be {asked} by its {asked[0]} source and {asked[1]} target tokens, "
                f"got {matrix.shape}"
            )
        return "\n".join(heatmap(matrix, source_tokens, target_tokens, self.width, height, self.encoding))

    def visualize_parallel_attention(self, result: Parallel) -> str:
        """Where the weight of each token of a set goes, and the keys that get most of it."""
        where = ", ".join(map(str, result["logical"]))
        head = f"step {result['step']}: {_tokens(result['width'])} at logical position {where}"
        return self._bounded(
            [head, *_legend(self.width), *(line for of in result["tokens"] for line in self._token(of))]
        )

    def visualize_cross_parallel(self, result: Cross) -> str:
        """What the tokens of a set give each other, as a table, beside what the context gets per token."""
        head = f"step {result['step']}, mode {result['mode']}: weight from each token (row) to each sibling"
        if result["width"] < 2:
            return self._bounded([f"step {result['step']}: one token, no sibling"])
        room = max(1, (self.width - WIDE - 2) // (WIDE + 1))
        names = [self._label(text, WIDE) for text in result["labels"]]
        lines = [head, " " * WIDE + "  " + " ".join(names[:room])]
        for name, row in zip(names, result["matrix"], strict=True):
            lines.append(f"{name}  " + " ".join(f"{_weight(value):{WIDE}}" for value in row[:room]))
        if len(names) > room:
            lines.append(f"... {len(names) - room} of {len(names)} columns not shown")
        return self._bounded([*lines, *_scores(result)])

    def export_attention_heatmap_data(
        self, source_json: str | os.PathLike[str], target_json: str | os.PathLike[str]
    ) -> Path:
        """From AttentionAnalyzer.export_to_json to a matrix with its tokens, whole and for each wide set."""
        data = _exported(Path(source_json))
        labels, matrix = data["labels"], data["attention"]
        sets = [
            {
                "step": each["step"],
                "source_tokens": [token["label"] for token in each["tokens"]],
                "target_tokens": labels,
                "matrix": [matrix[token["slot"]] for token in each["tokens"]],
            }
            for each in data["parallel"]
        ]
        whole = {"source_tokens": labels, "target_tokens": labels, "matrix": matrix, "steps": sets}
        to = Path(target_json)
        to.write_text(
            json.dumps({"experiment": data["experiment"], **whole}, ensure_ascii=False), encoding="utf-8"
        )
        return to

    def _token(self, of: OfToken) -> list[str]:
        share = of["shares"]
        shares = "  ".join(f"{name} {part:.3f}" for name in KINDS if (part := share[name]) is not None)
        told = shares or "row not captured"
        lines = [f"  {self._label(of['label'], WIDE)}  p {of['probability']:.3f}   {told}"]
        most = max((each["weight"] for each in of["top"]), default=0.0)
        for each in of["top"]:
            name = f"{self._label(each['label'], WIDE)} #{each['slot']:<4}"
            lines.append(f"      {each['weight']:.3f}  {name} {bar(each['weight'], most)}")
        return lines

    def _label(self, text: str, width: int) -> str:
        return label(text, width, self.encoding)

    def _bounded(self, lines: Iterable[str]) -> str:
        return "\n".join(cut(line.rstrip(), self.width) for line in lines)


def _legend(width: int) -> list[str]:
    return wrap(SHARES, width, initial_indent="  ", subsequent_indent="  ")


def _tokens(width: int) -> str:
    return "one token" if width == 1 else f"{width} parallel tokens"


def _weight(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.4f}"


def _scores(result: Cross) -> list[str]:
    of = result["scores"]
    names = {"sink": "sink", "prompt": "prompt but its first", "generated": "generated", "matched": "matched"}
    told = [f"{text} {_weight(of[name])}" for name, text in names.items()]
    mean = _weight(of["mean"])
    verdict = (
        "isolated: siblings get exactly 0" if result["isolated"] else f"each sibling gets {mean} on average"
    )
    lacking = any(value is None for row in result["matrix"] for value in row)
    return [
        verdict + ", in the rows that were captured" * lacking,
        f"per key of the context: {', '.join(told)}",
    ]


def _exported(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name in ("experiment", "labels", "attention", "parallel") if name not in data]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: not what AttentionAnalyzer.export_to_json writes ({error})") from error
    if missing:
        raise BadInput(f"{path}: not what AttentionAnalyzer.export_to_json writes: no {', '.join(missing)}")
    return data
