"""Folders as the original TEMPO left them, made from numbers alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np

PROMPT, WIDTHS, LAYERS, HEADS, VOCAB = 4, (1, 3, 1, 2), 2, 3, 40


def original(folder: Path, columns: str = "cache", weights: Any = None, **config: Any) -> dict[str, Any]:
    """Write one experiment, and give its arrays by name.

    columns: `cache` (one token a step was fed, and the prompt's last one twice), `sets` (all tokens of the
    sets), `whole` (the same, every row so far written again at every step).
    """
    folder.mkdir(parents=True)
    rng, attention, logits, sets = np.random.default_rng(0), {}, {}, []
    end = PROMPT
    full = rng.random((LAYERS, 1, HEADS, PROMPT + sum(WIDTHS), PROMPT + sum(WIDTHS)))
    for step, width in enumerate(WIDTHS):
        keys = PROMPT + 1 + step if columns == "cache" else end
        rows = full[..., :keys, :keys] if columns == "whole" else full[..., keys - 1 : keys, :keys]
        rows = np.tril(rows, keys - rows.shape[-2])
        where = {f"step_{step}_positions": np.arange(end, end + width), f"step_{step}_logical": step}
        attention |= {f"step_{step}_attention": (rows / rows.sum(-1, keepdims=True)).astype("f4"), **where}
        logits |= {f"step_{step}_logits": rng.normal(0, 2, (1, VOCAB)).astype("f4"), **where}
        if width > 1:
            best = np.argsort(-logits[f"step_{step}_logits"][0])[:width]
            slots = list(range(end, end + width))
            sets.append({"step": step, "count": width, "tokens": best.tolist(), "positions": slots})
        end += width
    attention |= weights or {}
    pickled = {"metadata": np.array([{"num_steps": len(WIDTHS)}], dtype=object)}  # as the original does
    np.savez_compressed(folder / "attention_weights.npz", **attention, **pickled)
    np.savez_compressed(folder / "logits_distributions.npz", **logits)
    told = {"parallel_sets": sets, "summary": {"total_parallel_steps": len(sets), "max_parallel_width": 3}}
    (folder / "parallel_sets.json").write_text(json.dumps(told))
    (folder / "rope_positions.json").write_text(json.dumps({str(PROMPT): 0}))
    (folder / "experiment_metadata.json").write_text(json.dumps({"config": config, "num_steps": len(WIDTHS)}))
    return attention | logits | {"sets": sets}
