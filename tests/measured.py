"""Simulated cubes to measure, and what is measured of them once more in a few lines of NumPy."""

from typing import Any

import numpy as np

from tempocube.dataset.reading import open_cube
from tempocube.dataset.simulated import Design, Effects

FIXED = Effects(prompt_sd=0, prompt_seed_sd=0, prompt_mode_sd=0, residual_sd=0)
SMALL = Design(categories=(2, 1), seeds=2, steps=8, prompt_tokens=4, layers=2, heads=3, vocab=32)
HALF = float(np.log(0.5))


def oracle(log_a: np.ndarray, step: np.ndarray, logical: np.ndarray, width: np.ndarray) -> float:
    """Delta of one experiment: log_a is (query, key), averaged over layers and heads."""
    parallel = (step >= 0) & (width[step] >= 2)
    keys = (step >= 0) & (step < step[:, None]) & np.isfinite(log_a)
    captured, blocks = np.isfinite(log_a).any(axis=1), []
    for q in range(len(step)):
        if len(set(parallel[keys[q]])) == 2:
            block = np.column_stack([logical[q] - logical, parallel, log_a[q]])[keys[q]]
            rows = (captured & (step == step[q])).sum()  # of its set, which counts once
            blocks.append((block - block.mean(axis=0)) / np.sqrt(rows))
    x = np.concatenate(blocks)
    return float(np.linalg.lstsq(x[:, :2], x[:, 2], rcond=None)[0][1])


def by_oracle(where: str, layers: Any = slice(None), heads: Any = slice(None)) -> list[float]:
    """Delta of every cell, in order."""
    ds, found = open_cube(where).load(), []
    for p, s, m in np.argwhere(ds.status.values == 1):
        cell = ds.isel(prompt=p, seed=s, mode=m)
        n, sets = int(cell.length), int((cell.width > 0).sum())
        logs = cell.log_attention.values[layers][:, heads][..., :n, :n]
        small = (cell[name].values for name in ("slot_step", "logical"))
        found.append(oracle(logs.mean(axis=(0, 1)), *(v[:n] for v in small), cell.width.values[:sets]))
    return found
