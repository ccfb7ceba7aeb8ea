"""Writing one imported experiment into a cube: what the files say, and the few checks they allow."""

from typing import Any

import numpy as np

from .encoding import row_axis
from .legacy_arrays import Array
from .legacy_read import Legacy
from .schema import BLOCK, CHECKS, FAIL, NOT_APPLICABLE, PASS, RANKS
from .store import Task
from .visibility import existence
from .writing import CellWriter, Receipt

SUM = 5e-3  # how far a row of weights may be from 1: files hold half precision, or what was packed
OF_STEP = ("entropy", "threshold_used", "margin_kept", "margin_dropped", "margin_order")
NAN = float("nan")


def write(task: Task, legacy: Legacy) -> Receipt:
    """Write one experiment as a worker does; a check that fails fails the cell."""
    writer = task.writer()
    for name in writer.cube.data:
        values = _logits(writer, legacy) if name == "logits" else _attention(writer, legacy, name)
        axis = row_axis(writer.cube.data[name])
        for start in range(0, values.shape[axis], BLOCK):
            rows = range(start, min(start + BLOCK, values.shape[axis]))
            writer.write(name, values.take(rows, axis=axis), start)
    small = _of_log(writer, legacy) if legacy.ours else _of_files(writer, legacy)
    tokens = [*legacy.prompt, *(token for tokens in legacy.sets for token in tokens)]
    own = {"token": tokens, "slot_step": legacy.slot_step, "width": legacy.width, "worker": "imported"}
    return writer.finish(small | own | _checks(legacy, task.cell.mode))


def _attention(writer: CellWriter, legacy: Legacy, name: str) -> Array:
    """(layer, head, slot, slot): weights or their logs, NaN where the files have no row."""
    n = legacy.slot_step.size
    if legacy.attention is None:
        variable = writer.cube.data[name]
        captured, sizes = writer.cube.captured(variable), writer.cube.sizes
        first = [len(captured[dim]) if dim in captured else sizes[dim] for dim in ("layer", "head")]
        return np.full((*first, n, n), np.nan, dtype=np.float32)
    if name == "attention":
        return legacy.attention
    with np.errstate(divide="ignore"):  # a weight of 0 is hidden, or as good as
        return np.asarray(np.log(np.maximum(legacy.attention, 0)))


def _logits(writer: CellWriter, legacy: Legacy) -> Array:
    """(step, vocab)."""
    rows = np.full((legacy.width.size, writer.cube.sizes["vocab"]), np.nan, dtype=np.float32)
    if legacy.logits is not None:
        rows[: len(legacy.logits)] = legacy.logits[: len(rows)]
    return rows


def _of_log(writer: CellWriter, legacy: Legacy) -> dict[str, Any]:
    """The small variables that a log of ours has."""
    log, steps, ranks = legacy.log, legacy.log["steps"], writer.cube.sizes["rank"]
    prompt = len(log["prompt_tokens"])
    slots = {"probability": "probabilities", "prune_score": "prune_scores", "pruned_at": "pruned_at"}
    before = {"probability": NAN, "prune_score": NAN, "pruned_at": -1}
    found: dict[str, Any] = {
        name: [before[name]] * prompt + [_number(value) for step in steps for value in step[told]]
        for name, told in slots.items()
    }
    found["logical"] = [*log["prompt_logical"], *(position for step in steps for position in step["logical"])]
    found |= {name: [_number(step[name]) for step in steps] for name in OF_STEP}
    best = [(*step["best_tokens"], *[-1] * ranks)[:ranks] for step in steps]
    logs = [(*map(_number, step["best_logprobs"]), *[NAN] * ranks)[:ranks] for step in steps]
    return found | {
        "capped": [step["capped"] for step in steps],
        "top_token": best,
        "top_logprob": logs,
        "text": log["text"],
    }


def _number(value: Any) -> Any:
    return NAN if value is None else value


def _of_files(writer: CellWriter, legacy: Legacy) -> dict[str, Any]:
    """The small variables that follow from tokens and readouts."""
    step, prompt = legacy.slot_step, len(legacy.prompt)
    logical = np.where(step < 0, np.arange(step.size), prompt + step)
    words = ["|".join(f"#{token}" for token in tokens) for tokens in legacy.sets]
    found = {"logical": logical, "text": " ".join(words)}
    if legacy.logits is None:
        return found
    logits, ranks = _logits(writer, legacy).astype(np.float64), min(RANKS, writer.cube.sizes["rank"])
    there = ~np.isnan(logits[:, 0])
    token = np.array([token for tokens in legacy.sets for token in tokens])
    of = step[prompt:]
    picked = np.where(token >= 0, np.exp(logits[of, np.maximum(token, 0)]), np.nan)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :ranks]
    weights = np.exp(logits)
    each = np.where(weights > 0, weights * np.where(np.isneginf(logits), 0, logits), 0)
    return found | {
        "probability": np.r_[np.full(prompt, np.nan), picked],
        "entropy": np.where(there, -each.sum(axis=1), np.nan),
        "top_token": np.where(there[:, None], best, -1),
        "top_logprob": np.take_along_axis(logits, best, axis=1),
    }


def _checks(legacy: Legacy, mode: str) -> dict[str, Any]:
    """rows_sum, finite and width; what the others look at is in no file."""
    found: dict[str, tuple[bool, float]] = {}
    if legacy.attention is not None:
        there = existence(legacy.slot_step)
        rows = np.asarray(~np.isnan(legacy.attention).all(axis=-1))  # (layer, head, slot)
        off = float(np.abs(np.nansum(legacy.attention, axis=-1)[rows] - 1).max(initial=0))
        odd = ~(legacy.attention >= 0) & rows[..., None] & there
        found |= {"rows_sum": (off <= SUM, off), "finite": (not odd.any(), float(odd.sum()))}
    if mode == "single":
        widest = float(legacy.width.max())
        found["width"] = (widest == 1, widest)
    results = [(PASS if found[name][0] else FAIL) if name in found else NOT_APPLICABLE for name in CHECKS]
    return {
        "check_result": results,
        "check_value": [found[name][1] if name in found else NAN for name in CHECKS],
    }
