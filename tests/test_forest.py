"""The forest's bookkeeping against a naive one, experiment by experiment."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempocube.capture import forest as module
from tempocube.capture.forest import Forest
from tempocube.dataset.schema import BLOCK
from tempocube.dataset.visibility import visibility

SHORT, LONG = (3, 4), tuple(range(5, 5 + 2 * BLOCK + 7))
PROMPTS = (SHORT, (3, 4, 5), (9,), LONG[: BLOCK + 1], LONG)


@dataclass(frozen=True)
class Life:
    """An experiment from its prompt to its end: what it selects, and what it hides after each set.

    hides[i]: slots that are hidden from step i + 1 on, counted from the first slot after the prompt.
    """

    prompt: tuple[int, ...]
    ablate: tuple[str, ...]
    sight: str
    sets: tuple[tuple[int, ...], ...]
    hides: tuple[frozenset[int], ...]

    def slots(self, steps: int) -> list[tuple[int, int, int, int]]:
        """Token, position, step and pruned_at of each slot, as they are when `steps` sets have been fed."""
        found = [(token, i, -1) for i, token in enumerate(self.prompt)]
        for step, tokens in enumerate(self.sets[:steps]):
            found += [(token, len(self.prompt) + step, step) for token in tokens]
        return [(*slot, self.pruned_at(i, slot[2], steps)) for i, slot in enumerate(found)]

    def pruned_at(self, slot: int, step: int, steps: int) -> int:
        """The first step of `steps` from which it is hidden, if it is one of a set."""
        after = [i + 1 for i in range(max(step, 0), steps - 1) if slot - len(self.prompt) in self.hides[i]]
        return after[0] if after and step >= 0 else -1

    def hidden(self, steps: int) -> np.ndarray:
        """pruned_at of all slots before set `steps`, as `grow` is given it for that set."""
        gone = [self.pruned_at(i, slot[2], steps + 1) for i, slot in enumerate(self.slots(steps))]
        return np.array(gone, np.int32)

    def history(self, slot: int) -> tuple[object, ...]:
        """All that decides what is computed for a slot; equal histories must share its node."""
        step = self.slots(len(self.sets))[slot][2]
        if step < 0:
            return self.prompt, self.ablate, slot
        sets = self.sets[: step + 1]
        hidden = tuple(tuple(self.hidden(i)) for i in range(step + 1))
        sight = self.sight if max(map(len, sets)) > 1 else ""
        return self.prompt, self.ablate, slot, sets, hidden, sight


@st.composite
def lives(draw, prompts=PROMPTS):
    """Few kinds of everything, so that histories meet and part."""
    sight = draw(st.sampled_from(["isolated", "visible", "causal", "single"]))
    sets = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=1 if sight == "single" else 3)
    taken = draw(st.lists(sets.map(tuple), max_size=4))
    hides = st.frozensets(st.integers(0, 3), max_size=1)
    return Life(
        draw(st.sampled_from(prompts)),
        draw(st.sampled_from([(), ("L0H1",)])),
        sight,
        tuple(taken),
        tuple(draw(st.lists(hides, min_size=len(taken), max_size=len(taken)))),
    )


def batches(prompts=PROMPTS):
    return st.lists(lives(prompts), min_size=1, max_size=6)


def feeds(lives, windows=(None,)):
    """Drive a forest to the end of all experiments: (forest, feed, sets fed by then) pass by pass."""
    forest = Forest(windows)
    for feed in forest.plant([life.prompt for life in lives], [life.ablate for life in lives]):
        yield forest, feed, 0
    for step in range(max(len(life.sets) for life in lives)):
        sets = {member: life.sets[step] for member, life in enumerate(lives) if step < len(life.sets)}
        hidden = [life.hidden(min(step, len(life.sets))) for life in lives]
        yield forest, forest.grow(sets, [life.sight for life in lives], hidden), step + 1


def nodes(lives):
    """Node ids of every member, slot by slot."""
    found = {}
    for forest, _, _ in feeds(lives):
        found |= {member: branch.node for branch in forest.branches for member in branch.members}
    return found


@given(batches())
def test_a_branch_has_exactly_the_history_of_each_of_its_members(lives):
    for forest, _, steps in feeds(lives):
        members = [member for branch in forest.branches for member in branch.members]
        alive = [member for member, life in enumerate(lives) if len(life.sets) >= steps]
        assert sorted(members) == alive
        for branch in forest.branches:
            arrays = (branch.token, branch.logical, branch.slot_step, branch.pruned_at)
            own = list(zip(*(each.tolist() for each in arrays), strict=True))
            for member in branch.members:
                assert own == lives[member].slots(steps)
                assert branch.ablate == lives[member].ablate
            assert branch.node.shape == (branch.slots,) == (len(own),)


@given(batches())
def test_nodes_are_shared_by_equal_histories_and_by_nothing_else(lives):
    of_history = {}
    for member, own in nodes(lives).items():
        assert len(own) == len(lives[member].slots(len(lives[member].sets)))
        for slot, node in enumerate(own.tolist()):
            assert of_history.setdefault(lives[member].history(slot), node) == node
    assert len(set(of_history.values())) == len(of_history)


@given(batches())
def test_nodes_are_numbered_without_gaps_in_the_order_in_which_they_are_fed(lives):
    fed = []
    for forest, feed, _ in feeds(lives):
        begin = len(fed)
        for growth in feed.growths:
            assert growth.start == len(fed) - begin
            assert growth.nodes == slice(growth.start, growth.start + growth.count)
            fed += growth.branch.node[growth.rows].tolist()
            for given_, own in ((feed.token, growth.branch.token), (feed.logical, growth.branch.logical)):
                assert (given_[growth.nodes] == own[growth.rows]).all()
        assert feed.token.shape == feed.logical.shape == (len(fed) - begin,)
        assert len(fed) <= forest.nodes
    assert fed == list(range(forest.nodes))


@given(lives(), st.integers(2, 5))
def test_equal_experiments_cost_as_much_as_one(life, copies):
    for (forest, alone, _), (many, together, _) in zip(feeds([life]), feeds([life] * copies), strict=True):
        assert many.nodes == forest.nodes
        assert (together.token == alone.token).all()
    assert [branch.members for branch in many.branches] == [tuple(range(copies))]


@given(batches())
def test_positions_are_shared_within_a_set_and_one_more_from_set_to_set(lives):
    for forest, _, _ in feeds(lives):
        for branch in forest.branches:
            step, prompt = branch.slot_step, int((branch.slot_step < 0).sum())
            expected = np.where(step < 0, np.arange(branch.slots), prompt + step)
            assert (branch.logical == expected).all()


@given(batches(), st.sampled_from([(None,), (None, 3), (2,)]))
def test_every_new_row_sees_what_its_own_mode_says_and_padding_sees_nothing(lives, windows):
    for _, feed, steps in feeds(lives, windows):
        for block in feed.blocks:
            assert list(block.see) == list(windows)
            for window, see in block.see.items():
                expected = np.zeros(see.shape, bool)
                for place, growth in enumerate(block.growths):
                    rows, keys = growth.rows, slice(growth.rows.stop)
                    for member in growth.branch.members:
                        life = lives[member]
                        _, logical, step, gone = np.array(life.slots(steps)).T
                        seen = visibility(life.sight, logical, step, gone, window)[rows, keys]
                        expected[place, : growth.count, keys] = seen
                        assert (see[place] == expected[place]).all()


@given(batches())
def test_blocks_have_every_new_row_once_with_its_keys_in_order(lives):
    before = 0
    for forest, feed, _ in feeds(lives):
        assert sorted(id(growth) for block in feed.blocks for growth in block.growths) == sorted(
            map(id, feed.growths)
        )
        for block in feed.blocks:
            assert block.query.shape[0] == block.key.shape[0] == len(block.growths)
            assert all(see.shape == (*block.query.shape, block.key.shape[1]) for see in block.see.values())
            for place, growth in enumerate(block.growths):
                own, stop = growth.branch.node, growth.rows.stop
                assert (block.query[place, : growth.count] == np.r_[growth.nodes]).all()
                assert (block.key[place, :stop] == own[:stop]).all()
                assert set(block.key[place, stop:].tolist()) <= set(own.tolist())  # no stranger's numbers
            assert block.query.max() < feed.token.size
            assert block.key.max() < before + feed.token.size <= forest.nodes
        before += feed.token.size


@given(batches(PROMPTS[:4]), st.sampled_from([1, 64, 1000]))
def test_a_block_is_bounded_unless_it_is_a_single_growth(lives, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_PAIRS", most)
        for _, feed, _ in feeds(lives):
            for block in feed.blocks:
                assert len(block.growths) == 1 or block.query.size * block.key.shape[1] <= most


def test_a_bound_splits_a_pass_of_many_experiments():
    lives = [Life(SHORT, (), "isolated", ((member, 500),), (frozenset(),)) for member in range(40)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_PAIRS", 2 * 4 * 10)
        *_, (_, feed, _) = feeds(lives)
    assert [len(block.growths) for block in feed.blocks] == [10] * 4


@given(st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=4))
def test_long_prompts_come_in_passes_of_a_block_of_rows_each(prompts):
    fed = list(Forest().plant(prompts, [()] * len(prompts)))
    assert len(fed) == -(-max(map(len, prompts)) // BLOCK)
    rows = {}
    for feed in fed:
        assert len({growth.branch.members for growth in feed.growths}) == len(feed.growths)
        for growth in feed.growths:
            assert 0 < growth.count <= BLOCK
            rows.setdefault(growth.branch.members, []).extend(np.r_[growth.rows])
    for members, own in rows.items():
        assert own == list(range(len(prompts[members[0]])))


def test_experiments_part_where_their_histories_do():
    wide, narrow = (1, 2), (1,)
    hidden, none = frozenset({1}), frozenset()
    lives = [
        Life(SHORT, (), "isolated", (narrow, wide, narrow), (none,) * 3),
        Life(SHORT, (), "visible", (narrow, wide, narrow), (none,) * 3),  # parts at the first wide set
        Life(SHORT, (), "isolated", (narrow, wide, narrow), (none, hidden, none)),  # after it was hidden
        Life(SHORT, (), "isolated", (narrow, narrow), (none,) * 2),  # at another set
        Life(SHORT, ("L0.mlp",), "isolated", (narrow,), (none,)),  # never had anything in common
    ]
    own = nodes(lives)

    def common(a, b):
        return int((own[a][: len(own[b])] == own[b][: len(own[a])]).sum())

    assert [common(0, other) for other in range(5)] == [6, 3, 5, 3, 0]
