"""The tap: what it refuses to follow, where each node stands, and that nothing is lost as a pool grows."""

import numpy as np
import pytest

from runs import EVERYTHING, PROMPTS, grid, run, tiny
from tempocube.capture import pool as pools
from tempocube.capture import tap as module
from tempocube.capture.forest import Forest
from tempocube.capture.pool import Pool, Window
from tempocube.capture.probes import Probes
from tempocube.capture.tap import ATTENTION, Tap, Unfit
from tempocube.capture.wanted import Wanted
from tempocube.dataset.visibility import NEVER
from tiny import mx

ROUNDING = 1e-6
HEADS, WIDTH = 2, 4


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("gemma3"), "gemma3")


def planted(model):
    """A forest of one prompt, and the pass that feeds it."""
    forest = Forest(model.facts.windows)
    (feed,) = forest.plant([tuple(model.prompt_tokens(PROMPTS[0]))], [()])
    return forest, feed


def places(model):
    """All that a tap replaces, as it is now."""
    net = {kind: vars(kind).get("__call__") for kind in {type(each) for each in model.net.modules()}}
    modules = [*model.attention_modules, model.module, module.nn]
    names = [ATTENTION, "swiglu", "gelu_approx"]
    return net, mx.fast.rope, [vars(each).get(name) for each in modules for name in names]


# what it refuses


REFUSED = {  # what a model's attention does otherwise, and what is said of it
    "sinks": (lambda given: {"sinks": mx.zeros(4)}, "has attention sinks"),
    "no cache": (lambda given: {"cache": None}, "without a cache of its own layer"),
    "a mask of its own": (lambda given: {"mask": mx.zeros((1, 1))}, "masks of its own"),
    "a causal mask": (lambda given: {"mask": "causal"}, "masks of its own"),
    "other keys": (lambda given: {"keys": given["keys"] * 2}, "changes keys or values after"),
    "other values": (lambda given: {"values": given["values"] + 0}, "changes keys or values after"),
    "a window not told": (lambda given: {"mask": Window(7)}, "looks back 7 positions in layer 0, not all"),
}


def fed_otherwise(model, change):
    """A pass of a model whose attention is called with something changed."""
    with Tap(model, Wanted()) as tap:
        ours = getattr(model.module, ATTENTION)

        def attention(queries, keys, values, **named):
            given = {"queries": queries, "keys": keys, "values": values} | named
            return ours(**given | change(given))

        setattr(model.module, ATTENTION, attention)
        tap.forward(planted(model)[1], [0])


@pytest.mark.parametrize("what", REFUSED)
def test_attention_that_it_cannot_follow_is_refused(llama, what):
    change, message = REFUSED[what]
    before = places(llama)
    with pytest.raises(Unfit, match=message) as error:
        fed_otherwise(llama, change)
    assert "\n" not in str(error.value)
    assert places(llama) == before


def test_a_window_that_is_told_but_not_kept_is_refused(gemma3):
    with pytest.raises(Unfit, match="looks back all positions in layer 0, not 8"):
        fed_otherwise(gemma3, lambda given: {"mask": Window(None)})


def test_a_pass_with_nothing_changed_is_not_refused(llama):
    fed_otherwise(llama, lambda given: {})


# positions


def turned_alone(model, layer, rows, positions):
    """What the model's own RoPE makes of each row by itself, (kv head, slot, width)."""
    rope = model.net.layers[layer].self_attn.rope
    each = [rope(mx.array(rows[:, i][None, :, None]), offset=int(at)) for i, at in enumerate(positions)]
    return np.stack([np.asarray(one)[0, :, 0] for one in each], axis=1)


@pytest.mark.parametrize("name", ["llama", "llama3", "gemma3", "phi3"])
def test_every_node_is_turned_to_its_own_position_in_one_call(tmp_path, name):
    model = tiny(tmp_path, name)
    layers = list(range(model.facts.layers))
    asked = grid(modes=["visible"], capture=EVERYTHING | {"internals": layers})
    for kept in run(model, asked).values():
        data, positions = kept.data, kept.small["logical"]
        assert len(set(positions.tolist())) < len(positions)  # siblings share one
        for layer in layers:
            alone = turned_alone(model, layer, data["k"][layer].swapaxes(0, 1), positions)
            np.testing.assert_allclose(data["cached_key"][layer], alone, rtol=0, atol=ROUNDING * 10)


def test_positions_are_those_that_rope_was_given(llama):
    forest, feed = planted(llama)
    size = feed.token.size
    with Tap(llama, Wanted()) as tap:
        passed = tap.forward(feed, [0])
        assert passed.position.tolist() == list(range(size))
        grown = forest.grow({0: (5, 6, 7)}, ["isolated"], [np.full(size, NEVER, np.int32)])
        passed = tap.forward(grown, [0])
    assert passed.rotated
    assert passed.position.tolist() == [size] * 3
    assert passed.shifted.tolist() == [0] * 3


def test_learned_positions_are_not_taken_for_rope(tmp_path):
    model = tiny(tmp_path, "gpt2")
    with Tap(model, Wanted()) as tap:
        passed = tap.forward(planted(model)[1], [0])
    assert not passed.rotated
    assert passed.position.tolist() == list(range(passed.position.size))


# the pool


def nodes(count, seed):
    """Keys and values as a model hands them in: (node, kv head, 1, width)."""
    rng = np.random.default_rng(seed)
    return [mx.array(rng.normal(size=(count, HEADS, 1, WIDTH)).astype(np.float32)) for _ in range(2)]


@pytest.mark.parametrize("sizes", [[1], [5, 5, 5], [3, 40, 1, 1, 100, 2], [8, 8, 8, 1]])
def test_a_pool_that_grows_keeps_every_node_it_has(llama, monkeypatch, sizes):
    monkeypatch.setattr(pools, "GROWTH", 8)
    pool, fed = Pool(0), []
    for seed, size in enumerate(sizes):
        fed.append(nodes(size, seed))
        assert pool.update_and_fetch(*fed[-1]) == tuple(fed[-1])
        assert bool(pool.holds(*fed[-1]))
        assert pool.nodes == sum(sizes[: seed + 1])
        for ours, theirs in ((pool.keys, 0), (pool.values, 1)):
            all_of_it = np.concatenate([np.asarray(each[theirs])[:, :, 0] for each in fed])
            np.testing.assert_array_equal(np.asarray(ours)[:, : pool.nodes].swapaxes(0, 1), all_of_it)


def test_a_pool_knows_what_it_does_not_hold(llama):
    pool, (keys, values) = Pool(0), nodes(3, 0)
    pool.update_and_fetch(keys, values)
    assert not bool(pool.holds(keys * 2, values))
    assert not bool(pool.holds(keys, values[::-1]))
    broken = mx.array(np.full(keys.shape, np.nan, np.float32))
    pool.update_and_fetch(broken, values)
    assert bool(pool.holds(broken, values))  # NaN is a fault of another kind


def test_it_does_not_matter_how_often_a_pool_grows(llama, monkeypatch):
    asked = grid(capture=EVERYTHING)
    once = run(llama, asked)
    monkeypatch.setattr(pools, "GROWTH", 4)
    for cell, kept in run(llama, asked).items():
        for name, values in kept.data.items():
            np.testing.assert_array_equal(values, once[cell].data[name])


# before and after


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_tap_that_cannot_be_put_on_leaves_the_model_as_it_was(llama, monkeypatch, error):
    enter, before = Probes.__enter__, places(llama)

    def fails(self):
        enter(self)
        raise error("stopped")

    monkeypatch.setattr(Probes, "__enter__", fails)
    with pytest.raises(error, match="stopped"), Tap(llama, Wanted(nodes=("residual",), internals=(0,))):
        pass
    assert places(llama) == before


def test_while_it_is_on_it_is_in_every_place_and_afterwards_in_none(llama):
    before = places(llama)
    with Tap(llama, Wanted()):
        inside = places(llama)
        assert inside[1] is not before[1]
        assert inside[2][0] is not before[2][0]
    assert places(llama) == before
