import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import prunes
from tempocube.capture.prune import judge, layer_weights, received
from tempocube.dataset.options import Prune

# Two prompt tokens, sets of 3, 1, 2 and the set of step 3 whose rows judge.
STEPS = np.array([-1, -1, 0, 0, 0, 1, 2, 2, 3, 3])
NOBODY = np.full(STEPS.size, -1)
PLANTED = np.array([0.3, 0.1, 0.02, 0.2, 0.05, 0.01, 0.04, 0.08, 0.1, 0.1])


@st.composite
def histories(draw):
    """Sets of any width, some of their tokens pruned (never all), and attention received, with ties."""
    widths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    slot_step = np.concatenate([np.full(2, -1), np.repeat(np.arange(len(widths)), widths)])
    pruned_at = np.full(slot_step.size, -1)
    for step, width in enumerate(widths):
        gone = draw(st.sets(st.integers(0, width - 1), max_size=width - 1))
        pruned_at[np.flatnonzero(slot_step == step)[list(gone)]] = step + 1
    weights = draw(
        st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5]), min_size=slot_step.size, max_size=slot_step.size)
    )
    return np.array(weights), slot_step, pruned_at, len(widths) - 1


def plainly(prune, weights, slot_step, pruned_at, step):
    """The definition in words, one set at a time: scores and who goes."""
    scores, goes = {}, []
    for earlier in range(step):
        alive = [i for i in range(len(weights)) if slot_step[i] == earlier and pruned_at[i] == -1]
        if len(alive) < 2:
            continue
        scores |= {i: weights[i] for i in alive}
        best = min(alive, key=lambda i: (-weights[i], i))
        bar = prune.threshold * weights[best] if prune.relative else prune.threshold
        goes += [i for i in alive if weights[i] < bar and i != best]
    return scores, goes


# --- who goes


@given(prunes(), histories())
def test_a_judgement_is_the_definition_set_by_set(options, history):
    prune = Prune.model_validate(options)
    scores, goes = plainly(prune, *history)
    judgement = judge(prune, *history)
    assert judgement.hidden.tolist() == goes
    assert {int(i): judgement.score[i] for i in np.flatnonzero(~np.isnan(judgement.score))} == scores


@given(prunes(), histories())
def test_every_set_keeps_a_survivor_and_only_survivors_of_earlier_sets_go(options, history):
    _, slot_step, pruned_at, step = history
    hidden = judge(Prune.model_validate(options), *history).hidden
    assert (pruned_at[hidden] == -1).all()
    assert ((slot_step[hidden] >= 0) & (slot_step[hidden] < step)).all()
    after = pruned_at.copy()
    after[hidden] = step + 1
    assert set(slot_step[after == -1]) == set(slot_step)


def test_tokens_that_get_less_attention_than_the_threshold_go():
    judgement = judge(Prune(threshold=0.06), PLANTED, STEPS, NOBODY, 3)
    assert judgement.hidden.tolist() == [2, 4, 6]


def test_a_relative_threshold_is_a_share_of_the_best_of_the_set():
    # Half of 0.2 lies above both siblings; half of 0.08 does not lie above 0.04.
    judgement = judge(Prune(threshold=0.5, relative=True), PLANTED, STEPS, NOBODY, 3)
    assert judgement.hidden.tolist() == [2, 4]


def test_a_threshold_that_nobody_reaches_leaves_the_best_of_each_set():
    judgement = judge(Prune(threshold=1.0), PLANTED, STEPS, NOBODY, 3)
    assert judgement.hidden.tolist() == [2, 4, 6]


@pytest.mark.parametrize("relative", [False, True])
def test_of_equal_tokens_below_the_threshold_the_best_ranked_stays(relative):
    equal = np.full(STEPS.size, 0.1)
    hidden = judge(Prune(threshold=1.0, relative=relative), equal, STEPS, NOBODY, 3).hidden.tolist()
    assert hidden == ([] if relative else [3, 4, 7])


def test_a_threshold_of_zero_hides_nobody():
    assert judge(Prune(threshold=0.0), np.zeros(STEPS.size), STEPS, NOBODY, 3).hidden.size == 0


def test_a_score_at_the_threshold_stays():
    assert 4 not in judge(Prune(threshold=0.05), PLANTED, STEPS, NOBODY, 3).hidden


# --- which are judged


def test_prompt_singletons_and_the_judging_set_have_no_score():
    score = judge(Prune(threshold=0.06), PLANTED, STEPS, NOBODY, 3).score
    assert np.flatnonzero(np.isnan(score)).tolist() == [0, 1, 5, 8, 9]
    np.testing.assert_array_equal(score[[2, 3, 4, 6, 7]], PLANTED[[2, 3, 4, 6, 7]])


def test_a_pruned_token_is_not_judged_again():
    pruned_at = NOBODY.copy()
    pruned_at[2] = 2
    judgement = judge(Prune(threshold=0.06), PLANTED, STEPS, pruned_at, 3)
    assert judgement.hidden.tolist() == [4, 6]
    assert np.isnan(judgement.score[2])


def test_a_last_survivor_is_not_judged():
    pruned_at = NOBODY.copy()
    pruned_at[[2, 3]] = 2
    judgement = judge(Prune(threshold=1.0), PLANTED, STEPS, pruned_at, 3)
    assert np.isnan(judgement.score[[2, 3, 4]]).all()
    assert judgement.hidden.tolist() == [6]


def test_a_pruned_token_does_not_set_the_bar_of_its_siblings():
    pruned_at = NOBODY.copy()
    pruned_at[3] = 2
    judgement = judge(Prune(threshold=0.3, relative=True), PLANTED, STEPS, pruned_at, 3)
    assert 2 not in judgement.hidden  # 0.02 is more than 0.3 of 0.05, and less than 0.3 of 0.2
    assert 2 in judge(Prune(threshold=0.3, relative=True), PLANTED, STEPS, NOBODY, 3).hidden


def test_slots_that_do_not_exist_yet_are_left_alone():
    steps = np.r_[STEPS, -2, -2]
    gone = np.r_[NOBODY, -2, -2]
    judgement = judge(Prune(threshold=0.06), np.r_[PLANTED, 0.0, 0.0], steps, gone, 3)
    assert judgement.hidden.tolist() == [2, 4, 6]
    assert np.isnan(judgement.score[-2:]).all()


@pytest.mark.parametrize("step", [0, 1])
def test_without_an_earlier_wide_set_nobody_is_judged(step):
    steps = np.array([-1, 0, 1, 1])
    judgement = judge(Prune(threshold=1.0), np.zeros(4), steps, np.full(4, -1), step)
    assert np.isnan(judgement.score).all()
    assert judgement.hidden.size == 0


def test_the_score_that_pruned_a_token_is_kept_and_the_others_go_on_changing():
    """Two judgements in a row, merged as an engine does."""
    prune, steps = Prune(threshold=0.1), np.array([-1, 0, 0, 0, 1, 2])
    pruned_at, score = np.full(6, -1), np.full(6, np.nan)
    for step, weights in [(1, [0.5, 0.05, 0.2, 0.25, 0, 0]), (2, [0.2, 0.6, 0.01, 0.3, 0.1, 0])]:
        judgement = judge(prune, np.array(weights), steps, pruned_at, step)
        score = np.where(np.isnan(judgement.score), score, judgement.score)
        pruned_at[judgement.hidden] = step + 1
    assert pruned_at.tolist() == [-1, 2, 3, -1, -1, -1]
    np.testing.assert_array_equal(score, [np.nan, 0.05, 0.01, 0.3, np.nan, np.nan])


# --- what a token received


def test_layers_count_alike_or_more_with_depth():
    np.testing.assert_allclose(layer_weights(Prune(threshold=0.1), 4), [0.25] * 4)
    rising = Prune(threshold=0.1, weighting="rising")
    np.testing.assert_allclose(layer_weights(rising, 4), [0.1, 0.2, 0.3, 0.4])


def test_of_chosen_layers_the_rank_among_them_counts():
    some = Prune.model_validate({"threshold": 0.1, "layers": [5, 0, 2]})
    np.testing.assert_allclose(layer_weights(some, 6), [1 / 3, 0, 1 / 3, 0, 0, 1 / 3])
    rising = Prune.model_validate({"threshold": 0.1, "layers": [5, 0, 2], "weighting": "rising"})
    np.testing.assert_allclose(layer_weights(rising, 6), [1 / 6, 0, 2 / 6, 0, 0, 3 / 6])


@given(prunes(), st.integers(0, 5))
def test_layer_weights_are_a_mean(options, more):
    prune = Prune.model_validate(options)
    layers = 1 + more + (0 if prune.layers == "all" else max(prune.layers))
    weights = layer_weights(prune, layers)
    assert weights.sum() == pytest.approx(1)
    assert np.count_nonzero(weights) == (layers if prune.layers == "all" else len(prune.layers))


def test_received_is_the_mean_over_rows_then_over_layers():
    by_layer = np.array([[[0.1, 0.9], [0.3, 0.7]], [[1.0, 0.0], [0.6, 0.4]]], dtype=np.float32)
    np.testing.assert_allclose(received(Prune(threshold=0.1), by_layer), [0.5, 0.5], rtol=1e-6)
    rising = Prune(threshold=0.1, weighting="rising")
    np.testing.assert_allclose(received(rising, by_layer), [0.6, 0.4], rtol=1e-6)
    first = Prune.model_validate({"threshold": 0.1, "layers": [0]})
    np.testing.assert_allclose(received(first, by_layer), [0.2, 0.8], rtol=1e-6)


def test_late_layers_decide_when_weights_rise():
    early, late = [0.5, 0.0, 0.3, 0.2], [0.5, 0.3, 0.0, 0.2]
    by_layer, steps, nobody = np.array([[early], [late]]), np.array([-1, 0, 0, 1]), np.full(4, -1)
    hidden = {
        weighting: judge(
            prune := Prune(threshold=0.6, relative=True, weighting=weighting),
            received(prune, by_layer),
            steps,
            nobody,
            1,
        ).hidden.tolist()
        for weighting in ("equal", "rising")
    }
    assert hidden == {"equal": [], "rising": [2]}
