"""What `tempo-stats show` shows: for each kind of look at an experiment its lines, and its JSON."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from textwrap import wrap
from typing import Any

import numpy as np

from ...dataset.reading import open_cube
from ...errors import BadInput
from ...words import how_many
from ..questions import number, plain
from ..view import View
from . import contrasts, layers, neurons, paths, pruning, tree
from .analyzer import AttentionAnalyzer
from .asked import origin
from .cross import cross_parallel
from .stored import inside
from .text import cut, label, table
from .visualizer import AttentionVisualizer

__all__ = ["SCREENS", "How", "Screen", "screen"]

DROPPED = 3  # tokens of each step that the tree shows though they were not taken
MANY = 10**9  # paths, from which their number is rounded
TREE_LINES = 24  # of the overview
CUT = "; intervals are cut where no value can be"


@dataclass(frozen=True, slots=True)
class How:
    """What of an experiment, and in how many columns; a step, layer or head of None is chosen or averaged."""

    step: int | None = None
    layer: int | None = None
    head: int | None = None
    width: int = 100
    encoding: str = "utf-8"


@dataclass(frozen=True, slots=True)
class Screen:
    """Lines for people, and the same as plain values."""

    lines: list[str]
    data: Any


def screen(of: View, what: str, how: How) -> Screen:
    """One look at an experiment."""
    made = SCREENS[what](of, how)
    return Screen([cut(line.rstrip(), how.width) for line in made.lines], plain(made.data))


def _overview(of: View, how: How) -> Screen:
    summary = {"experiment": of.name, "prompt": of.prompt_text, "text": of.rendered, "sets": of.steps}
    summary |= {"parallel_sets": len(of.wide_steps), "slots": of.slots}
    lines = [*_head(of, how), ""]
    drawn = tree.lines(tree.tree(of), how.width, how.encoding)
    lines += drawn[:TREE_LINES]
    if len(drawn) > TREE_LINES:
        lines.append(f"... {len(drawn) - TREE_LINES} more lines: --what tree")
    parts = {"tree": tree.to_dict(tree.tree(of))}
    if not of.wide_steps:
        lines += ["", "no set has more than one token: nothing is parallel here"]
    elif not of.has_attention:
        lines += ["", "attention was not captured"]
    else:
        first = replace(how, step=_step(of, how))
        for name, made in (("parallel", _parallel(of, first)), ("cross", _cross(of, first))):
            parts[name] = made.data
            lines += ["", *made.lines]
    return Screen(lines, summary | parts)


def _tree(of: View, how: How) -> Screen:
    found = tree.tree(of, DROPPED)
    return Screen(tree.lines(found, how.width, how.encoding), tree.to_dict(found) | {"d3": tree.d3(found)})


def _heatmap(of: View, how: How) -> Screen:
    weights = AttentionAnalyzer(of, layer=how.layer, head=how.head).weights
    slots = list(range(of.slots)) if how.step is None else of.of_step(how.step)
    rows = [of.labels[slot] for slot in slots]
    text = _visualizer(how).visualize_attention_matrix(weights[slots], rows, of.labels)
    where = "all slots" if how.step is None else f"the set of step {how.step}"
    data = {"source_tokens": rows, "target_tokens": of.labels, "matrix": weights[slots]}
    return Screen([f"attention from {where} (rows), {_part(of, how)}", *text.split("\n")], data)


def _parallel(of: View, how: How) -> Screen:
    found = AttentionAnalyzer(of, layer=how.layer, head=how.head).analyze_parallel_attention(_step(of, how))
    return Screen(_visualizer(how).visualize_parallel_attention(found).split("\n"), found)


def _cross(of: View, how: How) -> Screen:
    analyzer = AttentionAnalyzer(of, layer=how.layer, head=how.head)
    found = analyzer.analyze_cross_parallel_attention(_step(of, how))
    lines = _visualizer(how).visualize_cross_parallel(found).split("\n")
    if how.step is not None:
        return Screen(lines, found)
    every = cross_parallel(of, how.layer, how.head)
    data = {"first": found, "sets": every.to_dict("records")}
    return Screen([*lines, "", *table(every, how.width)] if len(every) > 1 else lines, data)


def _paths(of: View, how: How) -> Screen:
    found = paths.paths(of)
    count = (
        how_many(found.count, "path")
        if found.count < MANY
        else f"about 10^{math.log10(found.count):.0f} paths"
    )
    lines = [
        f"{count}, one token of each set; the best {len(found.best)} have {number(100 * found.told)} % of "
        "their probability"
    ]
    for each in found.best:
        text = label(each.text.strip(), encoding=how.encoding)
        lines.append(f"{number(100 * each.share):>8} %  {text}{' (pruned)' * each.pruned}")
    return Screen(lines, asdict(found))


def _pruning(of: View, how: How) -> Screen:
    found = pruning.pruning(of)
    lines = [
        found.rule,
        f"{found.pruned} of {how_many(found.judged, 'token')} judged were pruned",
        f"weight on them later: {_later(found)}",
        f"score against attention received after it was given: {_correlation(found.correlation)}",
        "",
        *table(
            found.table.drop(columns=["token", "pruned_at", "later_rows", "captured_rows"]),
            how.width,
            how.encoding,
        ),
    ]
    data = asdict(found) | {"table": found.table.to_dict("records")}
    return Screen(lines if len(found.table) else [found.rule, "no set has more than one token"], data)


def _later(found: pruning.Pruned) -> str:
    looked, there = (int(found.table[name].sum()) for name in ("captured_rows", "later_rows"))
    if not looked:
        return "not captured" if there else "no later row" if found.pruned else "-"
    told = "exactly 0" if found.holds else f"{number(found.hidden_weight)}, which must not be"
    return told if looked == there else f"{told}, in {looked} of {there} rows, the others were not captured"


def _correlation(r: float) -> str:
    return f"r = {number(r)}" if np.isfinite(r) else "too few tokens have both"


def _layers(of: View, how: How) -> Screen:
    own, rows = layers.shares(of), of.slot_step >= 0
    captured = int(np.isfinite(of.attention(of.layers[0])[rows]).any(axis=1).sum())
    what = "where the weight of generated tokens goes, by layer (prompt: but its first token, the sink)"
    lacking = f"of {captured} of {rows.sum()} rows of generated tokens; the others were not captured"
    lines = [what, *([lacking] if captured < rows.sum() else []), *table(own, how.width), ""]
    try:
        effects = layers.by_layer(_at(of))
    except BadInput as reason:
        return Screen([*lines, f"down-weighting by layer: {reason}"], {"shares": own.to_dict("records")})
    lines += ["down-weighting by layer, over prompts (log scale; ratio 1: none); Holm and BH over layers"]
    lines += table(effects.drop(columns=["t"]), how.width)
    return Screen(lines, {"shares": own.to_dict("records"), "effects": effects.to_dict("records")})


def _neurons(of: View, how: How) -> Screen:
    layer = inside(of, "mlp_act").layers[0] if how.layer is None else how.layer
    best, alike = neurons.top(of, layer), neurons.between_siblings(of, layer)
    lines = [
        f"layer {layer}: the neurons most active on generated tokens",
        *table(best, how.width, how.encoding),
    ]
    if len(alike):
        lines += ["", "how alike the activations of siblings are", *table(alike, how.width)]
    records = {"top": best.to_dict("records"), "siblings": alike.to_dict("records")}
    return Screen(lines, {"layer": layer} | records)


def _ablation(of: View, how: How) -> Screen:
    found = contrasts.ablations(_at(of, "ablate"))
    left = contrasts.contribution(of)
    lines = [
        f"each ablation against none, over prompts{_where(of, 'ablate')}{CUT}",
        *table(found.effects, how.width, how.encoding),
    ]
    if len(left):
        lines += ["", f"what {of.name} has left of it", *table(left, how.width, how.encoding)]
    data = {"effects": found.effects.to_dict("records"), "left": left.to_dict("records")}
    return Screen(lines, data)


def _single(of: View, how: How) -> Screen:
    found = contrasts.against_single(_at(of))
    lines = [f"each mode against standard generation (mode single), over prompts{_where(of)}{CUT}"]
    lines += table(found.effects, how.width, how.encoding)
    return Screen(lines, {"effects": found.effects.to_dict("records")})


SCREENS: Mapping[str, Callable[[View, How], Screen]] = {
    "overview": _overview,
    "tree": _tree,
    "heatmap": _heatmap,
    "parallel": _parallel,
    "cross": _cross,
    "paths": _paths,
    "pruning": _pruning,
    "layers": _layers,
    "neurons": _neurons,
    "ablation": _ablation,
    "single": _single,
}


def _visualizer(how: How) -> AttentionVisualizer:
    return AttentionVisualizer(how.width, how.encoding)


def _step(of: View, how: How) -> int:
    """The step that was asked for, else the first whose set is wide, else the first."""
    return how.step if how.step is not None else (*of.wide_steps, 0)[0]


def _head(of: View, how: How) -> list[str]:
    """What experiment it is, in a few lines."""
    most = int(np.max(of.width, initial=0))
    counts = f"{how_many(of.steps, 'set')}, {len(of.wide_steps)} of them parallel, at most {most} wide"
    text = label(of.rendered, encoding=how.encoding)
    return [
        f"{of.name}: {counts}; {how_many(of.slots, 'slot')}",
        *wrap(text, how.width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False),
        *([f"  this cube is {made}"] if (made := origin(of.cube)) else []),
    ]


def _part(of: View, how: How) -> str:
    layer = f"mean of {how_many(len(of.layers), 'layer')}" if how.layer is None else f"layer {how.layer}"
    head = f"mean of {how_many(len(of.heads), 'head')}" if how.head is None else f"head {how.head}"
    return f"{layer}, {head}"


def _at(of: View, but: str = "") -> Any:
    """All prompts, seeds and modes of the cube at the experiment's values of the swept axes."""
    axes = {dim: [value] for dim, value in _swept(of, but).items()}
    return open_cube(of.cube).sel(axes) if axes else of.cube


def _where(of: View, but: str = "") -> str:
    told = ", ".join(f"{dim}={value}" for dim, value in _swept(of, but).items())
    return f", at {told}" if told else ""


def _swept(of: View, but: str) -> dict[str, Any]:
    return {dim: of.place[dim] for dim in of.cube.grids[0].axes if dim != but}
