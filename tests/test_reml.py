"""The REML criterion against its definition, and the optimiser where optimisers go wrong."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize

from tempocube.stats import reml

Array = npt.NDArray[np.float64]


def problem(
    seed: int, sds: tuple[float, ...] = (1.0, 0.5), slope: float | None = None, lost: int = 0
) -> reml.Problem:
    """Ten groups of eight in two halves: intercepts (and slopes) of groups, intercepts of halves, noise."""
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(80)[: 80 - lost])
    group, half = np.repeat(np.arange(10), 8)[kept], np.repeat(np.arange(20), 4)[kept]
    x = rng.normal(size=80)[kept]
    y = sds[0] * rng.normal(size=10)[group] + sds[1] * rng.normal(size=20)[half] + rng.normal(size=len(kept))
    values = np.ones((len(kept), 1))
    if slope is not None:
        y = y + slope * rng.normal(size=10)[group] * x
        values = np.column_stack([values, x])
    q = np.linalg.qr(np.column_stack([np.ones(len(kept)), x]))[0]
    blocks = [reml.kernels(group, values), reml.kernels(half, np.ones((len(kept), 1)))]
    return reml.Problem(y - q @ (q.T @ y), q, np.concatenate(blocks), (values.shape[1], 1))


def value(of: reml.Problem, theta: Array) -> float:
    """The criterion by its definition, from the residual contrasts' normal density."""
    g = reml.relative(reml.quadratic(of.sizes)[0], theta)
    n, p = of.q.shape
    contrasts = np.linalg.svd(np.eye(n) - of.q @ of.q.T)[0][:, : n - p]
    v = contrasts.T @ (np.eye(n) + np.tensordot(g, of.kernels, axes=1)) @ contrasts
    z = contrasts.T @ of.y
    return float(np.linalg.slogdet(v)[1] + (n - p) * np.log(z @ np.linalg.solve(v, z)))


@pytest.mark.parametrize("slope", [None, 0.7])
def test_the_criterion_is_the_density_of_residual_contrasts(slope: float | None) -> None:
    of = problem(1, slope=slope, lost=9)
    k, bounded = reml.quadratic(of.sizes)
    theta = np.linspace(0.3, 1.2, len(bounded))
    assert reml.state(of, reml.relative(k, theta)).value == pytest.approx(value(of, theta), abs=1e-9)


@pytest.mark.parametrize("slope", [None, 0.7])
def test_slopes_and_curvature_are_the_derivatives(slope: float | None) -> None:
    of = problem(2, slope=slope, lost=5)
    g = np.array([0.9, 0.2, 0.6, 0.3] if slope else [0.9, 0.3])
    here, h = reml.state(of, g), 1e-5
    for i in range(len(g)):
        step = h * (np.arange(len(g)) == i)
        up, down = reml.state(of, g + step), reml.state(of, g - step)
        assert here.slope[i] == pytest.approx((up.value - down.value) / (2 * h), abs=1e-6)
        np.testing.assert_allclose(reml.curvature(of, here)[i], (up.slope - down.slope) / (2 * h), atol=1e-5)


def test_relative_variances_are_the_product_of_the_root_with_itself() -> None:
    k, bounded = reml.quadratic((3, 1))
    theta = np.arange(1.0, 8.0)
    root = np.array([[1, 0, 0], [2, 4, 0], [3, 5, 6.0]])
    whole = root @ root.T
    np.testing.assert_allclose(reml.relative(k, theta), [*(whole[place] for place in reml.triangle(3)), 49])
    assert bounded.tolist() == [True, False, False, True, False, True, True]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("sds", "slope"), [((1.0, 0.5), None), ((0.0, 0.0), None), ((300.0, 0.2), None), ((0.3, 0.0), 0.0)]
)
def test_no_simplex_search_finds_a_better_optimum(
    seed: int, sds: tuple[float, ...], slope: float | None
) -> None:
    of = problem(seed, sds, slope, lost=8)
    k, bounded = reml.quadratic(of.sizes)
    best = reml.maximise(of)
    assert best.converged

    def at(theta: Array) -> float:
        return reml.state(of, reml.relative(k, theta)).value

    options = {"xatol": 1e-6, "fatol": 1e-9, "maxfev": 800}
    others = [
        optimize.minimize(at, s * bounded, method="Nelder-Mead", options=options).fun for s in (0.1, 2.0)
    ]
    assert best.state.value <= min(others) + 1e-7


def test_a_variance_of_zero_is_exactly_zero_and_cannot_grow() -> None:
    best = reml.maximise(problem(3, (0.0, 0.0)))
    assert best.converged
    zero = best.theta == 0
    assert zero.any()
    assert (best.state.slope[zero] > 0).all()


def test_a_start_on_a_false_boundary_is_left() -> None:
    of = problem(4, (2.0, 1.0))
    k, bounded = reml.quadratic(of.sizes)
    stuck, _ = reml._descend(of, k, bounded, np.zeros(2))
    assert not stuck.any()  # in theta, 0 is flat
    released = reml._release(of, k, stuck)
    assert released is not None
    assert reml.state(of, reml.relative(k, released)).value < reml.state(of, np.zeros(2)).value


@pytest.mark.parametrize("almost", [1e-15, 1e-9, 1e-6, 1e-5])
def test_a_theta_of_almost_0_is_left_as_0_is(almost: float) -> None:
    of = problem(4, (2.0, 1.0))
    k, _ = reml.quadratic(of.sizes)
    stuck = np.array([reml.maximise(of).theta[0], almost])
    released = reml._release(of, k, stuck)
    assert released is not None
    assert reml.state(of, reml.relative(k, released)).value < reml.state(of, reml.relative(k, stuck)).value


@pytest.mark.parametrize("slope", [None, 0.7])
def test_the_compact_problem_has_the_same_criterion_in_fewer_rows(slope: float | None) -> None:
    of = problem(7, slope=slope, lost=6)
    small = reml.compact(of)
    assert small.freedom == of.freedom
    assert len(small.y) < len(of.y) - of.q.shape[1]
    for g in np.random.default_rng(8).uniform(0.5, 1.5, (3, len(of.kernels))):
        g[1:-1] /= 10  # a covariance below the variances
        whole, here = reml.state(of, g), reml.state(small, g)
        assert here.value == pytest.approx(whole.value, abs=1e-9)
        np.testing.assert_allclose(here.slope, whole.slope, atol=1e-9)
        np.testing.assert_allclose(reml.curvature(small, here), reml.curvature(of, whole), atol=1e-8)


def test_where_covariances_have_several_optima_the_best_is_taken() -> None:
    rng = np.random.default_rng(473)
    group, other, x = rng.integers(0, 6, 24), rng.integers(0, 4, 24), rng.normal(3, 1, 24)
    y = rng.normal(size=24) + rng.normal(size=6)[group]
    values = np.column_stack([np.ones(24), x])
    q = np.linalg.qr(values)[0]
    blocks = [reml.kernels(group, values), reml.kernels(other, values)]
    of = reml.Problem(y - q @ (q.T @ y), q, np.concatenate(blocks), (2, 2))
    k, bounded = reml.quadratic(of.sizes)
    starts = [1.0 * bounded, *(np.where(bounded, 1.0, lean) for lean in (-0.7, 0.7))]
    found = [reml._descend(of, k, bounded, start)[1] for start in starts]
    assert max(found) - min(found) > 1e-4  # there are several
    assert reml.maximise(of).state.value <= min(found) + 1e-9


def test_variances_six_orders_above_the_residual_are_found() -> None:
    of = problem(5, (2000.0, 1000.0))
    best = reml.maximise(of)
    assert best.converged
    inside = np.column_stack([np.kron(np.eye(20), np.ones((4, 1))), of.q])
    left = of.y - inside @ np.linalg.lstsq(inside, of.y)[0]
    # With so much between halves nothing about the residual is learnt from there.
    assert best.state.rss / 78 == pytest.approx(left @ left / (80 - 21), rel=1e-5)


def test_three_correlated_effects_are_fitted() -> None:
    rng = np.random.default_rng(6)
    group = np.repeat(np.arange(30), 10)
    values = np.column_stack([np.ones(300), rng.normal(size=(300, 2))])
    truth = np.array([[1.0, 0, 0], [0.5, 0.8, 0], [-0.4, 0.3, 0.6]])
    y = np.sum(values * (rng.normal(size=(30, 3)) @ truth.T)[group], axis=1) + 0.5 * rng.normal(size=300)
    q = np.linalg.qr(values)[0]
    best = reml.maximise(reml.Problem(y - q @ (q.T @ y), q, reml.kernels(group, values), (3,)))
    assert best.converged
    whole = np.zeros((3, 3))
    for place, g in zip(reml.triangle(3), best.g, strict=True):
        whole[place] = whole[place[::-1]] = g * best.state.rss / 297
    np.testing.assert_allclose(whole, truth @ truth.T, atol=0.6)
    assert np.linalg.eigvalsh(whole).min() > 0
