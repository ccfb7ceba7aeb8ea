"""Loading models: what they are once loaded, and which prompts they take."""

from pathlib import Path
from typing import Any

import pytest

from tempocube.capture import architecture, model
from tempocube.errors import BadInput
from tiny import ARCHITECTURES, edit
from tiny import checkpoint as write

import mlx.core as mx  # isort: skip  (after the BLAS)
import mlx.nn as nn  # isort: skip
import mlx.utils  # isort: skip
import mlx_lm  # isort: skip
import numpy as np  # isort: skip
from mlx_lm.utils import load_model  # isort: skip

IDS = mx.array([[0, 33, 70, 260, 71, 90, 12, 300, 5, 6, 7, 8]])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOCUBE_CACHE", str(tmp_path / "cache"))


# --- what loads


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_facts_say_the_shapes_that_the_loaded_net_has(name: str, tmp_path: Path) -> None:
    loaded = model.load(str(write(tmp_path / name, name)))
    facts, net = loaded.facts, loaded.net
    rows: list[Any] = []
    cache = mlx_lm.models.cache.make_prompt_cache(net)
    out = net(IDS[:, :5], cache=cache)
    rows += [each.keys.shape for each in cache]
    assert facts == model.facts(str(tmp_path / name))
    assert facts.layers == len(net.layers) == len(rows)
    assert {(facts.kv_heads, facts.head_dim)} == {(shape[1], shape[3]) for shape in rows}
    assert facts.vocab == loaded.vocab == out.shape[-1]
    widths = {value.shape[0] for _, value in mlx.utils.tree_flatten(net.parameters())}
    assert {facts.hidden, facts.heads * facts.head_dim} <= widths
    assert facts.neurons in widths or 2 * facts.neurons in widths  # phi3 keeps up and gate in one matrix
    assert facts.id == name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_on_a_cpu_are_float32_and_give_what_mlx_lm_gives(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / name, name)
    loaded = model.load(str(folder))
    assert {value.dtype for _, value in mlx.utils.tree_flatten(loaded.net.parameters())} == {mx.float32}
    assert not any(
        isinstance(each, nn.QuantizedLinear | nn.QuantizedEmbedding) for each in loaded.net.modules()
    )
    plain, _ = load_model(folder, model_config=loaded.config)
    plain.set_dtype(mx.float32)
    assert np.allclose(np.array(loaded.net(IDS)), np.array(plain(IDS)), atol=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_module_attends_for_every_layer(name: str, tmp_path: Path) -> None:
    loaded = model.load(str(write(tmp_path / name, name)))
    assert len(architecture.attention_classes(loaded.net)) == loaded.facts.layers
    (module,) = loaded.attention_modules
    assert "scaled_dot_product_attention" in vars(module)
    assert (module is loaded.module) == (name != "smollm3")


def test_layers_with_a_sliding_window_are_named(tmp_path: Path) -> None:
    assert model.facts(str(write(tmp_path / "g", "gemma3"))).windows == (8, 8, None, 8)
    assert model.facts(str(write(tmp_path / "l", "llama"))).windows == ()
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    mixed = write(tmp_path / "m", "mistral", sliding_window=6, layer_types=kinds)
    assert model.facts(str(mixed)).windows == (6, None, 6)


# --- prompts


def test_a_prompt_has_the_tokens_that_mlx_lm_gives_it(tmp_path: Path) -> None:
    reader = model.tokenizer(str(write(tmp_path / "llama", "llama")))
    tokens = reader.prompt_tokens("the cat")
    assert tokens == reader.tokenizer.encode("the cat")
    assert tokens[0] == 0
    assert reader.prompt_tokens("<|end|>the cat") == tokens
    assert "".join(reader.text_of(token) for token in tokens[1:]) == "the cat" == reader.decode(tokens[1:])
    assert reader.end_tokens == {0}


@pytest.mark.parametrize(
    ("text", "sets", "said"),
    [
        ("", 0, "empty prompt"),
        ("x " * 600, 0, "has 512"),
        ("the cat", 510, "and 510 sets"),
        ("a\ud800b", 0, "surrogate"),
    ],
)
def test_a_prompt_that_cannot_be_run_is_refused(text: str, sets: int, said: str, tmp_path: Path) -> None:
    reader = model.tokenizer(str(write(tmp_path / "llama", "llama")))
    with pytest.raises(BadInput, match=said):
        reader.prompt_tokens(text, sets)


def test_a_prompt_without_tokens_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "llama", "llama")
    edit(folder, "tokenizer.json", normalizer={"type": "Strip", "strip_left": True, "strip_right": True})
    edit(folder, "tokenizer.json", post_processor=None)
    with pytest.raises(BadInput, match="no tokens"):
        model.tokenizer(str(folder)).prompt_tokens("   ")


def test_a_token_that_the_tokenizer_cannot_make_is_refused(tmp_path: Path) -> None:
    reader = model.tokenizer(str(write(tmp_path / "llama", "llama")))
    for token in (-1, 320):
        with pytest.raises(BadInput, match=f"token {token} .* 0 to 319"):
            reader.text_of(token)
    small = model.tokenizer(str(edit(tmp_path / "llama", vocab_size=40)))
    with pytest.raises(BadInput, match="0 to 39"):
        small.prompt_tokens("the cat")


def test_ids_that_no_token_has_are_empty_in_the_vocabulary(tmp_path: Path) -> None:
    reader = model.tokenizer(str(write(tmp_path / "llama", "llama")))
    words = reader.vocabulary()
    assert len(words) == reader.vocab
    assert not any(words[len(reader.tokenizer) :])


def test_a_config_that_only_transformers_refuses_is_no_hindrance(tmp_path: Path) -> None:
    folder = write(tmp_path / "three", "llama", num_attention_heads=3, num_key_value_heads=1)
    loaded, usual = model.load(str(folder)), model.tokenizer(str(write(tmp_path / "llama", "llama")))
    assert (loaded.facts.heads, loaded.facts.kv_heads, loaded.facts.head_dim) == (3, 1, 16)
    assert loaded.prompt_tokens("the cat") == usual.prompt_tokens("the cat")
    assert loaded.end_tokens == usual.end_tokens
    assert loaded.tokenizer.bos_token == usual.tokenizer.bos_token


def test_a_prompt_that_exactly_fits_is_taken(tmp_path: Path) -> None:
    reader = model.tokenizer(str(write(tmp_path / "llama", "llama")))
    tokens = reader.prompt_tokens("the cat")
    assert reader.prompt_tokens("the cat", 512 - len(tokens)) == tokens
    with pytest.raises(BadInput, match="513 positions"):
        reader.prompt_tokens("the cat", 513 - len(tokens))
