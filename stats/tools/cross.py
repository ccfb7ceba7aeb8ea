"""How the tokens of one set attend to each other, beside what they give to the context before them."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from ...errors import BadInput
from ..view import View

__all__ = ["COLUMNS", "cross_parallel", "kinds", "must_have_attention"]

COLUMNS = (
    *("step", "width", "mean", "max", "variance"),
    *("prior", "sink", "prompt", "generated", "matched", "ratio"),
)
Weights = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


def cross_parallel(view: View, layer: int | None = None, head: int | None = None) -> pd.DataFrame:
    """One row a set of two or more: weight per sibling, and per key of the context before the set.

    mean, max, variance are of the weights on siblings, a token's own left out. prior is the mean over all
    visible keys of before, of which sink (key 0), prompt and generated are the parts; matched is that over
    keys one logical position before, the nearest there are; ratio = mean / matched.
    """
    must_have_attention(view)
    weights = view.attention(layer, head).astype(np.float64)
    return pd.DataFrame([_row(view, weights, step) for step in view.wide_steps], columns=list(COLUMNS))


def kinds(view: View, step: int) -> dict[str, Mask]:
    """(query, key) by what a key is to a query of this set: sink, prompt, generated, own, siblings."""
    queries = np.asarray(view.of_step(step))
    before = (view.slot_step < step)[None, :] & np.ones((len(queries), 1), dtype=bool)
    first = np.arange(view.slots)[None, :] == 0
    own = queries[:, None] == np.arange(view.slots)[None, :]
    return {
        "sink": before & first,
        "prompt": before & (view.slot_step < 0)[None, :] & ~first,
        "generated": before & (view.slot_step >= 0)[None, :] & ~first,
        "own": own,
        "siblings": (view.slot_step == step)[None, :] & ~own,
    }


def must_have_attention(view: View) -> None:
    """Refuse an experiment without weights."""
    if not view.has_attention:
        raise BadInput(
            f"{view.name}: attention was not captured; capture it with capture: {{attention: true}}"
        )


def _row(view: View, weights: Weights, step: int) -> dict[str, float]:
    queries = np.asarray(view.of_step(step))
    rows, of = weights[queries], kinds(view, step)
    near = view.logical[queries][:, None] - view.logical[None, :] == 1
    seen = view.visible[queries] & np.isfinite(rows)
    siblings = rows[of["siblings"] & np.isfinite(rows)]
    before = of["sink"] | of["prompt"] | of["generated"]
    found = {name: _mean(rows[of[name] & seen]) for name in ("sink", "prompt", "generated")}
    mean, matched = _mean(siblings), _mean(rows[before & ~of["sink"] & near & seen])
    return {
        "step": step,
        "width": len(queries),
        "mean": mean,
        "max": float(siblings.max()) if siblings.size else float("nan"),
        "variance": float(siblings.var()) if siblings.size else float("nan"),
        "prior": _mean(rows[before & seen]),
        **found,
        "matched": matched,
        "ratio": mean / matched if matched > 0 else float("nan"),
    }


def _mean(values: Weights) -> float:
    return float(values.mean()) if values.size else float("nan")
