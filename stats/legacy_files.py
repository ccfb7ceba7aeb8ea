"""What each of the original TEMPO's result files holds, made from one experiment.

Step i is the selection of set i. Its row of attention and its readout are those that came before the set was
fed; its positions are the slots that the set then took.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dataset.cell import Cell
from ..dataset.legacy_names import FORMAT
from . import divergence
from .questions import plain
from .view import View

Array = npt.NDArray[Any]
RESULTS = ("fail", "pass", "not applicable")
OF_STEP = ("entropy", "threshold_used", "margin_kept", "margin_dropped", "margin_order", "capped")
OVERLAPS = (1, 5, 10)
NAMED = ("prompt", "category", "seed", "mode")  # of a cell, told by its coordinates
FROM = {
    "top": "of the best token of the set before, which alone gave the readout",
    "last": "of the last token of the set before, which alone gave the readout",
    "mixture": "of the most probable token of the set before, which weighs most in the readout of all",
}


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """One experiment with its big arrays.

    attention: (layer, head, slot, slot), captured layers and heads only; logits: (step, vocab)
    log-probabilities; caches: (layer, kv_head, slot, head_dim) by name. None or empty: not captured.
    """

    name: str
    view: View
    attention: Array | None
    logits: Array | None
    caches: Mapping[str, Array]

    @property
    def place(self) -> dict[str, Any]:
        """Its coordinates, those of swept axes too; `prompt` is the text, as the original has it."""
        own = {"prompt": self.view.prompt_text, "prompt_id": self.view.place["prompt"]}
        control = {"control": self.cell.control} if self.cell.control else {}
        return own | {name: value for name, value in self.view.place.items() if name != "prompt"} | control

    @property
    def cell(self) -> Cell:
        """What was asked for."""
        return self.view.cube.cell(self.view.index)

    @property
    def ends(self) -> list[int]:
        """(step + 1,): slots before each set, and all of them."""
        prompt = self.view.prompt_slots
        return [prompt, *(prompt + int(n) for n in np.cumsum(self.view.width))]

    def sets(self) -> Iterator[tuple[int, slice]]:
        """Every step with the slots of its set."""
        return ((step, slice(*ends)) for step, ends in enumerate(pairwise(self.ends)))

    def source(self, step: int) -> int:
        """The slot whose row stands for the readout of a step: it came from there, or most of it did."""
        if step == 0:
            return max(0, self.ends[0] - 1)
        before = np.arange(self.ends[step - 1], self.ends[step])
        left = before[self.view.pruned_at[before] != step]  # hidden before it was read: no part of it
        if self.cell.readout == "last":
            return int(left[-1])
        weights = np.nan_to_num(self.view.probability[left])
        return int(left[0 if self.cell.readout == "top" else weights.argmax()])

    def source_row(self, step: int) -> Array | None:
        """(layer, head, slots before): its attention, if it was captured."""
        if self.attention is None:
            return None
        row = self.attention[:, :, self.source(step), : self.ends[step]]
        return row if row.size and not np.isnan(row).any() else None


def attention_steps(of: Captured) -> dict[str, Array]:
    """step_i_attention (layer, 1, head, 1, slots before): the row that stands for the readout of step i.

    It is that of `source`, and left out where it was not captured.
    """
    found: dict[str, Array] = {}
    for step, slots in of.sets():
        row = of.source_row(step)
        if row is not None:
            found[f"step_{step}_attention"] = row[:, None, :, None, :]
            found[f"step_{step}_query"] = np.array([of.source(step)])
            found |= _where(step, slots)
    return found


def sibling_rows(of: Captured) -> dict[str, Array]:
    """step_i_rows (layer, 1, head, width, slots so far): every token of set i; prompt_rows: of the prompt.

    A pair that did not exist is 0, as a causal mask leaves it.
    """
    found: dict[str, Array] = {}
    if of.attention is None:
        return found
    parts = {"prompt_rows": slice(0, of.ends[0])} | {f"step_{step}_rows": slots for step, slots in of.sets()}
    for name, slots in parts.items():
        rows = of.attention[:, :, slots, : slots.stop]
        if rows.size and not np.isnan(rows).all(axis=-1).any():
            found[name] = np.nan_to_num(rows)[:, None]
    return found


def logits_steps(of: Captured) -> dict[str, Array]:
    """step_i_logits (1, vocab): the readout of step i as log-probabilities."""
    found: dict[str, Array] = {}
    for step, slots in of.sets() if of.logits is not None else ():
        found |= {f"step_{step}_logits": np.asarray(of.logits)[step][None], **_where(step, slots)}
    return found


def cache_states(of: Captured) -> dict[str, Array]:
    """layer_l_key, layer_l_value (1, kv_head, slot, head_dim), and the slots before each step."""
    found: dict[str, Array] = {}
    for name, values in of.caches.items():
        kind = name.removeprefix("cached_")
        found |= {f"layer_{layer}_{kind}": part[None] for layer, part in enumerate(values)}
    return found | {"slots_before_step": np.array(of.ends[:-1])} if found else {}


def _where(step: int, slots: slice) -> dict[str, Array]:
    return {
        f"step_{step}_positions": np.arange(slots.start, slots.stop),
        f"step_{step}_logical": np.array(step),
    }


def parallel_sets(of: Captured) -> dict[str, Any]:
    """Sets of two or more: step, count, tokens, positions."""
    token = of.view.token
    sets = [
        {
            "step": step,
            "count": slots.stop - slots.start,
            "tokens": token[slots].tolist(),
            "positions": list(range(slots.start, slots.stop)),
        }
        for step, slots in of.sets()
        if slots.stop - slots.start > 1
    ]
    widest = max((each["count"] for each in sets), default=0)
    return {
        "parallel_sets": sets,
        "summary": {"total_parallel_steps": len(sets), "max_parallel_width": widest},
    }


def rope_positions(of: Captured) -> dict[str, int]:
    """Slot -> the position that RoPE applied to it, the prompt's too."""
    return {str(slot): int(position) for slot, position in enumerate(of.view.logical)}


def metadata(of: Captured) -> dict[str, Any]:
    """What the original loader opens first."""
    config = {"experiment_name": of.name, **of.place}
    config["isolate"] = of.place["mode"] == "isolated"
    sets = len(of.view.width)
    return plain_json({"config": config, "num_steps": sets, "total_tokens": int(of.view.width.sum())})


def generation_log(of: Captured, left_out: Mapping[str, str]) -> dict[str, Any]:
    """All the rest: tokens, texts, probabilities and selection of every set, options, model, checks."""
    view, start = of.view, of.ends[0]
    log = {
        "format": FORMAT,
        "tempocube": version("tempocube"),
        "experiment": of.name,
        **of.place,
        "parameters": {name: value for name, value in of.cell.to_dict().items() if name not in NAMED},
        "storage": view.cube.grids[0].to_dict()["storage"],
        "model": view.cube.facts.to_dict(),
        "layers": list(view.layers),
        "heads": list(view.heads),
        "attention_rows": f"step 0: of the last token of the prompt; later: {FROM[of.cell.readout]}",
        "text": view.rendered,
        "prompt_tokens": view.token[:start].tolist(),
        "prompt_texts": list(of.view.labels[:start]),
        "prompt_logical": view.logical[:start].tolist(),
        "steps": [_step(of, step, slots) for step, slots in of.sets()],
        "checks": {name: RESULTS[result] for name, result in view.checks.items()},
        "left_out": dict(left_out),
    }
    return plain_json(log)


def _step(of: Captured, step: int, slots: slice) -> dict[str, Any]:
    view = of.view
    offered = [token for token in view.top_token[step].tolist() if token >= 0]
    return {
        "step": step,
        "tokens": view.token[slots].tolist(),
        "texts": list(of.view.labels[slots]),
        "positions": list(range(slots.start, slots.stop)),
        "logical": view.logical[slots].tolist(),
        "probabilities": view.probability[slots].tolist(),
        "pruned_at": view.pruned_at[slots].tolist(),
        "prune_scores": view.prune_score[slots].tolist(),
        "attention_query": None if of.source_row(step) is None else of.source(step),
        "best_tokens": offered,
        "best_texts": [view.label_of(token) for token in offered],
        "best_logprobs": view.top_logprob[step][: len(offered)].tolist(),
        **{name: getattr(view, name)[step].item() for name in OF_STEP},
    }


def cross_parallel(of: Captured) -> dict[str, Any]:
    """Of each parallel set: weights from sibling to sibling, and from siblings to what was there before."""
    found = []
    for step, slots in of.sets():
        width = slots.stop - slots.start
        rows = of.attention[:, :, slots, : slots.stop] if of.attention is not None else np.empty(0)
        if width < 2 or not rows.size or np.isnan(rows).any():
            continue
        among = rows[..., slots.start :][:, :, ~np.eye(width, dtype=bool)].astype(np.float64)
        before = rows[..., : slots.start].astype(np.float64)
        found.append(
            {
                "step": step,
                "count": width,
                "cross_parallel_score": among.mean(),
                "cross_parallel_max": among.max(),
                "cross_parallel_variance": among.var(),
                "prior_context_score": before.mean(),
                "weight_on_siblings": among.sum(axis=-1).mean() / width,
                "cross_parallel_by_layer": among.mean(axis=(1, 2)).tolist(),
            }
        )
    return plain_json({"unit": "softmax weight, mean over layers, heads and pairs", "sets": found})


def kl_divergence(one: Captured, other: Captured, compared: int, first_difference: int) -> dict[str, Any]:
    """Readouts of two modes step by step, up to and including the first set that differs."""
    a, b = (divergence.normalised(np.asarray(of.logits)[:compared]) for of in (one, other))
    kl, cosine = divergence.kl(a, b), divergence.cosine(np.exp(a), np.exp(b))
    steps: list[dict[str, Any]] = [
        {"step": step, "kl": kl[step], "cosine": cosine[step]} for step in range(compared)
    ]
    for k in (k for k in OVERLAPS if k <= a.shape[1]):
        for step, overlap in zip(
            steps, divergence.jaccard(divergence.top(a, k), divergence.top(b, k)), strict=True
        ):
            step[f"top_{k}_jaccard"] = overlap
    modes = one.place["mode"], other.place["mode"]
    told = {
        **{name: value for name, value in one.place.items() if name != "mode"},
        "modes": list(modes),
        "direction": f"KL({modes[0]} || {modes[1]})",
        "unit": "nat",
        "first_difference": None if first_difference < 0 else first_difference,
        "compared": "up to and including the first set that differs: later readouts have other contexts",
        "steps": steps,
        "kl_mean": kl.mean(),
        "kl_max": kl.max(),
    }
    return plain_json(told)


def analysis(of: Captured) -> str:
    """One experiment in words."""
    width, wide = of.view.width, of.view.width[of.view.width > 1]
    lines = [
        of.name,
        *(f"{name}: {value}" for name, value in of.place.items()),
        f"{len(width)} sets, {len(wide)} of them parallel, the widest of {int(width.max(initial=0))} tokens",
        f"text: {of.view.rendered}",
        "",
    ]
    for step, slots in of.sets():
        words = " | ".join(f"{label!r}" for label in of.view.labels[slots])
        lines.append(f"step {step}, position {int(of.view.logical[slots.start])}: {words}")
    return "\n".join(lines) + "\n"


def analysis_of_pair(told: Mapping[str, Any]) -> str:
    """What kl_divergence.json says, in words."""
    first = told["first_difference"]
    sets = "the sets are the same" if first is None else f"the sets differ from step {first} on"
    one, other = told["modes"]
    control = f"control: {told['control']}\n" if "control" in told else ""
    return (
        f"prompt: {told['prompt']}\n{control}{one} and {other}: {sets}\n"
        f"{told['direction']} over {len(told['steps'])} steps: mean {told['kl_mean']:.3g} nat, "
        f"largest {told['kl_max']:.3g} nat\n"
    )


def plain_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them: what is not a finite number is null."""
    made: dict[str, Any] = plain(dict(values))
    return made
