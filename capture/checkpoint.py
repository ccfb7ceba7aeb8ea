"""Where a model's files are, whether they are whole, and their hash; nothing here needs MLX."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from ..dataset.caches import user_folder
from ..errors import BadInput

EMBEDDED = "embedded"
WEIGHTS = "model*.safetensors"
INDEX = "model.safetensors.index.json"
# what makes a model what it is: its weights, its shape, its tokenizer
FILES = (
    WEIGHTS,
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.tiktoken",
)
# as mlx-lm fetches them: with other patterns the hub's cache would not know its own snapshot as whole
FETCHED = [
    "*.json",
    "model*.safetensors",
    "*.py",
    "tokenizer.model",
    "*.tiktoken",
    "tiktoken.model",
    "*.txt",
    "*.jsonl",
    "*.jinja",
]
HEADER_BYTES = 100_000_000  # the format's own limit


def embedded_path() -> Path:
    """Directory of the embedded model, in the Hugging Face layout."""
    return Path(__file__).parent / "embedded"


def find(name: str | Path) -> Path:
    """The folder of `embedded`, of a path, or of a hub id, which is downloaded if it is not there yet."""
    name = str(name)
    if not name.strip():
        raise BadInput("an empty model name; 'embedded' is the model in the box")
    if name == EMBEDDED:
        return embedded_path()
    path = Path(name).expanduser()
    if _is_folder(path):
        return path.resolve()
    if os.path.exists(path):
        raise BadInput(f"{name} is a file; a model is a folder in Hugging Face layout")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, re.ASCII):
        raise BadInput(
            f"{name}: no such folder, and no hub id (owner/name); 'embedded' is the model in the box"
        )
    return _from_hub(name)


def model_id(name: str) -> str:
    """How cubes name a model: `embedded`, its hub id, or the name of its folder."""
    path = Path(name).expanduser()
    return path.resolve().name if name != EMBEDDED and _is_folder(path) else name


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # pathlib's own raises at a name too long for the file system


def _from_hub(name: str) -> Path:
    # later, because a local path must not even import what can reach the network
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        local = Path(snapshot_download(name, allow_patterns=FETCHED, local_files_only=True))
    except HFValidationError as error:
        raise BadInput(f"{name}: neither a folder nor a hub id ({error})") from None
    except LocalEntryNotFoundError:
        local = None
    if local is not None and not missing_shards(local):
        return local
    try:
        return Path(snapshot_download(name, allow_patterns=FETCHED))
    except OSError as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise BadInput(
            f"{name}: no such folder, not in the hub cache, not to be had from the hub{offline}: {reason}; "
            "a path to a downloaded model, or 'embedded', works without network"
        ) from None


def missing_shards(folder: Path) -> list[str]:
    """Names of weight files that a checkpoint speaks of, or needs, and does not have."""
    index = folder / INDEX
    if index.is_file():
        try:
            files = json.loads(index.read_text("utf-8"))["weight_map"].values()
            names = sorted({os.fspath(file) for file in files})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadInput(
                f"{folder.name}/{INDEX} is damaged: it has no weight_map; fetch it again"
            ) from None
        return [name for name in names if not (folder / name).is_file()]
    return [] if any(path.is_file() for path in folder.glob(WEIGHTS)) else ["model.safetensors"]


def check_weights(folder: Path) -> None:
    """Refuse weight files that are missing, cut short or no safetensors; reads their headers only."""
    if missing := missing_shards(folder):
        raise BadInput(f"{folder.name}: {missing[0]} is missing ({len(missing)} in all)")
    for path in sorted(folder.glob(WEIGHTS)):
        if not path.is_file():
            raise BadInput(f"{folder.name}/{path.name} is no file (a folder, or a link to nowhere)")
        whole, size = _size_by_header(path), path.stat().st_size
        if whole != size:
            said = f"has {size:,} bytes, its header says {whole:,}"
            raise BadInput(f"{folder.name}/{path.name} is damaged: it {said}; fetch it again")


def _size_by_header(path: Path) -> int:
    damaged = BadInput(f"{path.parent.name}/{path.name} is damaged: no safetensors header; fetch it again")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(HEADER_BYTES, path.stat().st_size - 8):
            raise damaged
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise damaged from None
    return 8 + length + max(ends, default=0)


def sha256(folder: Path) -> str:
    """Hash of the names and contents of a model's files; what was hashed before is not read again."""
    paths = sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()})
    known = _remembered()
    hashes = {path.name: known.get(_key(path)) or _hash(path) for path in paths}
    fresh = {_key(path): hashes[path.name] for path in paths}
    if fresh.items() - known.items():
        _remember(known | fresh)
    return hashlib.sha256("".join(f"{name} {hashes[name]}\n" for name in hashes).encode()).hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _key(path: Path) -> str:
    real, stat = path.resolve(), path.stat()
    return f"{real}|{stat.st_size}|{stat.st_mtime_ns}"


def _cache_file() -> Path:
    return user_folder() / "sha256.json"


def _remembered() -> dict[str, str]:
    try:
        found = json.loads(_cache_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(hashes: dict[str, str]) -> None:
    target = _cache_file()
    beside = target.with_suffix(f".{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(hashes, indent=0, sort_keys=True), "utf-8")
        beside.replace(target)
    except OSError:
        return  # a home that cannot be written to only costs time
