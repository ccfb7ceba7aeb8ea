"""Runs of the engine for tests, and what the independent oracle says of the same experiment."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from reference import Generated, Pass, Reference, Slots, generate, log_softmax, visible, windows
from tempocube.capture.engine import Work, capture
from tempocube.capture.model import Model, load
from tempocube.capture.rows import Kept
from tempocube.capture.wanted import Wanted
from tempocube.dataset.cell import Cell
from tempocube.dataset.grid import Grid
from tempocube.dataset.options import Prune, threshold_at
from tempocube.dataset.schema import CHECKS, INTERNALS
from tiny import checkpoint

PROMPTS = ["the cat sat on the mat", "lal", "and then the other cat came in at last, and sat there"]
EVERYTHING = {"keys_values": True, "residual": True}
NEAR = 1e-4  # a change of p' or of a pruning score that rounding might make
TOLERANCE = {"logits": 1e-4, "probability": 1e-4}
OTHERWISE = 1e-5

Results = dict[Cell, Kept]


def tiny(folder: Path, architecture: str = "llama", **changes: Any) -> Model:
    """A tiny random model, loaded from a checkpoint in a folder of its own name."""
    return load(str(checkpoint(folder / architecture, architecture, **changes)))


def grid(**options: Any) -> Grid:
    """A grid of short experiments, stored without loss."""
    own = {"prompts": {"a": PROMPTS}, "threshold": 0.08, "max_tokens": 5, "modes": ["isolated", "visible"]}
    exact = {"attention": "float32", "logits": "float32", "activations": "float32"}
    return Grid.from_dict({**own, "storage": exact, **options})


def run(model: Model, asked: Grid, cells: Sequence[Cell] | None = None) -> Results:
    """Every cell of a grid in one batch, kept in memory."""
    return worked(model, asked, cells)[0]


def worked(model: Model, asked: Grid, cells: Sequence[Cell] | None = None) -> tuple[Results, Work]:
    """The same, with what it took."""
    cells = asked.cells() if cells is None else cells
    sinks = [Kept() for _ in cells]
    work = capture(model, cells, sinks, Wanted.of(asked.capture, asked.storage, model.facts))
    return dict(zip(cells, sinks, strict=True)), work


def pick(results: Results, **asked: Any) -> Kept:
    """The one experiment whose cell has these values."""
    (found,) = [
        kept
        for cell, kept in results.items()
        if all(getattr(cell, name) == value for name, value in asked.items())
    ]
    return found


def sets_of(kept: Kept) -> list[list[int]]:
    """The tokens of each set."""
    token, step = kept.small["token"], kept.small["slot_step"]
    return [token[step == number].tolist() for number in range(len(kept.small["width"]))]


def members(kept: Kept, step: int) -> list[int]:
    """Slots of a set."""
    return [int(slot) for slot in np.flatnonzero(kept.small["slot_step"] == step)]


def check(kept: Kept, name: str) -> int:
    """What a treatment check came to."""
    return int(kept.small["check_result"][CHECKS.index(name)])


def ragged(results: Results) -> bool:
    """Whether sets taken in the same pass had different widths, some of them three or more."""
    widths = [kept.small["width"] for kept in results.values()]
    steps = min(map(len, widths))
    together = [{int(width[step]) for width in widths} for step in range(steps)]
    return sum(len(each) > 1 for each in together) > 1 and max(map(max, widths)) >= 3


def recomputed(reference: Reference, cell: Cell, kept: Kept) -> Pass:
    """A full forward pass by the oracle along the sets that were taken, as its definition sees."""
    small = kept.small
    steps = small["slot_step"].tolist()
    prompt = steps.count(-1)
    positions = [i if step < 0 else prompt + step for i, step in enumerate(steps)]
    sight = [
        visible(kept.applied_mode or cell.mode, steps, positions, small["pruned_at"].tolist(), window)
        for window in windows(reference.config)
    ]
    return reference.forward(small["token"].tolist(), positions, np.asarray(sight), cell.ablate)


def weights(kept: Kept) -> Any:
    """(layer, head, query, key): attention as float weights, 0 where there was no key."""
    data = kept.data
    stored = np.exp(data["log_attention"]) if "log_attention" in data else data["attention"]
    return np.nan_to_num(stored, nan=0.0)


def readouts(cell: Cell, kept: Kept, full: Pass) -> Any:
    """(step, vocab): log-probabilities that the oracle's logits give, read out over the survivors."""
    small, rows = kept.small, []
    own = log_softmax(full.logits)
    for step in range(len(small["width"])):
        last = np.flatnonzero(small["slot_step"] == step - 1)
        gone = (small["pruned_at"][last] >= 0) & (small["pruned_at"][last] <= step)
        last = last[~gone] if step else last[-1:]
        if cell.readout != "mixture" or not step:
            rows.append(own[last[0] if cell.readout == "top" else last[-1]])
            continue
        share = np.asarray(small["probability"])[last]
        rows.append(np.logaddexp.reduce(np.log(share / share.sum())[:, None] + own[last], axis=0))
    return np.asarray(rows)


def differences(folder: Path, cell: Cell, kept: Kept, internals: Sequence[int] = ()) -> dict[str, float]:
    """The largest difference between what was captured and the oracle, by variable.

    Streams and activations are held to their own size; `internals` are the layers whose insides were kept.
    """
    reference = Reference(folder)
    full = recomputed(reference, cell, kept)
    data = kept.data
    theirs = {"logits": readouts(cell, kept, full), "residual": full.residual}
    theirs |= {"after_attention": full.after_attention, "cached_key": full.keys, "cached_value": full.values}
    theirs |= {name: np.asarray(getattr(full, name))[list(internals)] for name in INTERNALS if internals}
    assert data.keys() <= theirs.keys() | {"attention", "log_attention"}
    if internals and not full.mlp_gate.shape[-1]:
        assert np.isnan(data["mlp_gate"]).all()  # an MLP without a gate
        del theirs["mlp_gate"]
    found = {"attention": float(np.abs(weights(kept) - full.attention).max())}
    found["probability"] = _off_probability(kept, theirs["logits"])
    for name in theirs.keys() & data.keys():
        scale = max(1.0, float(np.abs(theirs[name]).max())) if name != "logits" else 1.0
        found[name] = float(np.abs(data[name] - theirs[name]).max()) / scale
    return found


def _off_probability(kept: Kept, readout: Any) -> float:
    """How far stored probabilities are from those of the oracle's readouts."""
    step, token = kept.small["slot_step"], kept.small["token"]
    chosen = step >= 0
    theirs = np.exp(readout[step[chosen], token[chosen]])
    return float(np.abs(kept.small["probability"][chosen] - theirs).max(initial=0.0))


def agrees(folder: Path, results: Results, internals: Sequence[int] = ()) -> None:
    """Every experiment is what the oracle makes of its sets."""
    for cell, kept in results.items():
        for name, found in differences(folder, cell, kept, internals).items():
            assert found <= TOLERANCE.get(name, OTHERWISE), (cell, name, found)


def free(reference: Reference, model: Model, cell: Cell, leader: Generated | None = None) -> Generated:
    """The oracle's own experiment of a cell, from its prompt to its last set."""
    thresholds = [threshold_at(cell.threshold, step, cell.max_tokens) for step in range(cell.max_tokens)]
    return generate(
        reference,
        model.prompt_tokens(cell.prompt),
        cell.mode,
        thresholds,
        cell.max_tokens,
        cell.max_width,
        cell.readout,
        cell.temperature,
        cell.seed,
        cell.prompt,
        ablate=cell.ablate,
        clone=cell.control == "clone",
        end_tokens=model.end_tokens if cell.stop_at_eos else (),
        prune=pruner(cell.prune) if cell.prune and not leader else None,
        replay=leader,
    )


def pruner(prune: Prune) -> Callable[[Pass, Slots, int], list[int]]:
    """Retroactive pruning as its definition has it; a judgement within NEAR of its bar is an error."""

    def goes(state: Pass, slots: Slots, last: int) -> list[int]:
        layers = list(range(len(state.attention)) if prune.layers == "all" else prune.layers)
        weight = [rank + 1 if prune.weighting == "rising" else 1 for rank in range(len(layers))]
        rows = [slot for slot, step in enumerate(slots.steps) if step == last]
        given = [state.attention[layer][:, rows].mean(axis=(0, 1)) for layer in layers]
        score = np.average(given, axis=0, weights=weight)
        gone = []
        for earlier in range(last):
            alive = [i for i, step in enumerate(slots.steps) if step == earlier and slots.pruned_at[i] < 0]
            best = max(score[alive])
            bar = prune.threshold * (best if prune.relative else 1)
            gone += [i for i in alive if score[i] < min(bar, best)]
            assert len(alive) == 1 or min(abs(score[alive] - bar)) > NEAR, "a near tie: try another grid"
        return gone

    return goes


def takes_the_same_sets(theirs: Generated, kept: Kept) -> bool:
    """Compare set by set, to the first near tie; False if there was one."""
    for step, gap in enumerate(theirs.gaps):
        if gap < NEAR:
            return False
        assert sets_of(kept)[step] == theirs.sets[step]
        np.testing.assert_allclose(
            kept.small["probability"][members(kept, step)], theirs.probabilities[step], atol=NEAR
        )
    assert len(kept.small["width"]) == len(theirs.sets)
    np.testing.assert_array_equal(kept.small["pruned_at"], theirs.slots.pruned_at)
    return True


def dequantised(folder: Path, into: Path) -> Path:
    """A 4-bit checkpoint with its weights written out: each is scale x number + bias of its group."""
    config = json.loads((folder / "config.json").read_text())
    group = config.pop("quantization")["group_size"]
    stored = load_file(folder / "model.safetensors")
    plain = {name: value for name, value in stored.items() if not name.endswith((".scales", ".biases"))}
    for name in [name for name in plain if name.removesuffix("weight") + "scales" in stored]:
        at = name.removesuffix("weight")
        nibbles = plain[name][..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15
        numbers = nibbles.reshape(len(nibbles), -1, group).astype(np.float32)
        value = numbers * stored[at + "scales"][..., None] + stored[at + "biases"][..., None]
        plain[name] = value.reshape(len(nibbles), -1).astype(np.float32)
    into.mkdir()
    (into / "config.json").write_text(json.dumps(config))
    save_file(plain, into / "model.safetensors")
    return into
