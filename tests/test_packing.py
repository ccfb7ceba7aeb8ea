"""Many experiments in one pass: the same as each alone, no more work than their shared histories need."""

import random
from typing import Any

import numpy as np
import pytest

from runs import Results, grid, members, pick, ragged, run, sets_of, tiny, weights, worked
from tempocube.capture.engine import capture
from tempocube.capture.experiment import Track
from tempocube.capture.model import Model
from tempocube.capture.rows import Kept
from tempocube.capture.select import Choice
from tempocube.capture.wanted import Wanted
from tempocube.dataset.cell import Cell
from tempocube.dataset.grid import Grid

TIE = 1e-5  # margins of p' below this are near ties
COMPANY = 1e-5  # what company may change
LONG = "".join(str(i * i % 10) for i in range(69))  # 70 tokens: more than one block
MIXED: dict[str, Any] = {
    "prompts": {"a": ["the cat sat on the mat", "lal", "that one came in", "ene and then", LONG]},
    "modes": ["isolated", "causal", "visible"],
    "temperature": [0.0, 0.7],
    "readout": ["mixture", "top"],
    "max_tokens": 4,
}
EXACT: dict[str, Any] = {"storage": {"attention": "float32", "logits": "float32", "activations": "float32"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def packed(model: Model) -> Results:
    """Sixty experiments in one batch."""
    results = run(model, grid(**MIXED))
    assert len(results) == 60
    return results


def alike(one: Kept, other: Kept) -> None:
    """The same sets, or other ones after a near tie that the margins tell of; and the same numbers."""
    tie = first_tie(one)
    assert tie == first_tie(other)
    if tie is None:
        for name in ("token", "slot_step", "logical", "pruned_at", "width", "capped"):
            assert one.small[name].tolist() == other.small[name].tolist()
        assert np.abs(weights(one) - weights(other)).max() <= COMPANY
        assert np.abs(one.data["logits"] - other.data["logits"]).max() <= 10 * COMPANY
        for name in ("probability", "margin_kept", "margin_dropped", "margin_order", "entropy"):
            np.testing.assert_allclose(one.small[name], other.small[name], atol=COMPANY)
    else:
        assert sets_of(one)[:tie] == sets_of(other)[:tie]


def first_tie(kept: Kept) -> int | None:
    margins = [kept.small[f"margin_{name}"] for name in ("kept", "dropped", "order")]
    near = np.flatnonzero(np.nanmin(margins, axis=0) < TIE)
    return int(near[0]) if near.size else None


# --- packed and alone


@pytest.mark.parametrize("size", [1, 2, 7])
def test_batches_of_any_size_give_the_same(size: int, model: Model, packed: Results) -> None:
    cells = list(packed)
    random.Random(size).shuffle(cells)  # so that all kinds of company meet
    for start in range(0, len(cells), size):
        for cell, kept in run(model, grid(**MIXED), cells[start : start + size]).items():
            alike(kept, packed[cell])


def test_a_hundred_in_one_batch_are_the_same_as_each_alone(model: Model) -> None:
    asked = Grid.from_dict(Grid.load("seeds100-sampled").to_dict() | EXACT | {"max_tokens": 4})
    hundred = run(model, asked)
    assert len(hundred) == 100
    assert ragged(hundred)
    alone = random.Random(100).sample([*hundred], 12)
    for cell in alone:
        alike(run(model, asked, [cell])[cell], hundred[cell])
    assert sum(first_tie(hundred[cell]) is None for cell in alone) >= 10


def test_few_of_these_experiments_are_near_ties(packed: Results) -> None:
    assert sum(first_tie(kept) is not None for kept in packed.values()) < 6


def test_the_order_of_a_batch_does_not_matter(model: Model, packed: Results) -> None:
    cells = list(packed)
    random.Random(0).shuffle(cells)
    for cell, kept in run(model, grid(**MIXED), cells).items():
        alike(kept, packed[cell])


def test_other_company_changes_nothing(model: Model, packed: Results) -> None:
    cells = list(packed)
    mine, half = cells[7], len(cells) // 2
    for company in (cells[:5], cells[half:], cells[1::3]):
        batch = [mine, *(cell for cell in company if cell != mine)]
        alike(run(model, grid(**MIXED), batch)[mine], packed[mine])


def test_the_same_batch_gives_the_same_bits(model: Model, packed: Results) -> None:
    for cell, kept in run(model, grid(**MIXED)).items():
        for name, values in packed[cell].data.items():
            np.testing.assert_array_equal(kept.data[name], values)


def test_a_cell_may_be_in_a_batch_twice(model: Model) -> None:
    asked = grid(modes=["visible"])
    (cell,) = asked.cells()[:1]
    sinks = [Kept(), Kept()]
    wanted = Wanted.of(asked.capture, asked.storage, model.facts)
    once = capture(model, [cell], [Kept()], wanted)
    twice = capture(model, [cell, cell], sinks, wanted)
    assert twice.nodes == once.nodes
    np.testing.assert_array_equal(sinks[0].data["attention"], sinks[1].data["attention"])


# --- work


def naive(model: Model, results: Results) -> int:
    """Nodes if nothing were shared."""
    return sum(kept.small["token"].size for kept in results.values())


def test_five_seeds_cost_what_one_costs_at_temperature_0(model: Model) -> None:
    one, work = worked(model, grid(seeds=[1]))
    five, same = worked(model, grid(seeds=[1, 2, 3, 4, 5]))
    assert (same.passes, same.nodes) == (work.passes, work.nodes)
    assert naive(model, five) == 5 * naive(model, one) > 5 * work.nodes
    _, noisy = worked(model, grid(seeds=[1, 2, 3, 4, 5], temperature=0.7))
    assert noisy.nodes > 2 * work.nodes


def test_a_run_of_one_feeds_its_prompt_and_each_set_once(model: Model) -> None:
    for mode in ("isolated", "causal", "visible", "single"):
        results, work = worked(model, grid(prompts={"a": ["the cat"]}, modes=[mode]))
        assert work.nodes == naive(model, results)
        assert work.passes == 1 + 5


def test_a_long_prompt_takes_a_pass_for_each_block_of_64_rows(model: Model) -> None:
    prompts = {"a": [LONG, LONG[:40], LONG * 2]}  # 70, 41 and 139 tokens
    results, work = worked(model, grid(prompts=prompts, modes=["single"]))
    assert work.passes == 3 + 5
    assert work.nodes == naive(model, results) == 70 + 41 + 139 + 3 * 5


def test_modes_share_everything_up_to_the_first_wide_set(model: Model) -> None:
    options: dict[str, Any] = {
        "prompts": {"a": ["lal"]},
        "threshold": {"start": 0.6, "end": 0.05},
    }
    results, work = worked(model, grid(modes=["isolated", "visible"], max_tokens=8, **options))
    (narrow,) = {int(np.argmax(kept.small["width"] > 1)) for kept in results.values()}
    assert narrow > 2
    prompt = len(model.prompt_tokens("lal"))
    parted = sum(int(kept.small["width"][narrow:].sum()) for kept in results.values())
    assert work.nodes == prompt + narrow + parted < naive(model, results)


def test_ablations_share_nothing_and_readouts_all_until_their_sets_differ(model: Model) -> None:
    results, work = worked(model, grid(modes=["visible"], ablate=[[], ["L0H0"]]))
    assert work.nodes == naive(model, results)
    readouts, work = worked(model, grid(modes=["visible"], readout=["mixture", "top"]))
    expected = 0
    for prompt in {cell.prompt for cell in readouts}:
        one, two = (sets_of(pick(readouts, prompt=prompt, readout=kind)) for kind in ("mixture", "top"))
        same = next((i for i in range(5) if one[i] != two[i]), 5)
        expected += len(model.prompt_tokens(prompt)) + sum(map(len, one[:same]))
        expected += sum(map(len, [*one[same:], *two[same:]]))
    assert work.nodes == expected < naive(model, readouts)


def test_passes_are_those_of_the_longest_experiment(model: Model) -> None:
    _, work = worked(model, grid(max_tokens=[2, 7], modes=["isolated", "visible", "single"]))
    assert work.passes == 1 + 7


# --- siblings


def along(model: Model, mode: str, sets: list[list[int]]) -> Kept:
    """A cell forced along sets of our own."""
    lead = "visible" if mode == "isolated" else "isolated"
    cell = Cell("the cat sat on the mat", "a", 1, mode, max_tokens=len(sets), replay=lead)
    asked = grid()
    choices = [Choice(np.array(each, np.int32), np.full(len(each), 0.1), False, 0.1) for each in sets]
    slots = len(model.prompt_tokens(cell.prompt)) + sum(map(len, sets))
    track = Track(choices, np.full(slots, -1, np.int32), closed=True)
    kept = Kept()
    wanted = Wanted.of(asked.capture, asked.storage, model.facts)
    capture(model, [cell], [kept], wanted, tracks={cell.leader: track} if cell.leader else {})
    assert sets_of(kept) == sets
    return kept


SETS = [[71], [33, 260, 90, 12], [5, 300]]


def reordered(kept: Kept, other: Kept) -> float:
    """Largest difference of the second set's rows, once siblings stand in the same order."""
    before, after = members(kept, 1), members(other, 1)
    where = {int(other.small["token"][slot]): slot for slot in after}
    moved = [where[int(kept.small["token"][slot])] for slot in before]
    earlier = list(range(before[0]))
    one = weights(kept)[:, :, before][..., earlier + before]
    two = weights(other)[:, :, moved][..., earlier + moved]
    return float(np.abs(one - two).max())


def test_the_order_of_siblings_is_nothing_to_isolated_ones(model: Model) -> None:
    kept = along(model, "isolated", SETS)
    for order in ([12, 90, 260, 33], [260, 33, 12, 90]):
        assert reordered(kept, along(model, "isolated", [SETS[0], order, SETS[2]])) <= 1e-6


def test_the_order_of_siblings_decides_who_sees_whom_in_causal(model: Model) -> None:
    kept = along(model, "causal", SETS)
    assert reordered(kept, along(model, "causal", [SETS[0], [12, 90, 260, 33], SETS[2]])) > 1e-2


def test_visible_siblings_see_each_other_wherever_they_stand(model: Model) -> None:
    """Their rows, as stored by slot, move with the siblings; who gives how much to whom stays."""
    kept, other = (along(model, "visible", [SETS[0], order, SETS[2]]) for order in (SETS[1], SETS[1][::-1]))
    rows = members(kept, 1)
    one, two = weights(kept)[:, :, rows], weights(other)[:, :, rows[::-1]]
    assert np.abs(one - two).max() > 1e-2
    assert reordered(kept, other) <= 1e-6


@pytest.mark.parametrize(("mode", "least"), [("isolated", 0.0), ("causal", 1e-2), ("visible", 1e-2)])
def test_another_sibling_changes_rows_only_where_it_is_seen(mode: str, least: float, model: Model) -> None:
    kept = along(model, mode, SETS)
    other = along(model, mode, [SETS[0], [200, *SETS[1][1:]], SETS[2]])
    rest = members(kept, 1)[1:]
    difference = np.abs(weights(kept)[:, :, rest] - weights(other)[:, :, rest]).max()
    assert difference > least if least else difference <= 1e-6
    step = members(kept, 2)
    assert (
        np.abs(weights(kept)[:, :, step] - weights(other)[:, :, step]).max() > 1e-2
    )  # all later ones see it
