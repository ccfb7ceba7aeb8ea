"""exp, SwiGLU, GELU and softmax where MLX's are slow: on x86-64 CPUs it takes them one element at a time.

There numpy's vectorised float32 functions work on the memory of the MLX arrays. So an input is evaluated
when the function is called, and no gradient comes through. All else (a GPU, Apple, ARM, other dtypes, and
calls within `mx.compile` or `mx.vmap`) gets what MLX has.
"""

import math
import platform
import sys
from collections.abc import Callable

import mlx.core as mx
import numpy as np
from mlx.nn.layers import activations
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Activation = Callable[[mx.array], mx.array]

plain_silu: Activation = activations.silu
plain_gelu_approx: Activation = activations.gelu_approx

X86_LINUX = sys.platform == "linux" and platform.machine() == "x86_64"
GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def worthwhile() -> bool:
    """Whether MLX's own functions are the slow ones here: on the CPU of an x86-64 Linux machine."""
    return X86_LINUX and mx.default_device() == mx.Device(mx.cpu)


def exp(x: mx.array) -> mx.array:
    """e^x, of float32 to within 2.1e-7 of its value; same shape."""
    place = _place(x)
    if place is None:
        return mx.exp(x)
    result, made = place
    with np.errstate(all="ignore"):
        np.exp(_seen(x), out=made)
    return result


def silu(x: mx.array) -> mx.array:
    """x * sigmoid(x); same shape."""
    place = _place(x)
    if place is None:
        return plain_silu(x)
    result, made = place
    _silu(_seen(x), made)
    return result


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """gate * sigmoid(gate) * x, all of one shape; for `mlx_lm.models.activations.swiglu`."""
    place = _place(gate, x)
    if place is None:
        return plain_silu(gate) * x
    result, made = place
    _silu(_seen(gate), made)
    made *= _seen(x)
    return result


def gelu_approx(x: mx.array) -> mx.array:
    """GELU by tanh, for `mlx.nn.gelu_approx`; same shape."""
    place = _place(x)
    if place is None:
        return plain_gelu_approx(x)
    result, made = place
    seen = _seen(x)
    with np.errstate(all="ignore"):
        np.multiply(seen, seen, out=made)
        made *= GELU_SCALE * GELU_CUBIC
        made += GELU_SCALE
        made *= seen
        np.tanh(made, out=made)
        made += 1
        made *= 0.5
        made *= seen
    return result


def log_softmax_parts(scores: mx.array) -> tuple[mx.array, mx.array]:
    """Softmax over the last axis, and its logarithm: two arrays of the shape of scores.

    A key that is hidden (-inf) has weight 0 and logarithm -inf; so have all keys of a row that hides all.
    """
    place, other = _place(scores), _place(scores)
    if place is None or other is None:
        return _plain_parts(scores)
    (weights, made), (logs, made_logs) = place, other
    _parts(*(array.reshape(-1, scores.shape[-1]) for array in (_seen(scores), made, made_logs)))
    return weights, logs


def _plain_parts(scores: mx.array) -> tuple[mx.array, mx.array]:
    most = mx.max(scores, axis=-1, keepdims=True)
    logs = scores - mx.where(most == -math.inf, 0, most)
    weights = mx.exp(logs)
    total = mx.sum(weights, axis=-1, keepdims=True)
    total = mx.where(total == 0, 1, total)
    return weights / total, logs - mx.log(total)


def _parts(scores: Floats, weights: Floats, logs: Floats) -> None:
    """Fill weights and logarithms, (rows, keys) like scores."""
    with np.errstate(all="ignore"):
        most = scores.max(axis=1, keepdims=True)
        most[np.isneginf(most)] = 0  # a row that hides all: -inf - 0, and not -inf - -inf
        np.subtract(scores, most, out=logs)
        np.exp(logs, out=weights)
        total = np.einsum("rk->r", weights)[:, None]
        total[total == 0] = 1
        weights /= total
        logs -= np.log(total)


def _silu(x: Floats, made: Floats) -> None:
    with np.errstate(all="ignore"):
        np.negative(x, out=made)
        np.exp(made, out=made)
        made += 1
        np.divide(x, made, out=made)


def _place(x: mx.array, *others: mx.array) -> tuple[mx.array, Floats] | None:
    """A new array like x, and its memory, with all inputs evaluated; nothing where MLX is to do the work.

    MLX's memory is used again and again. Numpy's would be new each time, and its first touch costs more than
    the arithmetic.
    """
    inputs = (x, *others)
    if not worthwhile() or any(each.dtype != mx.float32 or each.shape != x.shape for each in inputs):
        return None
    result = mx.zeros(x.shape, mx.float32)
    try:
        mx.eval(result, *inputs)
    except ValueError:  # a function is being compiled or vectorised, and the inputs have no values
        return None
    return result, _seen(result)


def _seen(x: mx.array) -> Floats:
    """The memory of an array."""
    seen: Floats = np.asarray(x)
    return seen
