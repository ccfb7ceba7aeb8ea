"""AttentionAnalyzer of seeds/002: what the tokens of a set attend to, in one experiment of a cube."""

import json
import os
from pathlib import Path
from typing import Any, Self, TypedDict

import numpy as np

from ..questions import plain
from ..view import View, view
from .cross import cross_parallel, kinds, must_have_attention

__all__ = ["Attended", "AttentionAnalyzer", "Cross", "Isolation", "OfToken", "Parallel", "Summary"]

TOP = 5


class Attended(TypedDict):
    """One key that a token attends to."""

    slot: int
    label: str
    weight: float


class OfToken(TypedDict):
    """One token of a set: its share of weight by kind of key (None: row not captured), and the best keys."""

    slot: int
    token: int
    label: str
    probability: float
    shares: dict[str, float | None]
    top: list[Attended]


class Parallel(TypedDict):
    """What the tokens of a set attend to."""

    experiment: str
    step: int
    width: int
    logical: list[int]
    tokens: list[OfToken]


class Cross(TypedDict):
    """What the tokens of a set give each other: matrix[i][j] is from token i to token j."""

    experiment: str
    mode: str
    step: int
    width: int
    labels: list[str]
    matrix: list[list[float | None]]
    scores: dict[str, float | None]
    isolated: bool


class Isolation(TypedDict):
    """Weight between siblings over all layers and heads: on pairs that the mode hides, and on the others.

    rows are those of tokens that have siblings; holds is None where no captured row has a hidden one.
    """

    rows: int
    captured_rows: int
    hidden_pairs: int
    hidden_weight: float
    visible_pairs: int
    visible_mean: float | None
    holds: bool | None


class Summary(TypedDict):
    """How many sets there are, how many of them with two tokens or more, and the largest."""

    total_steps: int
    parallel_steps: int
    max_parallel_width: int
    mean_width: float
    slots: int


class AttentionAnalyzer:
    """The attention of one experiment, by step: means over layers and heads unless one is named."""

    def __init__(
        self,
        cube: Any,
        prompt: str | None = None,
        seed: int | None = None,
        mode: str | None = None,
        *,
        layer: int | None = None,
        head: int | None = None,
        **axes: Any,
    ) -> None:
        self.view = cube if isinstance(cube, View) else view(cube, prompt, seed, mode, **axes)
        must_have_attention(self.view)
        self.layer, self.head = layer, head
        self.weights = self.view.attention(layer, head)

    @classmethod
    def capture(cls, cube: Any, **of: Any) -> Self:
        """The analyzer of what a run captured: a cube, its path or URL, or a view of one experiment."""
        return cls(cube, **of)

    capture_attention = capture  # as seeds/002 calls it

    def analyze_parallel_attention(self, step: int, top: int = TOP) -> Parallel:
        """What each token of a set attends to: shares by kind of key, and the `top` keys, most first."""
        of = self.view
        slots = of.of_step(step)
        masks = kinds(of, step)
        return {
            "experiment": of.name,
            "step": step,
            "width": len(slots),
            "logical": sorted({int(position) for position in of.logical[slots]}),
            "tokens": [
                self._token(int(slot), {name: mask[i] for name, mask in masks.items()}, top)
                for i, slot in enumerate(slots)
            ],
        }

    def analyze_cross_parallel_attention(self, step: int) -> Cross:
        """What the tokens of a set give each other, beside what they give to the context before."""
        of = self.view
        slots = of.of_step(step)
        weights = self.weights[np.ix_(slots, slots)]
        among = weights[~np.eye(len(slots), dtype=bool) & np.isfinite(weights)]
        table = cross_parallel(of, self.layer, self.head)
        scores = table[table["step"] == step].drop(columns=["step", "width"]).to_dict("records")
        return {
            "experiment": of.name,
            "mode": of.mode,
            "step": step,
            "width": len(slots),
            "labels": [of.labels[slot] for slot in slots],
            "matrix": plain(weights.astype(np.float64)),
            "scores": plain(scores[0]) if scores else {},
            "isolated": bool(among.size and (among == 0).all()),
        }

    def verify_isolation(self) -> Isolation:
        """Whether hidden siblings got a weight of exactly 0, in every layer and head."""
        return isolation(self.view)

    def get_attention_summary(self) -> Summary:
        """Counts of the experiment."""
        width = np.asarray(self.view.width)
        return {
            "total_steps": self.view.steps,
            "parallel_steps": int((width >= 2).sum()),
            "max_parallel_width": int(width[width >= 2].max(initial=0)),
            "mean_width": float(width.mean()) if width.size else float("nan"),
            "slots": self.view.slots,
        }

    def export_to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write tokens, the (query, key) matrix (null: no such pair) and every wide set's analysis."""
        of, to = self.view, Path(path)
        wide = of.wide_steps
        told = {
            "experiment": of.name,
            "place": dict(of.place),
            "prompt_text": of.prompt_text,
            "text": of.rendered,
            "layer": self.layer,
            "head": self.head,
            "layers": of.layers,
            "heads": of.heads,
            "token": of.token,
            "labels": list(of.labels),
            "logical": of.logical,
            "slot_step": of.slot_step,
            "attention": self.weights,
            "summary": self.get_attention_summary(),
            "isolation": self.verify_isolation(),
            "parallel": [self.analyze_parallel_attention(step) for step in wide],
            "cross": [self.analyze_cross_parallel_attention(step) for step in wide],
        }
        to.write_text(json.dumps(plain(told), ensure_ascii=False), encoding="utf-8")
        return to

    def _token(self, slot: int, masks: dict[str, Any], top: int) -> OfToken:
        of, row = self.view, self.weights[slot].astype(np.float64)
        there = np.flatnonzero(np.isfinite(row) & (row > 0))
        best = there[np.argsort(-row[there], kind="stable")[:top]]
        captured = bool(np.isfinite(row).any())
        return {
            "slot": slot,
            "token": int(of.token[slot]),
            "label": of.labels[slot],
            "probability": float(of.probability[slot]),
            "shares": {
                name: float(np.nansum(row[mask])) if captured else None for name, mask in masks.items()
            },
            "top": [{"slot": int(i), "label": of.labels[i], "weight": float(row[i])} for i in best],
        }


def isolation(of: View) -> Isolation:
    """Weight between siblings of an experiment, over all its layers and heads."""
    must_have_attention(of)
    step = of.slot_step
    siblings = (step[:, None] == step[None, :]) & (step >= 0) & ~np.eye(of.slots, dtype=bool)
    weights, rows = of.cube_attention(), np.flatnonzero(siblings.any(axis=1))
    hidden = weights[..., siblings & ~of.visible]
    seen = weights[..., siblings & of.visible]
    hidden, seen = hidden[np.isfinite(hidden)], seen[np.isfinite(seen)]
    return {
        "rows": len(rows),
        # A token sees itself in every mode, so its own weight is there if its row is.
        "captured_rows": int(np.isfinite(weights[:, :, rows, rows]).any(axis=(0, 1)).sum()),
        "hidden_pairs": int(hidden.size),
        "hidden_weight": float(hidden.sum(dtype=np.float64)),
        "visible_pairs": int(seen.size),
        "visible_mean": float(seen.mean(dtype=np.float64)) if seen.size else None,
        "holds": bool((hidden == 0).all()) if hidden.size else None,
    }
