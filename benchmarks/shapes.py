"""Random models of a given shape, as checkpoints to load, and the arithmetic that a run of one takes."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tempocube.capture.model import embedded_path
from tempocube.dataset.schema import ModelFacts

SEED = 11
# Standard deviation of a readout's logits: at a threshold of 0.1 a set has one token to four, as with a
# trained model. And of attention's scores, about: its maps are neither flat nor all on one key.
LOGITS, SCORES = 8.0, 2.0
PART = 1_000_000_000  # bytes of a file of weights, about

Half = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Shape:
    """A llama whose output head is its embedding."""

    name: str
    layers: int
    heads: int
    head_dim: int
    neurons: int
    vocab: int
    kv_heads: int | None = None  # None: as many as heads

    @property
    def kv_width(self) -> int:
        """Width of all keys of a token, or of all values."""
        return (self.kv_heads or self.heads) * self.head_dim

    @property
    def parameters(self) -> int:
        """How many weights there are."""
        layer = 2 * self.hidden * (self.hidden + self.kv_width) + 3 * self.hidden * self.neurons
        return self.layers * (layer + 2 * self.hidden) + (self.vocab + 1) * self.hidden

    @property
    def hidden(self) -> int:
        """Width of the stream."""
        return self.heads * self.head_dim


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 2, 4, 8, 48, 4200),
        Shape("110m", 12, 12, 64, 2048, 32_000),
        Shape("3b", 28, 24, 128, 8192, 128_256, kv_heads=8),
        Shape("tiny-3b", 2, 6, 8, 48, 4200, kv_heads=2),  # the same in small
    )
}


def checkpoint(folder: Path, shape: Shape) -> Path:
    """Write a random model in float16; its tokenizer is the embedded one and more words, as it needs."""
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.neurons,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads or shape.heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    source = embedded_path()
    (folder / "tokenizer_config.json").write_bytes((source / "tokenizer_config.json").read_bytes())
    words = json.loads((source / "tokenizer.json").read_text("utf-8"))
    known = words["model"]["vocab"]
    known |= {f"w{number}": number for number in range(len(known), shape.vocab)}
    (folder / "tokenizer.json").write_text(json.dumps(words), "utf-8")
    _save(folder, weights(shape))
    return folder


def _save(folder: Path, named: Iterator[tuple[str, Half]]) -> None:
    """Part by part, with an index as larger models have it: they never are in memory together."""
    part: dict[str, Half] = {}
    names: dict[str, str] = {}

    def leave() -> None:
        file = f"model-{len(set(names.values())) + 1:05}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        names.update(dict.fromkeys(part, file))
        part.clear()

    for name, weight in named:
        if part and sum(each.nbytes for each in part.values()) + weight.nbytes > PART:
            leave()
        part[name] = weight
    leave()
    index = {"metadata": {}, "weight_map": names}  # transformers wants both
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def weights(shape: Shape) -> Iterator[tuple[str, Half]]:
    """Every weight by name."""
    rng = np.random.default_rng(SEED)
    hidden, neurons = shape.hidden, shape.neurons
    width, sharp = shape.kv_width, math.sqrt(SCORES)
    sides = {"self_attn.v_proj": (width, hidden, 1.0), "self_attn.o_proj": (hidden, hidden, 1.0)}
    sides |= {"self_attn.q_proj": (hidden, hidden, sharp), "self_attn.k_proj": (width, hidden, sharp)}
    sides |= {f"mlp.{name}_proj": (neurons, hidden, 1.0) for name in ("gate", "up")}
    sides["mlp.down_proj"] = (hidden, neurons, 1.0)
    yield "model.embed_tokens.weight", _drawn(rng, shape.vocab, hidden, LOGITS)
    yield "model.norm.weight", np.ones(hidden, np.float16)
    for layer in range(shape.layers):
        here = f"model.layers.{layer}"
        yield f"{here}.input_layernorm.weight", np.ones(hidden, np.float16)
        yield f"{here}.post_attention_layernorm.weight", np.ones(hidden, np.float16)
        for name, (out, given, gain) in sides.items():
            yield f"{here}.{name}.weight", _drawn(rng, out, given, gain)


def _drawn(rng: np.random.Generator, out: int, given: int, gain: float) -> Half:
    drawn = rng.standard_normal((out, given), dtype=np.float32)
    drawn *= gain / math.sqrt(given)
    return drawn.astype(np.float16)


def in_layers(facts: ModelFacts) -> int:
    """Weights of all layers that a node is multiplied with (of a SwiGLU model)."""
    attention = 2 * facts.hidden * (facts.heads + facts.kv_heads) * facts.head_dim
    return facts.layers * (attention + 3 * facts.hidden * facts.neurons)


def operations(facts: ModelFacts, nodes: int, read: int, lengths: Sequence[int]) -> float:
    """Floating-point operations of nodes fed and readouts made; lengths: slots of every experiment.

    A node attends to as many slots as one of these experiments does on average.
    """
    seen = sum(length * (length + 1) / 2 for length in lengths) / sum(lengths)
    attention = 2 * facts.layers * facts.heads * facts.head_dim * seen
    return 2 * (nodes * (in_layers(facts) + attention) + read * facts.hidden * facts.vocab)
