"""Before a model is used: does the tap do what the model would have done? On a few tokens, in a second or so.

An architecture that mlx-lm has changed, or that does something of its own, is found out here and refused.
"""

import os
from collections.abc import Sequence
from typing import Any

from . import model as models  # first: it prepares the BLAS before MLX is there  # isort: skip

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

from ..dataset.visibility import NEVER
from ..errors import BadInput
from . import blas
from .forest import Feed, Forest
from .model import Model
from .select import log_softmax
from .tap import Tap, Unfit
from .wanted import Wanted

SENTENCE = "The scientist opened the door and saw that the lamp was still burning."
WIDE = 512  # hidden size from which on more than one BLAS thread pays
TOKENS = 12
# Log-probabilities that two ways of computing the same may differ by; a wrong mask or position is worth nats.
TOLERANCE = {mx.float32: 5e-3, mx.float16: 0.2, mx.bfloat16: 0.5}

Floats = npt.NDArray[np.float64]
Sets = Sequence[tuple[int, ...]]


def load(name: str, cores: int | None = None) -> Model:
    """A model that has passed: the one way to get one for a run, with as many BLAS threads as pay.

    Products of a small model gain nothing from threads, which lose much time by waiting for each other on a
    busy machine. Without `cores`, OPENBLAS_NUM_THREADS counts, and else all cores of the machine.
    """
    model = models.load(name)
    if cores is not None or "OPENBLAS_NUM_THREADS" not in os.environ:
        blas.set_threads(1 if model.facts.hidden < WIDE else cores or os.cpu_count() or 1)
    check(model)
    return model


def check(model: Model) -> dict[str, float]:
    """How far two ways of computing the same are apart, by name; refuses the model if that is too far."""
    try:
        found = _compared(model)
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _unfit(model, f"it {reason}") from error
    most = TOLERANCE[coarsest(model)]
    wrong = [f"{name} by {apart:.2g}" for name, apart in found.items() if not apart <= most]
    if wrong:
        raise _unfit(model, f"log-probabilities differ between {', '.join(wrong)} (at most {most:g})")
    return found


def _unfit(model: Model, reason: str) -> BadInput:
    return BadInput(f"{model.name}: {model.config['model_type']} cannot be observed: {reason}")


def coarsest(model: Model) -> mx.Dtype:
    """The least exact of the kinds of number that a model's weights are held in."""
    named: Any = tree_flatten(model.net.parameters())
    held = {value.dtype for _, value in named}
    return max((kind for kind in TOLERANCE if kind in held), key=lambda kind: TOLERANCE[kind])


def _compared(model: Model) -> dict[str, float]:
    tokens, siblings = _words(model)
    short, wide = tokens[: max(1, len(tokens) // 2)], len(siblings)
    packed, turned, other = _rows(
        model, [tokens, tokens, short], [[siblings], [siblings[::-1]], [siblings[:1]]], "isolated"
    )
    lone = _rows(model, [tokens], [[siblings]], "isolated")[0]
    stepwise = _rows(model, [short], [[(token,) for token in tokens[len(short) :]]], "isolated")
    fused = _plain(model, [tokens])[0]
    each_alone = _plain(model, [(*tokens, sibling) for sibling in siblings])[:, -1]
    return {
        "our attention and the model's own": _apart(packed[: len(tokens)], fused),
        "packed and alone": max(_apart(packed, lone), _apart(other[: len(short)], fused[: len(short)])),
        "step by step and at once": _apart(stepwise[0], fused),
        "two orders of siblings": _apart(packed[-wide:], turned[-wide:][::-1]),
        "isolated siblings and each of them alone": _apart(packed[-wide:], each_alone),
    }


def _words(model: Model) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of the sentence, cut to what fits in a short context too, and others that stand in for a set."""
    encoded: list[int] = model.tokenizer.encode(SENTENCE)
    model.check_tokens(encoded)
    different = tuple(dict.fromkeys(encoded))
    return tuple(encoded[: max(2, min(TOKENS, model.context - 3))]), different[1:4] or different


def _plain(model: Model, texts: Sequence[tuple[int, ...]]) -> Floats:
    """(text, token, vocab): log-probabilities as the model alone gives them, of texts of one length."""
    logits = _on_host(model.net(mx.array(np.asarray(texts))))
    return log_softmax(logits.reshape(-1, logits.shape[-1])).reshape(logits.shape)


def _rows(model: Model, prompts: Sequence[tuple[int, ...]], sets: Sequence[Sets], sight: str) -> list[Floats]:
    """(slot, vocab) log-probabilities after every slot of experiments that take these sets."""
    forest, logprob = Forest(model.facts.windows), []
    pruned = [np.full(len(prompt), NEVER, np.int32) for prompt in prompts]
    histories: dict[int, npt.NDArray[np.int32]] = {}
    with Tap(model, Wanted()) as tap:
        for feed in forest.plant(prompts, [()] * len(prompts)):
            logprob.append(_passed(tap, feed))
        for step in range(max(map(len, sets))):
            going = {i: own[step] for i, own in enumerate(sets) if step < len(own)}
            logprob.append(_passed(tap, forest.grow(going, [sight] * len(prompts), pruned)))
            for i, taken in going.items():
                pruned[i] = np.append(pruned[i], np.full(len(taken), NEVER, np.int32))
            histories |= {i: branch.node for branch in forest.branches for i in branch.members}
    rows = np.concatenate(logprob)
    return [rows[histories[i]] for i in range(len(prompts))]


def _passed(tap: Tap, feed: Feed) -> Floats:
    passed = tap.forward(feed, range(feed.token.size))
    if not passed.pooled:
        raise Unfit("does not take every token into the cache and the attention of every layer")
    return log_softmax(passed.logits)


def _on_host(logits: mx.array) -> npt.NDArray[np.float32]:
    return np.asarray(logits.astype(mx.float32))


def _apart(one: Floats, two: Floats) -> float:
    return float(np.abs(one - two).max())
