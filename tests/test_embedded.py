"""The embedded model, and the script that trained it."""

import json
from pathlib import Path

import pytest

from tempocube.capture import model

import mlx_lm.utils  # isort: skip  (after the BLAS)
from transformers import AutoTokenizer  # isort: skip

PATH = model.embedded_path()
PROMPT = "Once upon a time"
MEGABYTES = 12


@pytest.fixture(scope="module")
def loaded() -> model.Model:
    return model.load("embedded")


def test_it_is_small_and_in_the_hugging_face_layout() -> None:
    names = {path.name for path in PATH.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    } <= names
    assert sum(path.stat().st_size for path in PATH.iterdir() if path.is_file()) < MEGABYTES * 1e6


def test_a_prompt_begins_with_the_end_token_in_every_library(loaded: model.Model) -> None:
    plain = AutoTokenizer.from_pretrained(PATH)
    tokens = loaded.prompt_tokens(PROMPT)
    assert tokens[0] == 0
    assert loaded.end_tokens == {0}
    assert loaded.decode(tokens) == f"<|end|>{PROMPT}"
    assert plain.encode(PROMPT) == tokens
    assert plain.encode(PROMPT, add_special_tokens=False) == tokens[1:]
    assert mlx_lm.utils.load_tokenizer(PATH).encode(PROMPT) == tokens


def test_mlx_lm_generates_the_same_from_the_text_as_from_our_tokens(loaded: model.Model) -> None:
    texts = [
        mlx_lm.generate(loaded.net, loaded.tokenizer, prompt, max_tokens=12)
        for prompt in (PROMPT, loaded.prompt_tokens(PROMPT), loaded.prompt_tokens(PROMPT)[1:])
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("prompt", [PROMPT, "The scientist discovered", "It was a dark and"])
def test_it_writes_something_like_english(loaded: model.Model, prompt: str) -> None:
    text = mlx_lm.generate(loaded.net, loaded.tokenizer, prompt, max_tokens=30)
    words = text.lower().split()
    common = {"the", "a", "of", "and", "to", "in", "was", "he", "it", "that", "his", "with", "had", "not"}
    assert len(words) > 15
    assert sum(word.strip(",.;") in common for word in words) > len(words) / 5


def test_every_token_has_a_text_and_they_make_up_the_whole(loaded: model.Model) -> None:
    text = "The boy — Jack's friend — said: “Émile, naïve?”"
    tokens = loaded.prompt_tokens(text)[1:]
    assert loaded.decode(tokens) == text
    plain = loaded.prompt_tokens("He said that she knew it.")[1:]
    assert "".join(loaded.text_of(token) for token in plain) == "He said that she knew it."
    assert all(loaded.text_of(token) for token in range(loaded.vocab))


def test_the_vocabulary_has_the_text_of_each_token_and_names_parts_of_characters(loaded: model.Model) -> None:
    words = loaded.vocabulary()
    assert len(words) == loaded.vocab
    broken = 0
    for token, word in enumerate(words):
        text = loaded.text_of(token)
        assert model.BROKEN not in word
        broken += model.BROKEN in text
        assert word == text or model.BROKEN in text
    assert broken > 0


def test_the_model_card_says_what_training_measured() -> None:
    card = (PATH / "README.md").read_text("utf-8")
    measured = json.loads((PATH / "training.json").read_text("utf-8"))
    assert f"{measured['held_out_nats_per_token']:.2f} nats" in card
    assert f"{measured['held_out_bits_per_byte']:.2f} bits" in card
    assert f"{measured['steps']:,} steps" in card


def test_the_script_trains_a_model_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="training needs the extra `train`")
    from tempocube.capture.embedded import train

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 300}
    monkeypatch.setattr(train, "SHAPE", train.SHAPE | shape)
    monkeypatch.setattr(train, "CONTEXT", 16)
    monkeypatch.setattr(train, "BATCH", 8)
    monkeypatch.setattr(train, "WARM_UP_STEPS", 2)
    lines = [
        f"The {a} of the {b} was {c} in the house." for a in "abcdefgh" for b in "xyz" for c in "pqrstuvw"
    ]
    (tmp_path / "corpus.txt").write_text("\n".join(lines * 20), "utf-8")
    train.train(tmp_path / "corpus.txt", tmp_path / "out", minutes=0.05, rate=3e-3)
    trained = model.load(str(tmp_path / "out"))
    assert trained.prompt_tokens("The a")[0] == 0
    assert trained.facts.layers == 2
    measured = json.loads((tmp_path / "out" / "training.json").read_text("utf-8"))
    assert measured["held_out_nats_per_token"] < 5.5  # log 300 = 5.7 is a guess without knowledge
