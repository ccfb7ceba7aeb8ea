"""The prompts of a grid: written in the grid file, or in txt, csv and jsonl files beside it."""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import BadInput
from .gridfile import Source, shown
from .textfile import KeyPath, did_you_mean, read_text

UNCATEGORISED = "uncategorised"
KEYS = ("prompt", "category", "id")
_FORMS = 'must be a mapping such as {narrative: ["Once upon a time"]}, or a list of texts'

# JSON schema of `prompts` and `prompts_file` as they are typed.
_TEXT = {"type": "string", "pattern": r"\S"}
_RECORD = {
    "type": "object",
    "properties": {"prompt": _TEXT, "category": _TEXT, "id": {"type": ["string", "integer", "null"]}},
    "required": ["prompt"],
    "additionalProperties": False,
}
_TEXTS = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
PROMPTS_SCHEMA = {
    "description": "category -> texts; or a list of texts, or of {prompt, category, id}",
    "anyOf": [
        {"type": "object", "additionalProperties": _TEXTS, "minProperties": 1},
        {"type": "array", "items": {"anyOf": [_TEXT, _RECORD]}, "minItems": 1},
        _TEXT,
    ],
}
FILES_SCHEMA = {
    "description": ".txt (one prompt a line), .csv or .jsonl files; they start at the grid file's folder",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's text; `id` is its own name for it, and None lets the cube give one."""

    text: str
    category: str = UNCATEGORISED
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A prompt and the file and line that it stands on."""

    prompt: Prompt
    place: str


def collect(written: Any, source: Source) -> tuple[Prompt, ...]:
    """All prompts of a grid, in order: `prompts` as written (None: absent), then those of `prompts_file`."""
    placed = [] if written is None else list(_written(written, source.place))
    for key, name in _files(source):
        path = Path(source.folder or "", os.path.expanduser(name))
        placed += from_file(path, wanted_by=f"{source.place(key)}: ")
    if not placed:
        raise BadInput(f"{source.place(('prompts',))}: is empty; prompts or prompts_file is needed")
    return _distinct(placed)


def from_file(path: Path, wanted_by: str = "") -> list[Placed]:
    """The prompts of a txt, csv or jsonl file; the category is the file's stem where the file names none."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"{wanted_by}{path}: a prompts file ends in {', '.join(_READERS)}")
    category = path.stem
    # Python's own splitlines() also splits at form feeds and the like, and then line numbers are off.
    text = re.sub(r"\r\n?", "\n", read_text(path, wanted_by))
    placed = list(reader(text, str(path), category))
    if not placed:
        raise BadInput(f"{wanted_by}{path}: has no prompts")
    return placed


def as_written(prompts: Iterable[Prompt]) -> dict[str, list[str]] | list[dict[str, str]]:
    """The prompts in the grid file's syntax: by category where that keeps their order, else one by one."""
    prompts = tuple(prompts)
    by_category: dict[str, list[str]] = {}
    for prompt in prompts:
        by_category.setdefault(prompt.category, []).append(prompt.text)
    regrouped = [text for texts in by_category.values() for text in texts]
    if regrouped == [prompt.text for prompt in prompts] and all(prompt.id is None for prompt in prompts):
        return by_category
    return [
        {"prompt": p.text, "category": p.category} | ({} if p.id is None else {"id": p.id}) for p in prompts
    ]


def _written(written: Any, place: Callable[[KeyPath], str]) -> Iterator[Placed]:
    here: KeyPath = ("prompts",)
    if isinstance(written, Mapping) and written:
        for category, texts in written.items():
            yield from _texts(texts, (*here, category), place, category)
    elif isinstance(written, (str, list, tuple)):
        yield from _texts(written, here, place, UNCATEGORISED, records=True)
    else:
        raise BadInput(f"{place(here)}: {_FORMS} (got {shown(written)})")


def _texts(
    texts: Any, here: KeyPath, place: Callable[[KeyPath], str], category: Any, records: bool = False
) -> Iterator[Placed]:
    if isinstance(texts, str):
        texts, paths = [texts], [here]
    elif isinstance(texts, (list, tuple)) and texts:
        paths = [(*here, i) for i in range(len(texts))]
    else:
        raise BadInput(f"{place(here)}: must be a text or a list of texts (got {shown(texts)})")
    for item, path in zip(texts, paths, strict=True):
        where = place(path)
        if records and isinstance(item, Prompt):
            item = {"prompt": item.text, "category": item.category, "id": item.id}
        record = item if records and isinstance(item, Mapping) else {"prompt": item}
        yield Placed(_prompt(record, where, category), where)


def _files(source: Source) -> Iterator[tuple[KeyPath, str]]:
    named = source.options.get("prompts_file")
    several = isinstance(named, (list, tuple))
    listed: list[Any] = list(named or ()) if several else [] if named is None else [named]
    for i, name in enumerate(listed):
        key: KeyPath = ("prompts_file", i) if several else ("prompts_file",)
        if not isinstance(name, str) or not name:
            raise BadInput(f"{source.place(key)}: must be the path of a file (got {shown(name)})")
        yield key, name


def _prompt(record: Mapping[str, Any], place: str, category: Any) -> Prompt:
    for key in record:
        if key not in KEYS:
            hint = did_you_mean(str(key), KEYS) or f"; allowed are {', '.join(KEYS)}"
            raise BadInput(f"{place}: unknown key {shown(key)}{hint}")
    if "prompt" not in record:
        raise BadInput(f"{place}: prompt is missing")
    name, own = record.get("id"), record.get("category")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    return Prompt(
        text=_text(record["prompt"], "a prompt", place),
        category=_text(category if own in (None, "") else own, "a category", place).strip(),
        id=None if name in (None, "") else _text(name, "an id", place).strip(),
    )


def _text(value: Any, what: str, place: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{place}: {what} must be text; put quotes around it (got {shown(value)})")
    if not value.strip():
        raise BadInput(f"{place}: {what} must not be empty (got {shown(value)})")
    # Neither survives the cube's text coordinates.
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise BadInput(f"{place}: {what} must be plain Unicode without NUL (got {shown(ascii(value))})")
    return value


def _distinct(placed: list[Placed]) -> tuple[Prompt, ...]:
    texts: dict[str, str] = {}
    names: dict[str, str] = {}
    for each in placed:
        text, name, place = each.prompt.text, each.prompt.id, each.place
        if text in texts:
            raise BadInput(f"{place}: the prompt {shown(text)} is already at {texts[text]}")
        if name in names:
            raise BadInput(f"{place}: the id {shown(name)} is already at {names[name]}")
        texts[text] = place
        if name is not None:
            names[name] = place
    for name, place in names.items():
        if len(names) < len(placed) and re.fullmatch(r"p[0-9]+", name):
            raise BadInput(
                f"{place}: the id {name} is one the cube gives: give every prompt an id, or no such id"
            )
    return tuple(each.prompt for each in placed)


def _txt(text: str, name: str, category: str) -> Iterator[Placed]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.strip().startswith("#"):
            place = f"{name}:{number}"
            yield Placed(_prompt({"prompt": line.strip()}, place, category), place)


def _csv(text: str, name: str, category: str) -> Iterator[Placed]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    try:
        while True:
            place = f"{name}:{rows.line_num + 1}"
            row = next(rows)
            if not row:
                continue
            if columns is None:
                columns = _columns([cell.strip() for cell in row], place)
                continue
            if len(row) != len(columns):
                problem = f"has {len(row)} cells, and there are {len(columns)} columns"
                raise BadInput(f"{place}: {problem}; put quotes around a prompt that holds a comma")
            yield Placed(_prompt(dict(zip(columns, row, strict=True)), place, category), place)
    except StopIteration:
        return
    except csv.Error as problem:
        raise BadInput(f"{place}: not valid CSV ({problem})") from None


def _columns(columns: list[str], place: str) -> list[str]:
    for column in columns:
        if column not in KEYS:
            hint = did_you_mean(column, KEYS)
            raise BadInput(f"{place}: unknown column {shown(column)}{hint}; allowed are {', '.join(KEYS)}")
        if columns.count(column) > 1:
            raise BadInput(f"{place}: the column {column} is there twice")
    if "prompt" not in columns:
        raise BadInput(f"{place}: there is no column prompt; the first line names the columns")
    return columns


def _jsonl(text: str, name: str, category: str) -> Iterator[Placed]:
    for number, line in enumerate(text.split("\n"), 1):
        place = f"{name}:{number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=partial(_once, place=place))
        except (ValueError, RecursionError) as problem:
            reason = getattr(problem, "msg", "a number too long or nested too deeply")
            raise BadInput(f"{place}: not valid JSON ({reason})") from None
        if not isinstance(record, dict):
            raise BadInput(
                f'{place}: must be an object such as {{"prompt": "Once upon"}} (got {shown(record)})'
            )
        yield Placed(_prompt(record, place, category), place)


def _once(pairs: list[tuple[str, Any]], place: str) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise BadInput(f"{place}: a key is given twice")
    return record


_READERS: dict[str, Callable[[str, str, str], Iterator[Placed]]] = {
    ".txt": _txt,
    ".csv": _csv,
    ".jsonl": _jsonl,
}
