"""The down-weighting of one experiment, against a regression written out with a column for every row."""

import numpy as np
import pytest

from tempocube.stats import divergence
from tempocube.stats.estimand import (
    Layout,
    beside_siblings,
    by_step,
    coefficients,
    context,
    fit,
    layout,
    legacy_ratio,
    over_steps,
    per_set,
    terms,
    undefined,
    with_both,
)
from tempocube.stats.setwise import placebo

WIDTHS = (1, 3, 1, 2, 1, 1, 4, 2, 1, 2)
PROMPT = 4


def made(
    widths: tuple[int, ...] = WIDTHS,
    mode: str = "isolated",
    queries: str = "all",
    pruned: tuple[int, int] | None = None,
    window: int | None = None,
) -> Layout:
    """An experiment with sets of these widths; `pruned`: a slot, and the step from which it is hidden."""
    step = np.r_[np.full(PROMPT, -1), np.repeat(np.arange(len(widths)), widths)]
    logical = np.r_[np.arange(PROMPT), PROMPT + np.repeat(np.arange(len(widths)), widths)]
    gone = np.full(step.size, -1)
    if pruned:
        gone[pruned[0]] = pruned[1]
    return layout(mode, logical, step, gone, np.array(widths), queries, window)


def noise(where: Layout, seed: int = 0) -> np.ndarray:
    y = np.random.default_rng(seed).normal(-5, 2, where.sees.shape)
    return np.where(where.sees, y, np.where(where.there, -np.inf, np.nan))


def of_all(where: Layout):
    keys = with_both(context(where), where.parallel)
    return terms(keys, where.distance, where.parallel, where.weight)


def oracle(y: np.ndarray, where: Layout) -> tuple[float, float, dict[int, float]]:
    """Delta, slope and levels, by weighted least squares on dummies; nothing shared with the code."""
    step, wide = where.slot_step, where.parallel
    seen = {
        q: [k for k in range(1, len(step)) if 0 <= step[k] < step[q] and where.sees[q, k]]
        for q in np.flatnonzero(where.kept)
    }
    rows = [q for q, keys in seen.items() if len({bool(wide[k]) for k in keys}) == 2]
    x, target, weight = [], [], []
    for i, q in enumerate(rows):
        for k in seen[q]:
            x.append([where.logical[q] - where.logical[k], wide[k], *(np.arange(len(rows)) == i)])
            target.append(y[q, k])
            weight.append(1 / (where.kept & (step == step[q])).sum())  # a set counts once
    root = np.sqrt(weight)
    found = np.linalg.lstsq(np.array(x, float) * root[:, None], np.array(target) * root, rcond=None)[0]
    return found[1], found[0], dict(zip(rows, found[2:], strict=True))


LAYOUTS = [
    pytest.param({}, id="isolated"),
    pytest.param({"mode": "visible"}, id="visible"),
    pytest.param({"mode": "causal"}, id="causal"),
    pytest.param({"queries": "generated"}, id="generated rows"),
    pytest.param({"queries": "last"}, id="best tokens' rows"),
    pytest.param({"pruned": (6, 4)}, id="one of three pruned"),
    pytest.param({"pruned": (9, 5), "mode": "visible"}, id="one of two pruned: its set stays parallel"),
    pytest.param({"window": 5}, id="a sliding window"),
]


@pytest.mark.parametrize("options", LAYOUTS)
def test_delta_is_that_of_a_regression_with_a_column_for_every_row(options) -> None:
    where = made(**options)
    y = noise(where)
    line = fit(y, of_all(where))
    delta, slope, levels = oracle(y, where)
    assert line.delta == pytest.approx(delta, abs=1e-10)
    assert line.slope == pytest.approx(slope, abs=1e-10)
    assert {q for q in range(len(y)) if np.isfinite(line.level[q])} == set(levels)
    assert [line.level[q] for q in levels] == pytest.approx(list(levels.values()), abs=1e-9)


def test_the_coefficients_are_zero_on_every_key_that_does_not_count() -> None:
    where = made(mode="visible")
    share = coefficients(of_all(where))
    step = where.slot_step
    own_set = step[:, None] == step[None, :]
    assert (share[own_set] == 0).all()
    assert (share[:, :PROMPT] == 0).all()
    assert (share[~where.sees] == 0).all()
    assert np.allclose(share.sum(axis=1), 0)  # so the row's normaliser cancels
    assert (share * where.parallel).sum() == pytest.approx(1)
    assert (share * where.distance).sum() == pytest.approx(0, abs=1e-12)


def test_a_constant_of_every_row_changes_nothing() -> None:
    where = made()
    y = noise(where)
    closed = y + np.arange(len(y))[:, None]
    assert fit(closed, of_all(where)).delta == pytest.approx(fit(y, of_all(where)).delta, abs=1e-9)


@pytest.mark.parametrize(
    ("widths", "why"),
    [
        ((), "nothing was generated"),
        ((1, 1, 1, 1), "no parallel set"),
        ((2, 3, 2), "no singleton set"),
        ((1, 2), "no captured row sees both"),
        ((1, 2, 1), "too few sets to tell them apart"),
        ((1, 2, 1, 1), ""),
    ],
)
def test_what_is_undefined_says_why_and_is_nan_never_zero(widths, why) -> None:
    where = made(widths)
    assert undefined(where).find(why) >= 0
    assert bool(undefined(where)) == bool(why)
    assert np.isnan(fit(noise(where), of_all(where)).delta) == bool(why)


def planted(where: Layout, delta: float, recency: float = 0.1, cross: float = 0.0) -> np.ndarray:
    """Log attention without noise: parallel keys of earlier sets by delta, siblings by cross."""
    step = where.slot_step
    earlier = where.parallel & (step[:, None] != step[None, :])
    y = -3.0 - recency * where.distance + delta * earlier + cross * where.siblings
    return np.where(where.sees, y, -np.inf)


def test_without_noise_everything_is_exact() -> None:
    where = made(mode="visible")
    y = planted(where, np.log(0.5), 0.15, cross=0.4)
    line = fit(y, of_all(where))
    assert (line.delta, line.slope) == pytest.approx((np.log(0.5), -0.15))
    cross, _ = beside_siblings(y, line.level, where)
    assert cross == pytest.approx(0.4)
    deltas = by_step(y, of_all(where), where.slot_step, len(WIDTHS))
    assert np.isnan(deltas[:2]).all()  # no row of these sees both kinds
    assert deltas[2:] == pytest.approx(np.full(len(WIDTHS) - 2, np.log(0.5)))
    assert over_steps(deltas) == pytest.approx(0, abs=1e-12)


def test_the_slope_over_steps_needs_three_of_them() -> None:
    assert over_steps(np.array([np.nan, 0.1, np.nan, 0.3, 0.4])) == pytest.approx(0.1)
    assert np.isnan(over_steps(np.array([np.nan, 0.1, 0.3])))
    where = made(mode="visible")
    late = np.where(where.parallel, 0.05 * where.slot_step[:, None], 0.0)
    deltas = by_step(planted(where, 0.2) + late, of_all(where), where.slot_step, len(WIDTHS))
    assert over_steps(deltas) == pytest.approx(0.05)


def test_siblings_are_compared_with_the_keys_next_to_them_too() -> None:
    where = made((1, 1, 2, 1, 1, 2), "visible")
    y = planted(where, 0.0, recency=0.3, cross=0.4)
    line = fit(y, of_all(where))
    assert beside_siblings(y, line.level, where) == pytest.approx((0.4, 0.7))
    isolated = made((1, 1, 2, 1, 1, 2))
    assert np.isnan(beside_siblings(planted(isolated, 0.0), line.level, isolated)).all()


def test_a_set_that_receives_as_a_whole_what_a_singleton_does_has_delta_zero_per_set() -> None:
    where = made()
    shared = -np.log(where.width[np.maximum(where.slot_step, 0)])
    y = planted(where, 0.0) + np.where(where.slot_step >= 0, shared, 0.0)
    keys = with_both(context(where), where.parallel)
    assert per_set(y, keys, where) == pytest.approx(0, abs=1e-12)
    assert fit(y, of_all(where)).delta < -0.5


def test_the_legacy_ratio_is_mean_over_mean_sink_and_all() -> None:
    where = made((1, 2, 1))
    weights = np.where(where.sees, 0.1, 0.0)
    weights[:, 0] = 0.5
    weights[:, where.parallel] *= 2
    # Rows of the parallel set see one parallel key, the last row two; others are 5, and 6 keys.
    by_hand = np.mean([0.2 / ((0.5 + 0.4) / 5)] * 2 + [0.2 / ((0.5 + 0.5) / 6)])
    assert legacy_ratio(weights, where) == pytest.approx(by_hand)
    assert np.isnan(legacy_ratio(weights, made((1, 1))))


@pytest.mark.parametrize("options", LAYOUTS)
def test_placebo_labels_are_deltas_of_other_labels(options) -> None:
    where = made(**options)
    y = noise(where)
    drawn = placebo(y, where, draws=50, seed=3)
    labels = np.random.default_rng(3).permuted(np.broadcast_to(where.width >= 2, (50, 10)), axis=1)
    for delta, wide in zip(drawn[:10], labels, strict=False):
        called = np.where(where.slot_step >= 0, wide[where.slot_step], False)
        keys = with_both(context(where), called)
        other = fit(y, terms(keys, where.distance, called, where.weight)).delta
        assert delta == pytest.approx(other, abs=1e-9, nan_ok=True)
    assert np.isfinite(drawn).mean() > 0.8


# --- readouts


def test_a_readout_does_not_diverge_from_itself() -> None:
    logs = divergence.normalised(np.random.default_rng(1).normal(0, 3, (5, 1000)))
    assert (divergence.kl(logs, logs) == 0).all()
    assert divergence.cosine(logs, logs) == pytest.approx(np.ones(5), abs=1e-12)


def test_the_divergence_of_a_tilted_gaussian_is_the_analytic_one() -> None:
    x = np.linspace(-12, 12, 20_001)
    one, other = (divergence.normalised(-((x - mean) ** 2) / 2)[None] for mean in (0.0, 0.7))
    assert divergence.kl(one, other) == pytest.approx([0.7**2 / 2], abs=1e-6)


def test_a_token_of_no_weight_counts_for_nothing_unless_the_other_gives_it_some() -> None:
    with np.errstate(divide="ignore"):
        one, other = np.log([[0.5, 0.5, 0.0]]), np.log([[0.25, 0.25, 0.5]])
    assert divergence.kl(one, other) == pytest.approx([np.log(2)])
    assert divergence.kl(other, one) == [np.inf]


def test_of_equal_tokens_the_lower_id_is_the_better_one() -> None:
    logs = np.array([[0.0, 2.0, 1.0, 2.0, 1.0, 1.0]])
    assert divergence.top(logs, 4).tolist() == [[1, 3, 2, 4]]
    assert divergence.top(logs, 6).tolist() == [[1, 3, 2, 4, 5, 0]]


@pytest.mark.parametrize("vocab", [20, 700, 10_241, 20_000])
def test_the_best_tokens_are_those_of_a_full_sort_however_many_tokens_there_are(vocab: int) -> None:
    logs = np.random.default_rng(3).integers(0, 300, (4, vocab)) / 8.0  # with many equal ones
    everything = np.argsort(-logs, axis=1, kind="stable")
    assert np.array_equal(divergence.top(logs, 20), everything[:, :20])


def test_overlap_is_common_tokens_over_all_tokens() -> None:
    one, other = np.array([[1, 2, 3], [1, 2, 3]]), np.array([[3, 1, 9], [3, 2, 1]])
    assert divergence.jaccard(one, other).tolist() == [0.5, 1.0]


def test_the_zero_of_logits_is_arbitrary() -> None:
    logs = np.random.default_rng(2).normal(0, 1, (2, 50))
    assert divergence.centred(logs) == pytest.approx(divergence.centred(logs + 7))
