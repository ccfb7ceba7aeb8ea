"""Loading a model: its tokenizer, its shape, and its weights, checked to be what config.json says."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from . import architecture  # first: it prepares the BLAS before MLX is there  # isort: skip

import mlx.core as mx
import mlx.nn as nn
from huggingface_hub.errors import StrictDataclassError
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import dequantize_model, load_config, load_model, load_tokenizer
from transformers import AutoConfig

from ..dataset.schema import ModelFacts
from ..errors import BadInput, TempoError
from . import checkpoint, config
from .angles import check_angles
from .architecture import attention_modules, one_line
from .checkpoint import embedded_path, find
from .config import Config

__all__ = [
    "Model",
    "Reader",
    "attention_modules",
    "embedded_path",
    "facts",
    "find",
    "load",
    "tokenizer",
    "weight_bytes",
]

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a part of a character decodes to
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.tiktoken")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A model's words: what it needs to make tokens of a prompt and text of tokens, without weights.

    `context`: positions that a prompt and its sets may take together.
    """

    name: str
    path: Path
    config: Config = field(repr=False)
    tokenizer: TokenizerWrapper = field(repr=False)
    vocab: int
    context: int
    end_tokens: frozenset[int]
    _texts: dict[int, str] = field(default_factory=dict, repr=False, compare=False)

    def prompt_tokens(self, text: str, sets: int = 0) -> list[int]:
        """Tokens of a prompt as `mlx_lm.generate` makes them, with room for so many sets after them."""
        if not text:
            raise BadInput("an empty prompt: it needs at least one character")
        bos = self.tokenizer.bos_token
        try:
            tokens = self.tokenizer.encode(text, add_special_tokens=not (bos and text.startswith(bos)))
        except (TypeError, UnicodeEncodeError):
            raise BadInput(
                f"prompt {text[:40]!r} is not text that UTF-8 can write (a lone surrogate?)"
            ) from None
        if not tokens:
            raise BadInput(f"prompt {text[:40]!r} has no tokens for {self.name}: it needs at least one")
        self.check_tokens(tokens)
        self._check_known(text, tokens)
        if len(tokens) + sets > self.context:
            after = f" and {sets} sets" if sets else ""
            raise BadInput(
                f"prompt {text[:40]!r} has {len(tokens)} tokens{after}, {len(tokens) + sets} positions; "
                f"{self.name} has {self.context}"
            )
        return list(tokens)

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Refuse a token id that is not in the vocabulary."""
        wrong = next((token for token in tokens if not 0 <= token < self.vocab), None)
        if wrong is not None:
            raise BadInput(f"token {wrong} is not one of {self.name}, whose ids are 0 to {self.vocab - 1}")

    def _check_known(self, text: str, tokens: Sequence[int]) -> None:
        unknown, word = self.tokenizer.unk_token_id, self.tokenizer.unk_token
        # some tokenizers name their end token as the unknown one and never need it
        if unknown is None or unknown in self.end_tokens or unknown not in tokens or word in text:
            return
        raise BadInput(
            f"prompt {text[:40]!r} has a character that the tokenizer of {self.name} does not know"
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens."""
        return str(self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))

    def vocabulary(self) -> list[str]:
        """Text of every token as `text_of` has it; part of a character keeps its raw name."""
        before = self.tokenizer.encode("a", add_special_tokens=False)[-1:]
        start = len(self.decode(before))
        known = range(min(self.vocab, len(self.tokenizer)))
        texts = self.tokenizer.batch_decode(
            [[*before, token] for token in known], clean_up_tokenization_spaces=False
        )
        raw = self.tokenizer.convert_ids_to_tokens(list(known))
        named = [name if BROKEN in text else text[start:] for text, name in zip(texts, raw, strict=True)]
        return [*named, *("" for _ in range(self.vocab - len(known)))]

    def text_of(self, *tokens: int) -> str:
        """Text of tokens within a text, so with the space before a word; a character may need several."""
        if len(tokens) == 1 and tokens[0] in self._texts:
            return self._texts[tokens[0]]
        self.check_tokens(tokens)
        before = self.tokenizer.encode("a", add_special_tokens=False)[-1:]
        text = self.decode([*before, *tokens])[len(self.decode(before)) :]
        if len(tokens) == 1:
            self._texts[tokens[0]] = text
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Reader):
    """A loaded model; `net` is mlx-lm's, `module` the python module of its architecture.

    `attention_modules` are those that call `scaled_dot_product_attention` for it, usually `module` alone.
    """

    net: nn.Module = field(repr=False)
    module: ModuleType = field(repr=False)
    attention_modules: tuple[ModuleType, ...] = field(repr=False)
    facts: ModelFacts


@dataclass(frozen=True, slots=True)
class _Outline:
    """A checkpoint as far as config.json, translated to `full`, tells it; `net` has no weights yet."""

    path: Path
    full: config.Config
    net: nn.Module
    windows: tuple[int | None, ...]
    context: int
    kv_heads: int
    head_dim: int


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Whatever goes wrong with a model's files is one line that names the model."""
    try:
        yield
    except TempoError:
        raise
    except Exception as error:  # anyone may have written these files, and three libraries read them
        raise BadInput(f"{name}: cannot be loaded: {one_line(error)}") from error


def tokenizer(name: str) -> Reader:
    """What makes tokens of prompts for a model; loads no weights."""
    with _refusing(name):
        return Reader(**_reading(name, _outline(name)))


def facts(name: str) -> ModelFacts:
    """What a cube must know of a model, from its config and the hashes of its files; loads no weights."""
    with _refusing(name):
        return _facts(name, _outline(name))


def weight_bytes(name: str) -> int:
    """Bytes of a model's weights once it is loaded here; reads no weights."""
    with _refusing(name):
        outline = _outline(name)
        if not _on_cpu():
            return sum(path.stat().st_size for path in outline.path.glob(checkpoint.WEIGHTS))
        named: Any = tree_flatten(outline.net.parameters())
        return 4 * sum(int(value.size) for _, value in named)


def load(name: str) -> Model:
    """A model with its weights: in float32 on a CPU, as they are stored on a GPU."""
    with _refusing(name):
        outline = _outline(name)
        reading = _reading(name, outline)
        net = _with_weights(outline)
        return Model(
            **reading,
            net=net,
            module=architecture.module_of(net),
            attention_modules=tuple(attention_modules(net)),
            facts=_facts(name, outline),
        )


def _outline(name: str) -> _Outline:
    path = find(name)
    config.read(path)
    stored = load_config(path)  # with the end tokens of generation_config.json
    python_module = architecture.python_module(stored)
    full = config.translate(stored, architecture.argument_names(python_module))
    net, text = architecture.build(full), config.text_part(full)
    windows, read_by = architecture.windows(net), architecture.arguments(net)
    config.check_honoured(text | {"model_type": full["model_type"]}, read_by)
    context = config.context(text | {"model_type": full["model_type"]}, windows)
    check_angles(net, text | {"model_type": full["model_type"]}, _head_dim(read_by), windows)
    heads, head_dim = architecture.cached_heads(net, full["model_type"])
    return _Outline(path, full, net, windows, context, heads, head_dim)


def _size(read_by: dict[str, Any], *names: str) -> int | None:
    return next((read_by[name] for name in names if isinstance(read_by.get(name), int)), None)


def _needed(read_by: dict[str, Any], *names: str) -> int:
    found = _size(read_by, *names)
    if found is None:
        raise BadInput(f"config.json has no whole number {names[0]}, the same for all layers")
    return found


def _heads(read_by: dict[str, Any]) -> int:
    return _needed(read_by, "num_attention_heads", "n_head", "n_heads")


def _hidden(read_by: dict[str, Any]) -> int:
    return _needed(read_by, "hidden_size", "n_embd", "d_model", "dim")


def _head_dim(read_by: dict[str, Any]) -> int:
    return _size(read_by, "head_dim") or _hidden(read_by) // _heads(read_by)


def _facts(name: str, outline: _Outline) -> ModelFacts:
    read_by = architecture.arguments(outline.net)
    return ModelFacts(
        id=checkpoint.model_id(name),
        sha256=checkpoint.sha256(outline.path),
        layers=len(outline.net.layers),
        heads=_heads(read_by),
        kv_heads=outline.kv_heads,
        head_dim=outline.head_dim,
        hidden=_hidden(read_by),
        neurons=_size(read_by, "intermediate_size", "n_inner", "ffn_dim") or 4 * _hidden(read_by),
        vocab=_needed(read_by, "vocab_size"),
        windows=outline.windows if any(outline.windows) else (),
    )


def _reading(name: str, outline: _Outline) -> dict[str, Any]:
    read_by, path = architecture.arguments(outline.net), outline.path
    if not any(found for pattern in _TOKENIZERS for found in path.glob(pattern)):
        raise BadInput(f"{path.name}: no tokenizer.json; a model is a folder in Hugging Face layout")
    try:
        words = _words(path, outline.full)
    except (ValueError, OSError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise BadInput(f"{path.name}: its tokenizer cannot be loaded: {one_line(error)}") from None
    return {
        "name": checkpoint.model_id(name),
        "path": path,
        "config": outline.full,
        "tokenizer": words,
        "vocab": _needed(read_by, "vocab_size"),
        "context": outline.context,
        "end_tokens": frozenset(words.eos_token_ids),
    }


def _words(path: Path, full: config.Config) -> TokenizerWrapper:
    end = full.get("eos_token_id")
    words: TokenizerWrapper
    try:
        words = load_tokenizer(path, eos_token_ids=end)
    except StrictDataclassError:
        # transformers is stricter with config.json than mlx-lm, and takes nothing from it but the kind
        kind = AutoConfig.for_model(full["model_type"])
        words = load_tokenizer(path, {"config": kind}, eos_token_ids=end)
    return words


def _with_weights(outline: _Outline) -> nn.Module:
    checkpoint.check_weights(outline.path)
    try:
        net, _ = load_model(outline.path, lazy=True, model_config=outline.full)
    except UnboundLocalError:  # mlx-lm at a checkpoint without a single packed tensor
        asked = outline.full.get("quantization_config")
        raise BadInput(
            f"{outline.path.name}: no weight is stored as quantization_config {asked} says"
        ) from None
    except (ValueError, KeyError, TypeError, RuntimeError, NotImplementedError) as error:
        raise BadInput(f"{outline.path.name}: its weights do not fit its config: {one_line(error)}") from None
    if _on_cpu():
        net.apply(partial(_as_type, mx.float32))
        net = dequantize_model(net)
        net.apply(partial(_as_type, mx.float32))
    net.eval()
    mx.eval(net.parameters())
    return net


def _as_type(dtype: mx.Dtype, array: mx.array) -> mx.array:
    return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array


def _on_cpu() -> bool:
    return bool(mx.default_device().type == mx.DeviceType.cpu)
