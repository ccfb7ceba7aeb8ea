"""Where models are found, which files are refused, and their hash."""

import json
import socket
import struct
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tempocube.capture import checkpoint, model
from tempocube.errors import BadInput
from tiny import LLAMA, edit, refusal
from tiny import checkpoint as write

import mlx.core as mx  # isort: skip  (after the BLAS)
from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS  # isort: skip

IDS = mx.array([[0, 33, 70, 260, 71, 90, 12, 300, 5, 6, 7, 8]])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOCUBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to reach the network; each is refused."""
    tried: list[Any] = []

    def refuse(*args: Any, **_: Any) -> NoReturn:
        tried.append(args)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


# --- files


def test_a_local_path_never_touches_the_network(tmp_path: Path, no_network: list[Any]) -> None:
    folder = write(tmp_path / "llama", "llama")
    model.load(str(folder))
    model.load("embedded")
    assert no_network == []


def test_a_hub_id_without_network_is_one_clear_line(
    tmp_path: Path, no_network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    message = refusal("nobody/nothing-at-all")
    assert "nobody/nothing-at-all" in message
    assert "hub" in message
    assert no_network


def test_a_hub_id_that_is_in_the_cache_needs_no_network(
    tmp_path: Path, no_network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    repository = tmp_path / "hub" / "models--somebody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    write(repository / "snapshots" / ("a" * 40), "llama")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert model.load("somebody/tiny").facts.id == "somebody/tiny"
    assert no_network == []


def test_the_hub_is_asked_for_the_files_that_mlx_lm_fetches() -> None:
    assert checkpoint.FETCHED == DEFAULT_ALLOW_PATTERNS


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "embeded", "a/b/c", "owner/na me"])
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(name: str, no_network: list[Any]) -> None:
    assert "no such folder" in refusal(name)
    assert no_network == []


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("x")
    assert "is a file" in refusal(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), ("[]", "model_type"), ("{}", "model_type"), (None, "no config.json")],
)
def test_a_config_that_is_none_is_refused(text: str | None, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "llama", "llama") / "config.json"
    path.unlink() if text is None else path.write_text(text)
    assert said in refusal(tmp_path / "llama")


def test_a_config_without_a_needed_key_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "llama", "llama")
    (folder / "config.json").write_text(json.dumps({k: v for k, v in LLAMA.items() if k != "hidden_size"}))
    assert "hidden_size" in refusal(folder)


def test_code_of_a_checkpoints_own_is_not_run(tmp_path: Path) -> None:
    folder = edit(write(tmp_path / "llama", "llama"), model_file="own.py")
    (folder / "own.py").write_text("raise SystemExit(3)")
    assert "own.py" in refusal(folder)


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "llama", "llama")
    (folder / "tokenizer.json").write_text("{")
    assert "tokenizer cannot be loaded" in refusal(folder)
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json" in refusal(folder)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def no_header(path: Path) -> None:
    path.write_bytes(b"not safetensors" * 100)


def header_of_garbage(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 8) + b"{garbage" + b"0" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def offsets_of_strings(path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": ["a", "b"]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"0000")


@pytest.mark.parametrize("damage", [cut_short, no_header, header_of_garbage, empty, offsets_of_strings])
def test_damaged_weights_are_refused_by_file(damage: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "llama", "llama")
    damage(folder / "model.safetensors")
    message = refusal(folder)
    assert "llama/model.safetensors is damaged" in message


def test_weights_that_are_a_folder_or_a_broken_link_are_refused_by_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "llama", "llama")
    file, other = folder / "model.safetensors", folder / "model-2.safetensors"
    other.symlink_to("nowhere")
    assert "llama/model-2.safetensors is no file" in refusal(folder)
    other.unlink()
    file.unlink()
    file.symlink_to("nowhere")
    assert "model.safetensors is missing" in refusal(folder)
    file.unlink()
    file.mkdir()
    assert "model.safetensors is missing" in refusal(folder)


def test_json_files_of_the_wrong_kind_are_refused_by_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "llama", "llama")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}')
    assert "index.json is damaged" in refusal(folder)
    (folder / "generation_config.json").write_text("[]")
    assert "generation_config.json is no JSON object" in refusal(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert "config.json cannot be read" in refusal(folder)


def test_a_name_that_is_too_long_for_a_file_is_refused(no_network: list[Any]) -> None:
    assert "no such folder" in refusal("x" * 300)
    assert "neither a folder nor a hub id" in refusal("x" * 300 + "/y")


def test_missing_weights_are_refused_by_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "llama", "llama")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / shards["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert shards["b"] in refusal(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "weight_map" in refusal(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / shards["a"]).unlink()
    assert "model.safetensors is missing" in refusal(folder)


def test_tensors_that_are_missing_too_many_or_misshapen_are_refused_by_key(tmp_path: Path) -> None:
    folder = write(tmp_path / "llama", "llama")
    file = str(folder / "model.safetensors")
    whole: dict[str, mx.array] = mx.load(file)  # type: ignore[assignment]
    mx.eval(whole)
    key = "model.layers.1.self_attn.k_proj.weight"
    for wrong in (
        {k: v for k, v in whole.items() if k != key},
        whole | {"model.layers.7.extra": mx.zeros(3)},
        whole | {key: mx.zeros((3, 3))},
    ):
        mx.save_safetensors(file, wrong)
        assert key in (message := refusal(folder)) or "layers.7.extra" in message


def test_facts_and_tokenizer_need_no_weights(tmp_path: Path) -> None:
    folder = write(tmp_path / "llama", "llama")
    cut_short(folder / "model.safetensors")
    assert model.facts(str(folder)).layers == 3
    assert model.tokenizer(str(folder)).prompt_tokens("the cat")


# --- hashes


def test_a_hash_is_remembered_until_its_file_changes(tmp_path: Path) -> None:
    import os

    folder = write(tmp_path / "llama", "llama")
    first, file = checkpoint.sha256(folder), folder / "model.safetensors"
    stat, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert checkpoint.sha256(folder) == first  # same size and time: it was not read again
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert checkpoint.sha256(folder) != first


def test_a_hash_depends_on_content_and_not_on_the_place(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one", "llama"), write(tmp_path / "other", "llama")
    assert checkpoint.sha256(one) == checkpoint.sha256(other)
    assert checkpoint.sha256(edit(other, bos_token_id=1)) != checkpoint.sha256(one)
    assert checkpoint.sha256(write(tmp_path / "third", "llama", seed=1)) != checkpoint.sha256(one)


def test_a_cache_that_cannot_be_used_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "llama", "llama")
    first = checkpoint.sha256(folder)
    (tmp_path / "cache" / "sha256.json").write_text("garbage")
    assert checkpoint.sha256(folder) == first
    monkeypatch.setenv("TEMPOCUBE_CACHE", str(folder / "config.json"))
    assert checkpoint.sha256(folder) == first


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_not_the_folder_one_is_in(name):
    with pytest.raises(BadInput, match="an empty model name"):
        checkpoint.find(name)


def test_a_path_that_is_not_there_is_one_line_as_its_text_is(tmp_path):
    for name in (tmp_path / "gone", str(tmp_path / "gone")):
        with pytest.raises(BadInput, match="no such folder"):
            checkpoint.find(name)
