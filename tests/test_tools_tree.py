"""Trees, paths, prunings, layers, neurons and ablations: planted by hand, and captured from a tiny model."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from measured import FIXED
from runs import EVERYTHING, grid, tiny
from tempocube.capture.engine import capture
from tempocube.capture.wanted import Wanted
from tempocube.dataset.reading import open_cube
from tempocube.dataset.simulated import Design, cube
from tempocube.dataset.store import Driver
from tempocube.errors import BadInput
from tempocube.stats.tools import contrasts, layers, neurons
from tempocube.stats.tools.paths import paths
from tempocube.stats.tools.pruning import pruning
from tempocube.stats.tools.questions import ask
from tempocube.stats.tools.tree import d3, lines, to_dict, tree
from tempocube.stats.view import view, views
from test_tools import WORDS, planted


def pruned(leak: float = 0.0, score: float = 0.01) -> Any:
    """The third token of step 1 is hidden from step 3 on, and gets no more than `leak` then."""

    def change(cell, small, weights, readout):
        slots = len(small["token"])
        small["pruned_at"] = np.full(slots, -1)
        small["prune_score"] = np.full(slots, np.nan)
        small["prune_score"][5:8] = [0.3, 0.1, score]
        small["pruned_at"][7] = 3
        weights[..., 9:11, 7] = leak

    return change


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> str:
    return planted(tmp_path_factory.mktemp("plain") / "cube.zarr")


@pytest.fixture(scope="module")
def with_prunings(tmp_path_factory) -> str:
    where = tmp_path_factory.mktemp("pruned") / "cube.zarr"
    return planted(where, pruned(), prune={"threshold": 0.05}, modes=["visible"])


@pytest.fixture(scope="module")
def take(tmp_path_factory) -> Callable[..., str]:
    """Captures a grid with a tiny random model, into a cube."""
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny(folder)

    def taken(name: str, **options: Any) -> str:
        asked = grid(**{"modes": ["visible"], "max_tokens": 4, **options})
        longest = max(len(model.prompt_tokens(text)) for text in asked.prompt_texts)
        wanted = Wanted.of(asked.capture, asked.storage, model.facts)
        with Driver(folder / name, asked, model.facts, longest) as driver:
            tasks = driver.todo()
            capture(model, [task.cell for task in tasks], [task.writer() for task in tasks], wanted)
        return str(folder / name)

    return taken


@pytest.fixture(scope="module")
def captured(take) -> str:
    """A model with an MLP, a whole layer of heads, or a head taken out."""
    kept = {**EVERYTHING, "internals": [0, 1], "neurons": [0, 3, 5]}
    every_head = [f"L1H{head}" for head in range(4)]
    return take("ablated.zarr", ablate=[None, ["L0.mlp"], every_head, ["L1H0"]], capture=kept)


# --- the tree


def test_a_tree_has_as_many_nodes_as_the_widths_come_to_and_marks_what_was_dropped(plain):
    for seen in views(plain):
        found = tree(seen, dropped=2)
        assert len(found.nodes) == seen.width.sum()
        assert [len(nodes) for nodes in found.steps] == (seen.width + 2).tolist()
        for step, nodes in enumerate(found.steps):
            kept = [node.slot for node in nodes if node.kept]
            assert kept == seen.of_step(step)
            assert all(node.slot is None for node in nodes if not node.kept)


def test_a_pruned_node_says_from_when_on(with_prunings):
    found = tree(view(with_prunings))
    assert [node.slot for node in found.nodes if node.pruned_at is not None] == [7]
    (line,) = [line for line in lines(found) if "pruned" in line]
    assert line.endswith("pruned from step 3 on")
    assert WORDS[13] in line


def test_a_tree_as_text_looks_like_this_and_fits(plain):
    shown = lines(tree(view(plain)), width=60)
    assert shown[0] == "prompt 0"
    heads = [line[:9] for line in shown[1:]]
    assert heads == [
        "   0  ---",
        "   1  +--",
        "      +--",
        "      `--",
        "   2  ---",
        "   3  +--",
        "      `--",
    ]
    assert max(map(cell_len, shown)) <= 60


def test_the_json_of_a_tree_says_the_same_and_d3_has_every_node_once(with_prunings):
    seen = view(with_prunings)
    found = tree(seen, dropped=1)
    told = json.loads(json.dumps(to_dict(found)))
    assert told["nodes"] == seen.width.sum()
    assert [step["width"] for step in told["steps"]] == seen.width.tolist()
    assert told["steps"][1]["nodes"][2]["pruned_at"] == 3
    names, level = [], json.loads(json.dumps(d3(found)))
    assert level["name"] == seen.prompt_text
    while children := level.get("children"):
        names += [child["name"] for child in children]
        carriers = [child for child in children if "children" in child]
        assert len(carriers) == (1 if len(names) < len([n for s in found.steps for n in s]) else 0)
        level = carriers[0] if carriers else {}
    assert names == [node.label for nodes in found.steps for node in nodes]


# --- paths


def test_all_paths_are_told_in_order_and_their_shares_sum_to_1(plain):
    seen = view(plain)
    sets = [seen.of_step(step) for step in range(seen.steps)]
    every = {
        path: float(np.prod(seen.probability[list(path)], dtype=float)) for path in itertools.product(*sets)
    }
    total = sum(every.values())
    found = paths(seen, most=100)
    assert found.count == len(every) == 6
    assert found.told == pytest.approx(1, abs=1e-12)
    assert found.log_total == pytest.approx(np.log(total))
    assert [each.slots for each in found.best] == sorted(every, key=every.get, reverse=True)
    for each in found.best:
        assert each.share == pytest.approx(every[each.slots] / total)
        assert each.text == "".join(seen.labels[slot] for slot in each.slots)
    assert paths(seen, most=2).best == found.best[:2]


def test_the_best_of_more_paths_than_could_be_listed_are_found(tmp_path):
    where = planted(tmp_path / "c.zarr", widths=(3,) * 18, count=1, seeds=[1], modes=["visible"])
    seen = view(where)
    found = paths(seen, most=5)
    assert found.count == 3**18
    best = [max(seen.of_step(step), key=lambda slot: seen.probability[slot]) for step in range(seen.steps)]
    assert found.best[0].slots == tuple(best)
    shares = [each.share for each in found.best]
    assert shares == sorted(shares, reverse=True)
    assert len({each.slots for each in found.best}) == 5


def test_paths_may_leave_out_what_was_pruned(with_prunings):
    seen = view(with_prunings)
    assert (paths(seen).count, paths(seen, pruned=False).count) == (6, 4)
    assert {each.pruned for each in paths(seen).best} == {True, False}
    assert not any(7 in each.slots for each in paths(seen, pruned=False).best)


# --- pruning


def test_what_was_pruned_scored_below_the_bar_and_gets_exactly_nothing_later(with_prunings):
    found = pruning(view(with_prunings))
    assert (found.judged, found.pruned, found.holds, found.hidden_weight) == (3, 1, True, 0)
    row = found.table.set_index("slot").loc[7]
    assert (row["score"], row["bar"], row["kept"]) == (pytest.approx(0.01), 0.05, False)
    assert found.rule == "hidden where the attention received is below 0.05"
    assert np.isnan(row["received"])  # step 2 judged it, step 3 too, and then it was gone


def test_what_pruned_tokens_get_is_not_known_without_attention(tmp_path):
    options = {"prune": {"threshold": 0.05}, "modes": ["visible"], "capture": {"attention": False}}
    found = pruning(view(planted(tmp_path / "c.zarr", pruned(), **options)))
    assert (found.pruned, found.holds) == (1, None)
    assert np.isnan(found.hidden_weight)


def test_a_weight_on_a_pruned_token_is_found(tmp_path):
    options = {"prune": {"threshold": 0.05}, "modes": ["visible"]}
    found = pruning(view(planted(tmp_path / "c.zarr", pruned(leak=0.001), **options)))
    assert not found.holds
    assert found.hidden_weight == pytest.approx(0.001 * 2 * 3 * 2)  # rows, layers, heads


@pytest.mark.parametrize("relative", [False, True])
def test_what_a_real_run_pruned_is_explained_by_its_scores_and_gone(take, relative):
    """As q4 tells it, too."""
    prune = {"threshold": 0.9 if relative else 0.12, "relative": relative}
    where = take(f"pruned-{relative}.zarr", prune=prune, max_tokens=6)
    found = [pruning(seen) for seen in views(where)]
    assert sum(each.pruned for each in found) >= 3
    assert all(each.holds for each in found)
    asked = ask(where, "q4")
    assert asked.verdict == "pass"
    assert sum(row["pruned"] for row in asked.details) == sum(each.pruned for each in found)


# --- layers


def test_a_down_weighting_planted_in_one_layer_is_found_there_only(tmp_path):
    by_head = ((0.0, 0.0), (-0.7, -0.7), (0.0, 0.0))
    design = Design(categories=(3, 3), seeds=1, steps=12, layers=3, heads=2)
    where = cube(design, replace(FIXED, by_head=by_head), tmp_path / "c.zarr", seed=2).url
    found = layers.by_layer(where).set_index("layer")
    assert found["n"].tolist() == [6, 6, 6]
    assert found.loc[1, "p_holm"] < 0.01
    assert found.loc[1, "low"] < -0.7 < found.loc[1, "high"]
    assert (found.loc[[0, 2], "p_holm"] > 0.05).all()
    assert (found["p_holm"] >= found["p"]).all()
    assert (found["q"] <= found["p_holm"]).all()


def test_the_shares_of_every_layer_come_to_1(plain):
    found = layers.shares(view(plain, mode="visible"))
    assert found["layer"].tolist() == [0, 1, 2]
    assert found.drop(columns="layer").sum(axis=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_layers_of_too_few_prompts_and_several_values_are_refused(tmp_path):
    design = Design(categories=(1, 1), seeds=1, layers=1, heads=1)
    where = cube(design, FIXED, tmp_path / "c.zarr", threshold=[0.1, 0.05]).url
    with pytest.raises(BadInput, match="choose one value of threshold"):
        layers.by_layer(where)
    with pytest.raises(BadInput, match="3 are needed"):
        layers.by_layer(open_cube(where).sel(threshold=[0.1]))


# --- neurons


def test_neurons_are_tracked_by_their_own_numbers(captured):
    seen = view(captured, mode="visible")
    held = open_cube(captured).mlp_act.isel(prompt=0, seed=0, mode=0, ablate=0, layer=1).values
    found = neurons.track(seen, 1, [3, 5])
    assert len(found) == 2 * seen.slots
    for neuron, place in ((3, 1), (5, 2)):
        values = found.loc[found["neuron"] == neuron, "activation"].to_numpy()
        np.testing.assert_array_equal(values, held[: seen.slots, place].astype(float))
    best = neurons.top(seen, 1)
    assert sorted(best["neuron"]) == [0, 3, 5]
    assert best["mean"].is_monotonic_decreasing
    with pytest.raises(BadInput, match="neuron 4: not captured; there are 0, 3, 5"):
        neurons.track(seen, 1, [4])


def test_siblings_are_compared_neuron_by_neuron(captured):
    seen = next(each for each in views(captured) if each.wide_steps)
    found = neurons.between_siblings(seen, 0, most=1)
    assert found["step"].tolist() == seen.wide_steps
    assert found["cosine"].between(-1, 1).all()
    assert found["shared"].between(0, 1).all()


# --- ablations, and standard generation


def test_what_was_ablated_puts_out_nothing_and_what_was_not_does(captured):
    gone = contrasts.contribution(view(captured, ablate="L0.mlp"))
    assert gone["largest"].tolist() == [0]
    every = next(label for label in open_cube(captured).ablate.values if "+" in str(label))
    assert set(contrasts.contribution(view(captured, ablate=every))["largest"]) == {0}
    one = contrasts.contribution(view(captured, ablate="L1H0"))
    assert one["largest"].isna().all()
    assert "sum of a layer's heads" in one["reason"][0]


def test_an_ablation_is_compared_with_the_same_experiment_without(captured):
    found = contrasts.ablations(captured)
    assert set(found.pairs["ablate"]) == set(open_cube(captured).ablate.values) - {"none"}
    assert len(found.pairs) == 3 * 3  # prompts, ablations
    kl = found.effects[found.effects["measure"] == "kl"]
    assert (kl["n"] == 3).all()
    assert (kl["estimate"] > 0).all()
    assert kl["p"].isna().all()  # it cannot be negative: no test against 0
    assert found.effects.loc[found.effects["measure"] == "width", "p_holm"].notna().any()


def test_standard_generation_is_compared_by_its_path_width_and_entropy(plain, tmp_path):
    where = planted(tmp_path / "c.zarr", modes=["visible", "single"])
    found = contrasts.against_single(where)
    rows = found.effects.set_index("measure")
    assert rows.loc["same_tokens", "estimate"] == 1  # planted: the best token of each set
    assert rows.loc["prefix", "estimate"] == 4
    assert rows.loc["width", "estimate"] == pytest.approx((1 + 3 + 1 + 2) / 4 - 1)
    assert rows.loc["entropy", "estimate"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(BadInput, match="standard generation is mode single"):
        contrasts.against_single(plain)
    with pytest.raises(BadInput, match="has no ablation"):
        contrasts.ablations(plain)


def test_intervals_of_contrasts_end_where_values_do(tmp_path):
    def parted(cell, small, weights, readout):
        if cell.mode == "single" and cell.prompt != "prompt 2":
            small["token"][4 if cell.prompt == "prompt 0" else 7] = 50

    where = planted(tmp_path / "c.zarr", parted, modes=["visible", "single"], seeds=[1])
    rows = contrasts.against_single(where).effects.set_index("measure")
    assert rows.loc["prefix", ["low", "high"]].tolist() == [0, 4]  # of 4 steps
    assert rows.loc["same_tokens", "high"] == 1


def test_what_was_not_captured_is_said_not_guessed(tmp_path: Path):
    where = planted(tmp_path / "c.zarr", ablate=[None, ["L0.mlp"]], modes=["visible"])
    left = contrasts.contribution(view(where, ablate="L0.mlp"))
    assert np.isnan(left["largest"][0])
    assert left["reason"][0] == "the residual stream was not captured"
    with pytest.raises(BadInput, match="mlp_act was not captured; set capture"):
        neurons.top(view(where), 0)
