"""Which architectures and configs are taken, and that config.json is honoured."""

from pathlib import Path
from typing import Any

import pytest

from tempocube.capture import architecture, config, model
from tempocube.errors import BadInput
from tiny import ARCHITECTURES, CONFIGS, LLAMA3_ROPE, PLAIN, REFUSED, edit, refusal
from tiny import checkpoint as write

import mlx.core as mx  # isort: skip  (after the BLAS)
import numpy as np  # isort: skip
from mlx_lm.utils import load_model  # isort: skip

IDS = mx.array([[0, 33, 70, 260, 71, 90, 12, 300, 5, 6, 7, 8]])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOCUBE_CACHE", str(tmp_path / "cache"))


def logits(name: Path) -> np.ndarray:
    return np.array(model.load(str(name)).net(IDS))


def _python(name: str) -> Any:
    return architecture.python_module({"model_type": name})


# --- which architectures


@pytest.mark.parametrize(
    ("name", "reason"),
    [("gemma2", "its own softmax"), ("mamba", "a recurrent state besides keys and values")],
)
def test_architectures_that_do_not_fit_are_refused_by_name_with_those_that_do(
    name: str, reason: str, tmp_path: Path
) -> None:
    message = refusal(write(tmp_path / name, name))
    assert message.startswith(name)
    assert reason in message
    assert {CONFIGS[each]["model_type"] for each in ARCHITECTURES} <= set(
        message.split("work: ")[1].split(", ")
    )
    assert not set(REFUSED) & set(message.split("work: ")[1].split(", "))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("olmo", "its own softmax"),
        ("gpt_oss", "sinks"),
        ("rwkv7", "recurrent state"),
        ("jamba", "recurrent state"),
        ("deepseek_v3", "latent"),
        ("llama4", "chunks"),
        ("gemma3n", "shares keys and values"),
        ("llamma", "not an architecture"),
        ("base", "not an architecture"),
    ],
)
def test_other_misfits_are_known_without_importing_them(name: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        _python(name)


def test_every_architecture_that_is_said_to_work_can_be_imported() -> None:
    assert len(architecture.working()) > 60
    for name in architecture.working():
        assert _python(name).Model


def test_a_wrapper_of_a_text_model_is_taken_for_what_it_wraps(tmp_path: Path) -> None:
    inner = {key: value for key, value in CONFIGS["gemma3"].items() if key != "vocab_size"} | {
        "vocab_size": 320
    }
    wrapped = {"model_type": "gemma3", "text_config": inner, "vocab_size": 320}
    net = architecture.build(config.translate(wrapped, architecture.argument_names(_python("gemma3"))))
    assert architecture.windows(net) == (8, 8, None, 8)
    assert [each.__name__ for each in model.attention_modules(net)] == ["mlx_lm.models.gemma3_text"]


# --- what config.json says about positions and masks


OLD: dict[str, dict[str, Any]] = {
    "llama": {"rope_theta": 5e4},
    "llama3": {
        "rope_theta": 5e5,
        "rope_scaling": {k: v for k, v in LLAMA3_ROPE.items() if k != "rope_theta"},
    },
    "qwen2": {"rope_theta": 5e4},
    "qwen3": {"rope_theta": 5e4},
    "gemma3": {"rope_theta": 1e6, "rope_local_base_freq": 500.0, "sliding_window_pattern": 3},
    "phi3": {"rope_theta": 5e4, "partial_rotary_factor": 0.5},
    "gpt_neox": {"rotary_emb_base": 500, "rotary_pct": 0.5},
    "olmo2": {"rope_theta": 5e4},
    "smollm3": {"rope_theta": 5e4},
}
NEW: dict[str, dict[str, Any]] = {
    "llama": PLAIN | {"rope_theta": 5e4},
    "llama3": LLAMA3_ROPE,
    "qwen2": PLAIN | {"rope_theta": 5e4},
    "qwen3": PLAIN | {"rope_theta": 5e4},
    "gemma3": {
        "full_attention": PLAIN | {"rope_theta": 1e6},
        "sliding_attention": PLAIN | {"rope_theta": 500.0},
    },
    "phi3": PLAIN | {"rope_theta": 5e4, "partial_rotary_factor": 0.5},
    "gpt_neox": PLAIN | {"rope_theta": 500, "partial_rotary_factor": 0.5},
    "olmo2": PLAIN | {"rope_theta": 5e4},
    "smollm3": PLAIN | {"rope_theta": 5e4},
}


@pytest.mark.parametrize("name", NEW)
def test_rope_parameters_of_transformers_5_mean_what_the_old_keys_meant(name: str, tmp_path: Path) -> None:
    new = write(tmp_path / "new", name, rope_parameters=NEW[name])
    old = edit(write(tmp_path / "old", name, rope_parameters=NEW[name]), rope_parameters=None, **OLD[name])
    assert np.array_equal(logits(new), logits(old))


@pytest.mark.parametrize("name", ["llama", "llama3", "qwen2", "gemma3", "phi3", "olmo2", "smollm3"])
def test_without_the_translation_mlx_lm_would_turn_by_other_angles(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / name, name, rope_parameters=NEW[name])
    pattern = {"sliding_window_pattern": 3} if name == "gemma3" else None  # without it, mlx-lm fails
    untranslated, _ = load_model(folder, model_config=pattern)
    assert not np.allclose(np.array(untranslated(IDS).astype(mx.float32)), logits(folder), atol=0.05)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128},
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0},
        LLAMA3_ROPE,
    ],
)
def test_each_kind_of_scaling_turns_by_the_angles_it_should(rope: dict[str, Any], tmp_path: Path) -> None:
    scaled = write(tmp_path / "scaled", "llama", rope_parameters=rope)
    plain = write(tmp_path / "plain", "llama", rope_parameters=PLAIN | {"rope_theta": rope["rope_theta"]})
    assert not np.allclose(logits(scaled), logits(plain), atol=0.05)


def test_longrope_takes_the_short_factors_and_ends_where_they_do(tmp_path: Path) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [9.0] * 8, "short_factor": [2.0] * 8}
    long = write(tmp_path / "p", "phi3", rope_parameters=rope, original_max_position_embeddings=100)
    assert model.tokenizer(str(long)).context == 100
    twice = write(tmp_path / "q", "phi3", rope_parameters=rope | {"long_factor": [5.0] * 8})
    assert model.load(str(long)).config["rope_scaling"]["long_factor"] == [2.0] * 8
    assert np.array_equal(logits(twice), logits(edit(twice, rope_parameters=rope)))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"rope_parameters": PLAIN | {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ("llama", {"rope_parameters": PLAIN | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("phi3", {"rope_parameters": LLAMA3_ROPE}, "rope_scaling"),
        ("phi3", {"rope_parameters": LLAMA3_ROPE | {"rope_type": "yarn", "long_factor": [1.0]}}, "yarn"),
        ("gpt_neox", {"rope_parameters": LLAMA3_ROPE | {"partial_rotary_factor": 0.25}}, "rope_scaling"),
        (
            "llama",
            {"rope_parameters": LLAMA3_ROPE | {"rope_type": "yarn", "attention_factor": 3.0}},
            "angles",
        ),
        ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("llama", {"alibi": True}, "alibi"),
        ("llama", {"position_embedding_type": "alibi"}, "position_embedding_type"),
        ("llama", {"no_rope_layers": [1, 0, 1]}, "no_rope_layers"),
        ("llama", {"attention_chunk_size": 64}, "attention_chunk_size"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            "gemma3",
            {"layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]},
            "layer_types",
        ),
    ],
)
def test_a_key_that_shapes_positions_or_masks_and_is_not_honoured_is_refused_by_name(
    name: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in refusal(edit(write(tmp_path / name, name), **changes))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"rope_parameters": "x"}, "rope_parameters: 'x' in config.json is not an object"),
        ("llama", {"rope_parameters": [1]}, "rope_parameters: [1] in config.json is not an object"),
        ("llama", {"rope_parameters": PLAIN | {"rope_theta": "a"}}, "rope_theta: 'a'"),
        ("llama", {"rope_parameters": PLAIN | {"rope_theta": 0}}, "rope_theta: 0"),
        ("llama", {"rope_parameters": None, "rope_theta": -5.0}, "rope_theta: -5.0"),
        ("llama", {"rope_parameters": PLAIN | {"rope_type": "linear", "factor": 0}}, "factor: 0"),
        ("llama", {"eos_token_id": "</s>"}, "eos_token_id: '</s>' in config.json is not a token id"),
        ("llama", {"eos_token_id": [0, "a"]}, "eos_token_id: [0, 'a']"),
        ("llama", {"max_position_embeddings": "many"}, "max_position_embeddings: 'many'"),
        ("llama", {"num_attention_heads": True}, "num_attention_heads: True"),
        ("llama", {"architectures": [{"a": 1}]}, "architectures: [{'a': 1}] in config.json is not a list"),
        ("llama", {"head_dim": 15}, "15 of the 15 numbers of a head"),
        ("gemma3", {"sliding_window": 4.5}, "sliding_window: 4.5 in config.json is not a whole number"),
        ("gemma3", {"layer_types": ["full_attention"] * 2}, "layer_types: 2 in config.json"),
        ("gemma3", {"rope_parameters": {"full_attention": PLAIN, "sliding_attention": {}}}, "rope_theta"),
        ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "no weight is stored as"),
        ("llama", {"quantization_config": {"quant_method": "awq", "bits": 4}}, "no weight is stored as"),
    ],
)
def test_a_value_that_a_key_cannot_have_is_refused_by_name(
    name: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in refusal(edit(write(tmp_path / name, name), **changes))


def test_whatever_else_goes_wrong_is_one_line_that_names_the_model(tmp_path: Path) -> None:
    folder = edit(write(tmp_path / "odd", "llama"), quantization={"group_size": 32, "bits": 4})
    odd = edit(folder, layer_types=["sliding_attention"] * 3, num_key_value_heads=3, sliding_window=8)
    for ask in (model.load, model.facts, model.tokenizer):
        with pytest.raises(BadInput) as caught:
            ask(str(odd))
        assert "\n" not in str(caught.value)
        with pytest.raises(BadInput, match="None: no such folder"):
            ask(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mistral", {"sliding_window": 20}),
        ("qwen2", {"sliding_window": 20, "use_sliding_window": True, "layer_types": None}),
        (
            "qwen2",
            {"sliding_window": 20, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 3},
        ),
        ("phi3", {"sliding_window": 20}),
    ],
)
def test_a_window_that_the_architecture_ignores_limits_the_context(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    assert model.tokenizer(str(write(tmp_path / name, name, **changes))).context == 20


def test_a_window_that_is_switched_off_limits_nothing(tmp_path: Path) -> None:
    off = write(tmp_path / "q", "qwen2", sliding_window=20, use_sliding_window=False)
    assert model.tokenizer(str(off)).context == 512
