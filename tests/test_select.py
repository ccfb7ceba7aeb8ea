import hashlib
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special, stats

from tempocube.capture.select import (
    choose,
    cloned,
    ended,
    entropy,
    forced,
    log_softmax,
    noise,
    readout,
    selection,
    top,
    variates,
)
from tempocube.dataset.cell import Cell
from tempocube.dataset.options import Curve

MARGINS = ("margin_kept", "margin_dropped", "margin_order")
thresholds = st.floats(0.001, 1.0) | st.floats(0.001, 0.05)  # sets of many tokens need a low one
temperatures = st.just(0.0) | st.floats(0.01, 5.0)


def logs(chances):
    """Log-probabilities of given probabilities."""
    return np.log(np.asarray(chances, dtype=np.float64))


@st.composite
def readouts(draw, most=3000):
    """Log-probabilities over small and large vocabularies; whole logits, so that there are ties."""
    vocab = draw(st.integers(1, 40) | st.integers(41, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(scale=draw(st.floats(0.0, 6.0)), size=vocab)
    return special.log_softmax(np.round(logits) if draw(st.booleans()) else logits)


def plainly(logprob, threshold, temperature, max_width, single, noise=None):
    """The definition in words: sort everything, walk down. Margins only as far as they exist."""
    chance = special.softmax(logprob if temperature == 0 else logprob + temperature * noise).tolist()
    order = sorted(range(len(chance)), key=lambda token: (-chance[token], token))
    passing = [token for token in order if chance[token] >= threshold]
    kept = order[:1] if single or not passing else passing[:max_width]
    rest = [chance[token] for token in order[len(kept) :]]
    first_dropped, last_kept = (rest[0] if rest else math.nan), chance[kept[-1]]
    if single or not passing or len(passing) > max_width:
        margins = [last_kept - first_dropped, last_kept - first_dropped]
    else:
        margins = [last_kept - threshold, threshold - first_dropped]
    gaps = [chance[a] - chance[b] for a, b in pairwise(kept)]
    capped = not single and len(passing) > max_width
    return kept, capped, [*margins, min(gaps) if gaps else math.nan]


def plain_choice(logprob, threshold=0.1, max_width=16, single=False):
    return choose(logprob, threshold=threshold, temperature=0.0, max_width=max_width, single=single)


# --- what is chosen


@given(readouts(), thresholds, temperatures, st.integers(1, 20), st.booleans(), st.integers(0, 9))
def test_a_choice_is_the_definition_word_by_word(logprob, threshold, temperature, max_width, single, seed):
    g = noise(seed, 0, "p", logprob.size)
    choice = choose(
        logprob, threshold=threshold, temperature=temperature, max_width=max_width, single=single, gumbel=g
    )
    chance = special.softmax(logprob + temperature * g)
    assume(np.abs(chance - threshold).min() > 1e-12)  # two ways of summing may part there
    kept, capped, margins = plainly(logprob, threshold, temperature, max_width, single, g)
    assert choice.tokens.tolist() == kept
    assert choice.capped == capped
    assert choice.threshold == threshold
    assert [getattr(choice, name) for name in MARGINS] == pytest.approx(margins, abs=1e-12, nan_ok=True)
    np.testing.assert_array_equal(choice.probability, np.exp(logprob[kept]))


@given(readouts(), thresholds, temperatures, st.integers(1, 20))
def test_a_set_has_at_most_one_over_threshold_tokens(logprob, threshold, temperature, max_width):
    g = noise(1, 2, "p", logprob.size)
    choice = choose(
        logprob, threshold=threshold, temperature=temperature, max_width=max_width, single=False, gumbel=g
    )
    assert 1 <= choice.tokens.size <= min(max_width, int(1 / threshold + 1e-9))
    assert np.unique(choice.tokens).size == choice.tokens.size


@pytest.mark.parametrize("width", [2, 3, 10, 16, 49, 100])
def test_as_many_equal_tokens_pass_as_the_threshold_has_room_for(width):
    choice = plain_choice(logs(np.full(width, 1 / width)), threshold=1 / width, max_width=width)
    assert choice.tokens.tolist() == list(range(width))


@given(readouts(), temperatures)
def test_single_takes_the_best_of_what_the_others_take(logprob, temperature):
    g = noise(3, 1, "p", logprob.size)
    one, several = (
        choose(logprob, threshold=0.05, temperature=temperature, max_width=16, single=single, gumbel=g)
        for single in (True, False)
    )
    assert one.tokens.tolist() == several.tokens[:1].tolist()
    assert not one.capped


def test_equal_tokens_are_ranked_by_their_number():
    chances = np.full(4096, 0.2 / 4093)
    chances[[4000, 7, 900]] = 0.8 / 3
    assert plain_choice(logs(chances)).tokens.tolist() == [7, 900, 4000]
    assert plain_choice(logs(chances), max_width=2).tokens.tolist() == [7, 900]
    assert plain_choice(logs(chances), single=True).tokens.tolist() == [7]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_readout_that_is_not_finite_is_refused(broken):
    logprob = logs([0.5, 0.25, 0.25])
    logprob[1] = broken
    with pytest.raises(ValueError, match="must be finite, and token 1 has"):
        plain_choice(logprob)


def test_a_temperature_without_noise_is_refused():
    with pytest.raises(ValueError, match=r"temperature of 0\.7 needs"):
        choose(logs([0.5, 0.5]), threshold=0.1, temperature=0.7, max_width=16, single=False)


def test_a_temperature_beyond_floats_is_refused():
    with pytest.raises(ValueError, match="must be finite"):
        choose(
            logs([0.5, 0.5]),
            threshold=0.1,
            temperature=1.7e308,
            max_width=16,
            single=False,
            gumbel=np.array([5.0, 0.0]),
        )


# --- margins


@pytest.mark.parametrize(
    ("options", "width", "capped", "expected"),
    [
        pytest.param({"threshold": 0.1}, 3, False, (0.06, 0.06, 0.14), id="the threshold decided"),
        pytest.param({"threshold": 0.1, "max_width": 2}, 2, True, (0.14, 0.14, 0.2), id="the cap decided"),
        pytest.param({"threshold": 0.25, "max_width": 2}, 2, False, (0.05, 0.09, 0.2), id="the cap full"),
        pytest.param({"threshold": 0.1, "single": True}, 1, False, (0.2, 0.2, math.nan), id="single"),
        pytest.param({"threshold": 0.9}, 1, False, (0.2, 0.2, math.nan), id="none passes"),
        pytest.param({"threshold": 0.35}, 1, False, (0.15, 0.05, math.nan), id="one passes"),
        pytest.param({"threshold": 0.03}, 4, False, (0.01, math.nan, 0.12), id="all pass"),
    ],
)  # fmt: skip
def test_margins_say_how_close_the_decision_was(options, width, capped, expected):
    choice = plain_choice(logs([0.04, 0.3, 0.16, 0.5]), **options)
    assert choice.tokens.tolist() == [3, 1, 2, 0][:width]
    assert choice.capped is capped
    assert [getattr(choice, name) for name in MARGINS] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_a_vocabulary_of_one_leaves_nothing_to_decide():
    choice = plain_choice(np.zeros(1), single=True)
    assert choice.tokens.tolist() == [0]
    assert np.isnan([getattr(choice, name) for name in MARGINS]).all()


@given(readouts(), thresholds, st.integers(1, 20))
def test_no_margin_of_a_choice_is_negative(logprob, threshold, max_width):
    choice = plain_choice(logprob, threshold, max_width)
    assert not any(getattr(choice, name) < 0 for name in MARGINS)


# --- noise


def spelt_out(seed, step, prompt, vocab):
    """The noise as DESIGN.md writes it, one token at a time, on whole numbers."""
    digest = hashlib.sha256(f"{seed}|{step}|{prompt}".encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(vocab)
    return [-math.log(-math.log(((int(r) >> 11) + 0.5) * 2.0**-53)) for r in raw]


@pytest.mark.parametrize("prompt", ["Once upon a time", "naïve | ☃\n2"])
def test_noise_is_the_stream_that_the_design_names(prompt):
    made = noise(42, 3, prompt, 50)
    np.testing.assert_allclose(made, spelt_out(42, 3, prompt, 50), rtol=1e-13)


def test_noise_never_changes_between_releases():
    expected = [1.1981093075468634, 0.38760199464224226, 0.19439476793478302]
    np.testing.assert_allclose(noise(42, 0, "Once upon a time", 3), expected, rtol=1e-12)


def test_noise_is_gumbel_distributed():
    sample = noise(5, 0, "p", 50_000)
    assert stats.kstest(sample, stats.gumbel_r.cdf).pvalue > 1e-3
    assert stats.kstest(sample * 1.05, stats.gumbel_r.cdf).pvalue < 1e-3  # and it would be noticed


def test_noise_picks_tokens_as_often_as_they_are_likely():
    chances = np.array([0.5, 0.3, 0.15, 0.05])
    picks = [np.argmax(logs(chances) + noise(seed, 0, "p", 4)) for seed in range(4000)]
    assert stats.chisquare(np.bincount(picks, minlength=4), 4000 * chances).pvalue > 1e-3


def test_noise_is_finite_whatever_the_bits():
    assert np.isfinite(variates(np.array([0, 1, 2**63, 2**64 - 1], dtype=np.uint64))).all()


@pytest.mark.parametrize("other", [(1, 2, "q"), (1, 3, "p"), (2, 2, "p"), (12, 2, "p")])
def test_other_prompts_steps_and_seeds_get_independent_noise(other):
    assert stats.pearsonr(noise(1, 2, "p", 20_000), noise(*other, 20_000)).pvalue > 1e-3


def test_shared_noise_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        noise(1, 0, "p", 4)[0] = 0.0


# --- the callable of a cell


def cell(**options):
    given = {"prompt": "Once", "category": "c", "seed": 42, "mode": "isolated", "threshold": 0.05}
    return Cell(**given | options)


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "probability"))


@given(readouts(), st.integers(0, 9))
def test_every_mode_meets_the_same_noise(logprob, step):
    sets = [
        selection(cell(mode=mode, temperature=0.8))(logprob, step)
        for mode in ("isolated", "causal", "visible", "single")
    ]
    assert same(sets[0], sets[1])
    assert same(sets[0], sets[2])
    assert sets[3].tokens.tolist() == sets[0].tokens[:1].tolist()


def test_seeds_steps_and_prompts_choose_differently():
    logprob = special.log_softmax(np.zeros(5000))
    picks = [
        selection(cell(mode="single", temperature=1.0, seed=seed, prompt=prompt))(logprob, step).tokens[0]
        for seed in (1, 2)
        for prompt in ("Once", "Then")
        for step in (0, 1)
    ]
    assert len(set(picks)) == 8


@given(readouts(), st.integers(0, 2**63 - 1))
def test_at_temperature_zero_the_seed_does_not_matter(logprob, seed):
    assert same(selection(cell(seed=seed))(logprob, 1), selection(cell())(logprob, 0))


def test_noise_orders_the_set_and_the_stored_probability_is_the_models_own():
    logprob = special.log_softmax(np.random.default_rng(0).normal(size=500))
    choice = selection(cell(temperature=2.0, threshold=0.01))(logprob, 0)
    assert choice.tokens.size > 2
    chance = special.softmax(logprob + 2.0 * noise(42, 0, "Once", 500))[choice.tokens]
    assert (np.diff(chance) < 0).all()
    assert (np.diff(choice.probability) > 0).any()
    np.testing.assert_array_equal(choice.probability, np.exp(logprob[choice.tokens]))


@pytest.mark.parametrize(
    ("curve", "used"),
    [
        ({}, [0.45, 0.35, 0.25, 0.15, 0.05]),
        ({"curve": "relu", "activation": 0.5}, [0.45, 0.45, 0.45, 0.25, 0.05]),
        ({"curve": "bezier", "points": (0.0, 1.0)}, [0.45, 0.3875, 0.25, 0.1125, 0.05]),
    ],
)
def test_dynamic_thresholds_follow_their_curve_from_start_to_end(curve, used):
    curve = Curve.model_validate({"start": 0.45, "end": 0.05} | curve)
    select = selection(cell(threshold=curve, max_tokens=len(used)))
    logprob = logs([0.4, 0.3, 0.16, 0.08, 0.06])
    choices = [select(logprob, step) for step in range(len(used))]
    assert [choice.threshold for choice in choices] == pytest.approx(used)
    assert (choices[0].threshold, choices[-1].threshold) == (0.45, 0.05)
    passing = [max(1, int((np.exp(logprob) >= bar).sum())) for bar in used]
    assert [choice.tokens.size for choice in choices] == passing


def test_hitting_the_cap_is_recorded():
    logprob = logs([0.25] * 4)
    assert selection(cell(max_width=3))(logprob, 0).capped
    assert not selection(cell(max_width=4))(logprob, 0).capped


# --- controls and replay


def test_a_clone_is_copies_of_the_best_token_with_the_margins_of_the_choice():
    logprob = logs([0.1, 0.5, 0.4])
    own, copies = (selection(cell(control=control, max_width=2))(logprob, 0) for control in (None, "clone"))
    assert own.tokens.tolist() == [1, 2]
    assert copies.tokens.tolist() == [1, 1]
    assert copies.probability.tolist() == [own.probability[0]] * 2
    assert copies.capped
    for name in MARGINS:
        np.testing.assert_equal(getattr(copies, name), getattr(own, name))


def test_a_clone_of_one_token_is_that_token():
    choice = plain_choice(logs([0.9, 0.05, 0.05]))
    assert same(cloned(choice), choice)


@given(readouts(), st.data())
def test_forced_tokens_keep_their_order_and_get_this_readouts_probability(logprob, data):
    tokens = data.draw(st.lists(st.integers(0, logprob.size - 1), min_size=1, max_size=8))
    choice = forced(logprob, np.array(tokens, dtype=np.int32), 0.3, capped=True)
    assert choice.tokens.tolist() == tokens
    np.testing.assert_array_equal(choice.probability, np.exp(logprob[tokens]))
    assert (choice.threshold, choice.capped) == (0.3, True)
    assert np.isnan([getattr(choice, name) for name in MARGINS]).all()


# --- end of text


@pytest.mark.parametrize(
    ("tokens", "hidden", "over"),
    [
        ([5, 6], [False, False], False),
        ([5, 2, 6], [False, True, False], False),
        ([2, 5, 3], [True, False, True], False),
        ([2], [False], True),
        ([3, 2], [False, False], True),
        ([2, 2], [False, False], True),
    ],
)
def test_an_end_token_is_hidden_unless_all_are_and_then_it_is_over(tokens, hidden, over):
    gone, done = ended(np.array(tokens, dtype=np.int32), frozenset({2, 3}))
    assert gone.tolist() == hidden
    assert done is over


def test_a_model_without_end_tokens_never_ends():
    gone, done = ended(np.array([0, 1], dtype=np.int32), frozenset())
    assert (gone.tolist(), done) == ([False, False], False)


# --- readouts


@st.composite
def survivors(draw):
    """Rows of log-probabilities, and the probabilities of the tokens they belong to."""
    width, vocab = draw(st.integers(1, 5)), draw(st.integers(1, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(scale=draw(st.floats(0.1, 300.0)), size=(width, vocab))
    return special.log_softmax(logits, axis=1), rng.uniform(1e-9, 1.0, width)


@given(survivors())
def test_a_mixture_weighs_each_distribution_by_its_tokens_probability(given):
    logprob, probability = given
    expected = special.logsumexp(logprob, axis=0, b=(probability / probability.sum())[:, None])
    np.testing.assert_allclose(readout("mixture", logprob, probability), expected, rtol=1e-12, atol=1e-12)


@given(survivors(), st.sampled_from(["mixture", "top", "last"]))
def test_every_readout_is_a_distribution(given, kind):
    assert abs(special.logsumexp(readout(kind, *given))) < 1e-12


@given(survivors())
def test_top_and_last_are_one_tokens_own(given):
    np.testing.assert_array_equal(readout("top", *given), given[0][0])
    np.testing.assert_array_equal(readout("last", *given), given[0][-1])


@pytest.mark.parametrize("kind", ["mixture", "top", "last"])
def test_a_single_survivor_is_read_out_as_it_is_and_apart_from_it(kind):
    logprob = logs([[0.5, 0.25, 0.25]])
    made = readout(kind, logprob, np.array([0.25]))
    np.testing.assert_array_equal(made, logprob[0])
    assert not np.shares_memory(made, logprob)


def test_a_token_without_probability_weighs_nothing_in_a_mixture():
    logprob = logs([[0.5, 0.5], [0.9, 0.1]])
    np.testing.assert_allclose(readout("mixture", logprob, np.array([0.2, 0.0])), logprob[0], atol=1e-15)
    with pytest.raises(ValueError, match="probability above 0"):
        readout("mixture", logprob, np.zeros(2))


def test_an_unknown_readout_is_refused():
    with pytest.raises(ValueError, match="'mean'; there are mixture, top, last"):
        readout("mean", np.zeros((1, 1)), np.ones(1))


# --- numbers about a readout


logit_rows = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 50)),
    elements=st.floats(-1e4, 1e4, width=32),
)


@given(logit_rows)
def test_log_softmax_of_float32_logits_is_exact_to_float64(logits):
    made = log_softmax(logits)
    np.testing.assert_allclose(made, special.log_softmax(logits.astype(np.float64), axis=1), atol=1e-12)
    assert np.abs(special.logsumexp(made, axis=1)).max() < 1e-12
    assert made.dtype == np.float64


@pytest.mark.parametrize("broken", [[np.nan, 1], [np.inf, 1], [-np.inf, -np.inf]])
def test_a_broken_row_is_nan_and_leaves_the_others_alone(broken):
    made = log_softmax(np.array([[1, 1], broken], dtype=np.float32))
    np.testing.assert_allclose(made[0], math.log(0.5))
    assert np.isnan(made[1]).any()


@given(readouts())
def test_entropy_is_shannons(logprob):
    assert entropy(logprob) == pytest.approx(stats.entropy(np.exp(logprob)), abs=1e-9)


@pytest.mark.parametrize("logprob", [np.zeros(1), np.array([0.0, -900.0])])
def test_certainty_has_an_entropy_of_zero(logprob):
    assert str(entropy(logprob)) == "0.0"


@given(readouts(), st.integers(1, 20))
def test_top_is_the_head_of_a_full_sort(logprob, k):
    ids, best = top(logprob, k)
    order = sorted(range(logprob.size), key=lambda token: (-logprob[token], token))[:k]
    assert ids.tolist() == order
    np.testing.assert_array_equal(best, logprob[order])
