"""Architectures that are said to work do: a tiny random one of each is loaded and passes the self-test."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runs
import tiny
from tempocube.capture import architecture, model, selftest

import mlx.core as mx  # isort: skip  (after the BLAS)

KINDS = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
SLIDES: dict[str, Any] = {"layer_types": KINDS, "sliding_window": 6}
BASE = {key: value for key, value in tiny.SHAPE.items() if key != "rope_parameters"} | {
    "num_hidden_layers": 4,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
}
THETA = {"rope_theta": 1e4}
HEAD = {"head_dim": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
PER_KIND = {
    "sliding_attention": tiny.PLAIN,
    "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
}
GRANITE = {"logits_scaling": 2.0, "attention_multiplier": 0.2, "embedding_multiplier": 3.0}
MINISTRAL: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 8,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.5,
}
# what each needs besides BASE
WORKING: dict[str, dict[str, Any]] = {
    "afmoe": THETA | HEAD | EXPERTS | SLIDES | {"num_dense_layers": 1, "num_shared_experts": 1},
    "apertus": THETA | {"mlp_bias": False, "attention_bias": False, "qk_norm": True, "post_norm": False},
    "cohere": THETA | {"logit_scale": 0.5},
    "cohere2": THETA | HEAD | SLIDES | {"logit_scale": 0.5, "sliding_window_pattern": 4},
    "dbrx": {
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 4,
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
    },
    "ernie4_5": THETA | HEAD | {"use_bias": False},
    "exaone": THETA | {"num_layers": 4, "activation_function": "silu", "layer_norm_epsilon": 1e-5},
    "exaone4": THETA
    | HEAD
    | SLIDES
    | {"sliding_window_pattern": "LLLG", "rope_scaling": {"factor": 2.0, "rope_type": "linear"}},
    "gemma": THETA | HEAD | {"tie_word_embeddings": True},
    "glm": THETA | HEAD | {"attention_bias": True},
    "glm4": THETA | HEAD | {"attention_bias": True, "partial_rotary_factor": 0.5},
    "gptj": {"n_embd": 64, "n_head": 4, "n_layer": 4, "n_positions": 512, "rotary_dim": 8}
    | {"layer_norm_epsilon": 1e-5},
    "granite": THETA | GRANITE | {"residual_multiplier": 0.5, "attention_bias": False, "mlp_bias": False},
    "granitemoe": THETA | GRANITE | LOCAL | {"residual_multiplier": 0.5, "attention_bias": False},
    "helium": THETA | HEAD | {"attention_bias": False, "mlp_bias": False},
    "hunyuan": THETA
    | {"attention_bias": False, "use_cla": False, "cla_share_factor": 2, "moe_topk": 1, "num_experts": 1}
    | {"num_shared_expert": 1, "use_mixed_mlp_moe": False, "use_qk_norm": True}
    | {"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}},
    "hunyuan_v1_dense": THETA
    | HEAD
    | {"use_qk_norm": True, "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}},
    "internlm2": THETA | {"bias": False},
    "internlm3": THETA | HEAD | {"bias": False, "qkv_bias": False},
    "laguna": HEAD
    | EXPERTS
    | SLIDES
    | {"shared_expert_intermediate_size": 32, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}
    | {"rope_parameters": PER_KIND | {"full_attention": MINISTRAL | {"partial_rotary_factor": 0.5}}},
    "llama4_text": THETA
    | HEAD
    | {"intermediate_size_mlp": 96, "use_qk_norm": True, "attention_bias": False}
    | {"no_rope_layers": [1, 1, 1, 0]},
    "mellum": HEAD | EXPERTS | SLIDES | {"rope_parameters": PER_KIND},
    "mimo": THETA | {"num_nextn_predict_layers": 0},
    "minicpm": THETA | {"dim_model_base": 32, "scale_depth": 1.4, "scale_emb": 2.0},
    "minimax": THETA | HEAD | LOCAL | {"rotary_dim": 8, "shared_intermediate_size": 0},
    "ministral3": HEAD | SLIDES | {"rope_parameters": MINISTRAL},
    "mixtral": THETA | LOCAL,
    "nemotron": THETA | {"hidden_act": "relu2", "norm_eps": 1e-5, "partial_rotary_factor": 0.5},
    "olmo3": THETA | HEAD | SLIDES,
    "phi": THETA | {"partial_rotary_factor": 0.5, "num_key_value_heads": 4},
    "qwen2_moe": THETA | EXPERTS | {"shared_expert_intermediate_size": 48},
    "qwen3_moe": THETA | HEAD | EXPERTS | {"decoder_sparse_step": 1, "mlp_only_layers": []},
    "seed_oss": THETA | HEAD,
    "spark2_5": HEAD | SLIDES | {"rope_parameters": PER_KIND},
    "starcoder2": THETA | {"norm_epsilon": 1e-5, "tie_word_embeddings": True},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOCUBE_CACHE", str(tmp_path / "cache"))
    for name, own in WORKING.items():
        monkeypatch.setitem(tiny.CONFIGS, name, BASE | {"model_type": name} | own)


@pytest.mark.parametrize("name", WORKING)
def test_an_architecture_that_is_said_to_work_passes_the_self_test(name: str, tmp_path: Path) -> None:
    assert name in architecture.working()
    found = selftest.check(model.load(str(tiny.checkpoint(tmp_path / name, name))))
    assert max(found.values()) < 1e-3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gpt_bigcode", "one position for all sequences"),
        ("iquestloopcoder", "more than once"),
        ("nemotron-nas", "number of heads"),
        ("openelm", "number of heads"),
        ("phixtral", "words of its own"),
        ("plamo", "after they went into the cache"),
        ("plamo3", "one position more"),
        ("step3p5", "number of heads"),
        ("stablelm", "after they went into the cache"),
    ],
)
def test_an_architecture_that_does_not_work_is_not_said_to(name: str, reason: str) -> None:
    assert name not in architecture.working()
    assert reason in str(architecture.misfit(name))


def test_layers_that_have_other_numbers_of_heads_are_refused(tmp_path: Path) -> None:
    heads = {"num_attention_heads_per_layer": [4, 4, 2, 4]}
    assert "another number of heads" in tiny.refusal(tiny.checkpoint(tmp_path / "l", "laguna", **heads))


def test_what_computes_on_metal_alone_works_only_there() -> None:
    metal = mx.metal.is_available() and mx.default_device() == mx.gpu
    assert ("bitnet" in architecture.working()) == metal


def test_queries_that_grow_with_their_position_are_those_of_mlx_lm(tmp_path: Path) -> None:
    loaded = runs.tiny(tmp_path, "ministral3")
    kept = runs.run(loaded, runs.grid(modes=["single"], max_tokens=12, prompts={"a": runs.PROMPTS}))
    plain, even = (
        loaded.net,
        runs.tiny(
            tmp_path / "even", "ministral3", rope_parameters=MINISTRAL | {"llama_4_scaling_beta": 0.0}
        ).net,
    )
    for result in kept.values():
        tokens = result.small["token"].tolist()
        prompt = result.small["slot_step"].tolist().count(-1)
        assert len(tokens) > MINISTRAL["original_max_position_embeddings"]
        stored = result.data["logits"]
        assert np.abs(stored - _readouts(plain, tokens)[prompt - 1 : -1]).max() < 1e-3
        assert np.abs(stored - _readouts(even, tokens)[prompt - 1 : -1]).max() > 0.1


def _readouts(net: Any, tokens: list[int]) -> Any:
    """(position, vocab): log-probabilities of a plain forward pass."""
    return np.array(mx.log(mx.softmax(net(mx.array([tokens]))[0], axis=-1, precise=True)))


def test_every_sibling_has_the_query_scale_of_its_position(tmp_path: Path) -> None:
    loaded = runs.tiny(tmp_path, "ministral3")
    short = {"modes": ["isolated"], "max_tokens": 2, "threshold": 0.02, "prompts": {"a": runs.PROMPTS[2:]}}
    of_first, of_last = (
        next(iter(runs.run(loaded, runs.grid(**short, readout=readout)).values()))
        for readout in ("top", "last")
    )
    prompt = of_first.small["slot_step"].tolist().count(-1)
    first = runs.sets_of(of_first)[0]
    assert len(first) > 1
    assert prompt > MINISTRAL["original_max_position_embeddings"]
    tokens = of_first.small["token"].tolist()[:prompt]
    for result, sibling in ((of_first, first[0]), (of_last, first[-1])):
        alone = _readouts(loaded.net, [*tokens, sibling])[-1]
        assert np.abs(result.data["logits"][1] - alone).max() < 1e-3
