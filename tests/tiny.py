"""Tiny random checkpoints of many architectures, with configs as transformers 5 writes them."""

import importlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from tempocube.capture import blas

blas.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402
from mlx_lm.utils import MODEL_REMAPPING  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402

from tempocube.capture import config as configs  # noqa: E402
from tempocube.capture import model  # noqa: E402
from tempocube.errors import BadInput  # noqa: E402

END = "<|end|>"
VOCAB = 320
LOGIT_SPREAD = 4.0  # standard deviation: at a threshold of 0.05 to 0.1 some sets are wide, some are not

PLAIN: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "rope_parameters": PLAIN,
}
LLAMA = SHAPE | {"model_type": "llama", "rms_norm_eps": 1e-5, "head_dim": 16}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA = SHAPE | {
    "rms_norm_eps": 1e-6,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "tie_word_embeddings": True,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama3": LLAMA | {"rope_parameters": LLAMA3_ROPE},
    "mistral": LLAMA | {"model_type": "mistral", "sliding_window": None},
    "qwen2": SHAPE
    | {"model_type": "qwen2", "rms_norm_eps": 1e-6, "use_sliding_window": False, "sliding_window": None}
    | {"layer_types": ["full_attention"] * 3, "max_window_layers": 28},
    "qwen3": LLAMA | {"model_type": "qwen3", "use_sliding_window": False, "sliding_window": None},
    "gemma3": GEMMA
    | {"model_type": "gemma3_text", "num_hidden_layers": 4, "sliding_window": 8, "_sliding_window_pattern": 3}
    | {"layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]}
    | {"rope_parameters": {"sliding_attention": PLAIN, "full_attention": PLAIN | {"rope_theta": 1e6}}},
    "phi3": SHAPE
    | {"model_type": "phi3", "rms_norm_eps": 1e-5, "original_max_position_embeddings": 512}
    | {"rope_parameters": PLAIN | {"partial_rotary_factor": 1.0}, "sliding_window": None},
    "gpt_neox": {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}
    | {"model_type": "gpt_neox", "intermediate_size": 256, "layer_norm_eps": 1e-5, "hidden_act": "gelu"}
    | {"rope_parameters": PLAIN | {"partial_rotary_factor": 0.25}, "attention_bias": True},
    "olmo2": SHAPE | {"model_type": "olmo2", "rms_norm_eps": 1e-6},
    "smollm3": SHAPE
    | {"model_type": "smollm3", "num_hidden_layers": 4, "rms_norm_eps": 1e-6}
    | {"no_rope_layers": [1, 1, 1, 0], "no_rope_layer_interval": 4, "use_sliding_window": False}
    | {"layer_types": ["full_attention"] * 4, "rope_parameters": PLAIN | {"rope_theta": 2e6}},
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 64,
        "n_head": 4,
        "n_layer": 3,
        "n_positions": 512,
        "n_inner": None,
    }
    | {"layer_norm_epsilon": 1e-5, "vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0}
    | {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    "llama_4bit": LLAMA | {"quantization": {"group_size": 32, "bits": 4}},
}
REFUSED: dict[str, dict[str, Any]] = {
    "gemma2": GEMMA
    | {"model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "mamba": {"model_type": "mamba", "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128}
    | {"state_size": 8, "num_hidden_layers": 2, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True}
    | {"time_step_rank": 4, "bos_token_id": 0, "eos_token_id": 0},
}
ARCHITECTURES = tuple(CONFIGS)


def checkpoint(folder: Path, architecture: str, *, seed: int = 0, **changes: Any) -> Path:
    """Write a tiny random checkpoint; `changes` replace keys of its config."""
    config = {**(CONFIGS | REFUSED)[architecture], **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "tokenizer.json").write_text(tokenizer_json(), "utf-8")
    words = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(words), "utf-8")
    mx.save_safetensors(str(folder / "model.safetensors"), weights(config, seed), metadata={"format": "mlx"})
    return folder


def weights(config: dict[str, Any], seed: int) -> dict[str, mx.array]:
    """Random weights of a config by name, float16, or quantised if the config says so."""
    name = MODEL_REMAPPING.get(config["model_type"], config["model_type"])
    module = importlib.import_module(f"mlx_lm.models.{name}")
    net = module.Model(module.ModelArgs.from_dict(configs.translate(config, _fields(module))))
    rng = np.random.default_rng(seed)
    drawn = [(key, _draw(key, value.shape, rng)) for key, value in tree_flatten(net.parameters())]
    net.update(tree_unflatten(drawn))
    if quantization := config.get("quantization"):
        nn.quantize(net, **quantization)
    return dict(tree_flatten(net.parameters()))


def _fields(module: Any) -> frozenset[str]:
    return frozenset(module.ModelArgs.__dataclass_fields__)


def _draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> mx.array:
    drawn = rng.standard_normal(shape)
    if len(shape) < 2:
        scale, centre = 0.1, float("norm" in name or "ln_" in name) * (name.endswith("weight"))
        return mx.array((centre + scale * drawn).astype(np.float16))
    # tied or not, what makes the logits decides how peaked the distributions are
    head = "embed" in name or "lm_head" in name or "wte" in name
    gain = LOGIT_SPREAD if head else 1.0 if "wpe" in name else 1.5
    return mx.array((gain / np.sqrt(shape[-1]) * drawn).astype(np.float16))


@cache
def tokenizer_json() -> str:
    """A byte-level tokenizer of `VOCAB` tokens that begins each text with the end token, id 0."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = "the cat sat on the mat and then the other cat came in at last and sat there with that one "
    words.train_from_iterator([text + " ".join(f"{a}{b}{a}" for a in "aeiou" for b in "lmnrst")], trainer)
    words.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return words.to_str()


def edit(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    """Replace keys of one of a checkpoint's JSON files."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
    return folder


def refusal(name: Path | str) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(BadInput) as caught:
        model.load(str(name))
    message = str(caught.value)
    assert "\n" not in message
    return message
