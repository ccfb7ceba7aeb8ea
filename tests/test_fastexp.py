"""Fast exp, SwiGLU, GELU and softmax against numpy in float64 and against MLX's own."""

import math
from collections.abc import Callable, Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mlx_lm.models import activations
from numpy.typing import NDArray

from tempocube.capture import fastexp

TOLERANCE = 2.1e-7  # relative, of our exp
MLX_TOLERANCE = 3e-6  # of MLX's on x86-64
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
SHAPES = [(100, 8, 4, 40), (3, 2, 5, 7), (2, 3, 64, 64), (1, 2, 20, 334), (0, 4), (5, 1)]

FLOATS = st.floats(width=32)
FINITE = st.floats(-200, 200, width=32)
SCORES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=9),
    elements=st.one_of(st.just(-math.inf), FINITE),
)

Array = NDArray[np.float32]


@pytest.fixture(autouse=True)
def on_the_cpu() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.Device(mx.cpu))
    yield
    mx.set_default_device(before)


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastexp, "X86_LINUX", True)


@pytest.fixture(params=[True, False], ids=["ours", "mlx"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds for our functions, and where MLX's own are taken."""
    monkeypatch.setattr(fastexp, "X86_LINUX", request.param)


def values(function: Callable[[mx.array], mx.array], x: Array) -> Array:
    return np.array(function(mx.array(x)))


def softmax(scores: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights and their logarithms in float64."""
    wide = scores.astype(np.float64)
    most = wide.max(-1, keepdims=True)
    logs = wide - np.where(np.isneginf(most), 0, most)
    total = np.exp(logs).sum(-1, keepdims=True)
    total[total == 0] = 1
    return np.exp(logs) / total, logs - np.log(total)


# --- exp


@pytest.mark.usefixtures("ours")
def test_exp_is_within_its_tolerance_over_the_normal_range() -> None:
    x = np.linspace(-87.33, 88.72, 1_000_003).astype(np.float32)
    assert np.abs(values(fastexp.exp, x) / np.exp(x.astype(np.float64)) - 1).max() < TOLERANCE


@pytest.mark.usefixtures("ours")
@given(st.floats(-87.3125, 88.6875, width=32))
def test_exp_of_any_number_agrees_with_the_exact_one(x: float) -> None:
    found = values(fastexp.exp, np.array([x], np.float32))[0]
    assert found == pytest.approx(math.exp(x), rel=TOLERANCE, abs=0)


@pytest.mark.usefixtures("both")
def test_exp_has_the_edges_of_exp() -> None:
    x = np.array([0, -0.0, -math.inf, -104, -1e30, 88.8, 1e30, math.inf, math.nan], np.float32)
    expected = np.array([1, 1, 0, 0, 0, math.inf, math.inf, math.inf, math.nan], np.float32)
    np.testing.assert_array_equal(values(fastexp.exp, x), expected)


@pytest.mark.usefixtures("ours")
def test_exp_fades_out_below_the_normal_range() -> None:
    x = np.linspace(-104, -87.3, 10_001).astype(np.float32)
    found = values(fastexp.exp, x)
    assert np.abs(found - np.exp(x.astype(np.float64))).max() < TOLERANCE * SMALLEST_NORMAL * 2
    assert (np.diff(found) >= 0).all()


@pytest.mark.usefixtures("ours")
@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=20), elements=FLOATS))
def test_exp_of_anything_is_as_mlx_has_it(x: Array) -> None:
    found, expected = values(fastexp.exp, x), values(mx.exp, x)
    near = ~(x > 88)  # there MLX is infinite too soon
    np.testing.assert_allclose(found[near], expected[near], rtol=MLX_TOLERANCE, atol=SMALLEST_NORMAL)


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float64, mx.complex64, mx.int32])
def test_other_dtypes_are_left_to_mlx(dtype: mx.Dtype) -> None:
    x = mx.arange(-4, 5).astype(dtype)
    found = fastexp.exp(x)
    assert found.dtype == mx.exp(x).dtype
    assert mx.array_equal(found, mx.exp(x)).item()


@pytest.mark.parametrize(
    "x", [mx.zeros((0,)), mx.zeros((3, 0, 2)), mx.array(0.0)], ids=["none", "flat", "one"]
)
@pytest.mark.usefixtures("both")
def test_shapes_without_extent_keep_their_shape(x: mx.array) -> None:
    assert fastexp.exp(x).shape == x.shape
    assert fastexp.silu(x).shape == x.shape
    assert fastexp.gelu_approx(x).shape == x.shape


@pytest.mark.usefixtures("both")
def test_views_are_read_in_their_own_order() -> None:
    x = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    for view in (lambda a: a[::2, 1:, ::-1], lambda a: a.swapaxes(0, 2)):
        expected = values(fastexp.exp, np.ascontiguousarray(view(x)))
        np.testing.assert_array_equal(np.array(fastexp.exp(view(mx.array(x)))), expected)
        weights, _ = fastexp.log_softmax_parts(view(mx.array(x)))
        np.testing.assert_allclose(np.array(weights), softmax(view(x))[0], rtol=1e-6)


@pytest.mark.usefixtures("both")
def test_inputs_stay_as_they_are() -> None:
    x = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    given, other = mx.array(x), mx.array(x)
    mx.eval(fastexp.exp(given), fastexp.silu(given), fastexp.swiglu(given, other), fastexp.gelu_approx(given))
    mx.eval(fastexp.log_softmax_parts(given))
    np.testing.assert_array_equal(np.array(given), x)
    np.testing.assert_array_equal(np.array(other), x)


@pytest.mark.usefixtures("both")
def test_results_can_be_computed_on_while_others_are_made() -> None:
    x = mx.random.normal((64, 64))
    first = fastexp.exp(x)
    later = first * 2
    del first
    others = [fastexp.exp(x * k) for k in range(5)]
    np.testing.assert_allclose(np.array(later), 2 * np.array(others[1]))


@pytest.mark.usefixtures("ours")
def test_within_a_compiled_or_vectorised_function_mlx_s_own_are_taken() -> None:
    x = mx.random.normal((4, 5), key=mx.random.key(2))
    for function in (fastexp.exp, fastexp.silu, fastexp.gelu_approx, lambda a: fastexp.swiglu(a, a)):
        for changed in (mx.compile(function), mx.compile(function, shapeless=True), mx.vmap(function)):
            np.testing.assert_allclose(np.array(changed(x)), np.array(function(x)), rtol=1e-5)
    weights, _ = mx.compile(fastexp.log_softmax_parts)(x)
    np.testing.assert_allclose(np.array(weights), np.array(fastexp.log_softmax_parts(x)[0]), rtol=1e-5)


# --- SwiGLU and GELU


@pytest.mark.usefixtures("ours")
def test_swiglu_and_silu_are_those_of_mlx() -> None:
    rng = np.random.default_rng(1)
    gate, x = (mx.array(rng.normal(0, 8, (50, 301)).astype(np.float32)) for _ in range(2))
    pairs = [(fastexp.swiglu(gate, x), activations.swiglu(gate, x)), (fastexp.silu(x), nn.silu(x))]
    for found, expected in pairs:
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=MLX_TOLERANCE, atol=1e-30)


@pytest.mark.usefixtures("both")
def test_silu_of_large_numbers_is_safe() -> None:
    x = np.array([-1e30, -1000, -100, -88.8, -30, 30, 88.8, 100, 1000, 1e30], np.float32)
    found = values(fastexp.silu, x)
    np.testing.assert_allclose(found, np.where(x > 0, x, 0), rtol=1e-6, atol=1e-10)


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 4), (4,)), ((1, 4), (3, 1))])
def test_swiglu_broadcasts(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    gate, x = (mx.random.normal(shape, key=mx.random.key(5)) for shape in shapes)
    found = fastexp.swiglu(gate, x)
    np.testing.assert_allclose(np.array(found), np.array(activations.swiglu(gate, x)), rtol=1e-6)


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_swiglu_keeps_its_dtype(dtype: mx.Dtype) -> None:
    gate = mx.arange(-4, 5).astype(dtype)
    assert fastexp.swiglu(gate, gate).dtype == dtype
    assert fastexp.gelu_approx(gate).dtype == dtype


@pytest.mark.usefixtures("ours")
@given(hnp.arrays(np.float32, 30, elements=st.floats(-50, 50, width=32)))
def test_gelu_is_that_of_mlx(x: Array) -> None:
    found, expected = values(fastexp.gelu_approx, x), values(nn.gelu_approx, x)
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-6)


# --- softmax


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights_and_logarithms_are_those_of_softmax(shape: tuple[int, ...]) -> None:
    scores = np.random.default_rng(2).normal(0, 6, shape).astype(np.float32)
    found = fastexp.log_softmax_parts(mx.array(scores))
    for array, expected in zip(found, softmax(scores) if scores.size else (scores, scores), strict=True):
        assert array.shape == shape
        np.testing.assert_allclose(np.array(array), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.usefixtures("both")
@given(SCORES)
def test_hidden_keys_get_no_weight_and_the_others_all_of_it(scores: Array) -> None:
    weights, logs = (np.array(part) for part in fastexp.log_softmax_parts(mx.array(scores)))
    hidden = np.isneginf(scores)
    assert (weights[hidden] == 0).all()
    assert np.isneginf(logs[hidden]).all()
    assert np.isfinite(logs[~hidden]).all()
    sums = weights.sum(-1)
    np.testing.assert_allclose(sums, ~hidden.all(-1), rtol=1e-6)
    for found, expected in zip((weights, logs), softmax(scores), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=4e-5)


@pytest.mark.usefixtures("both")
def test_a_row_that_hides_all_is_zero_without_nan() -> None:
    scores = np.full((2, 3, 5), -math.inf, np.float32)
    scores[0, 1, 2:4] = 7
    weights, logs = (np.array(part) for part in fastexp.log_softmax_parts(mx.array(scores)))
    np.testing.assert_array_equal(weights[0, 1], np.array([0, 0, 0.5, 0.5, 0], np.float32))
    assert weights.sum() == 1
    assert np.isneginf(logs).sum() == logs.size - 2


@pytest.mark.usefixtures("both")
def test_long_rows_sum_to_one() -> None:
    scores = np.random.default_rng(3).normal(0, 1, (4, 20_000)).astype(np.float32)
    weights, logs = (np.array(part) for part in fastexp.log_softmax_parts(mx.array(scores)))
    np.testing.assert_allclose(weights.sum(-1, dtype=np.float64), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(logs.astype(np.float64)), weights, rtol=5e-6)


@pytest.mark.usefixtures("both")
def test_logarithms_stay_exact_where_weights_fade_out() -> None:
    weights, logs = (np.array(part) for part in fastexp.log_softmax_parts(mx.array([0.0, -150.0, -1e6])))
    np.testing.assert_array_equal(weights, [1, 0, 0])
    np.testing.assert_array_equal(logs, np.array([0, -150, -1e6], np.float32))


# --- where


@pytest.mark.parametrize("x86", [True, False])
def test_it_is_worthwhile_only_on_the_cpu_of_x86_linux(x86: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastexp, "X86_LINUX", x86)
    assert fastexp.worthwhile() == x86
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    assert not fastexp.worthwhile()


def test_where_it_is_not_worthwhile_the_results_are_mlx_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastexp, "X86_LINUX", False)
    x = mx.random.normal((30, 30), key=mx.random.key(1))
    assert mx.array_equal(fastexp.exp(x), mx.exp(x)).item()
    assert mx.array_equal(fastexp.swiglu(x, x + 1), activations.swiglu(x, x + 1)).item()
    assert mx.array_equal(fastexp.gelu_approx(x), nn.gelu_approx(x)).item()
