"""A grid file as it was read, and refusals of it that a researcher can act on."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ..errors import BadInput
from .textfile import KeyPath, did_you_mean, dotted, read_yaml

# Pydantic names the branch of a union in an error's location; these can be told and dropped.
TAGS = frozenset({"<value>", "<list>", "<mapping>"})

_SAID = {
    "missing": "is missing",
    "too_short": "must not be an empty list",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "invalid_key": "must be text",
}


@dataclass(frozen=True)
class Source:
    """What a grid file says (`options`), where its paths start (`folder`), and the line of every key."""

    name: str
    options: Mapping[str, Any]
    folder: Path | None = None
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def line(self, path: KeyPath) -> int | None:
        """The line of a key, or of the nearest key around it."""
        known = (self.lines.get(path[:end]) for end in range(len(path), 0, -1))
        return next((line for line in known if line), None)

    def place(self, path: KeyPath) -> str:
        """`grid.yaml:7: threshold.start`: how every refusal begins."""
        line = self.line(path)
        where = f"{self.name}:{line}" if line else self.name
        return f"{where}: {dotted(path)}" if path else where


def read(path: Path) -> Source:
    """A grid file's options, as plain values, with their lines."""
    name = str(path)
    options, lines = read_yaml(path)
    if options is None:
        raise BadInput(f"{name}: is empty; a grid needs at least `prompts: [...]`")
    if not isinstance(options, dict):
        raise BadInput(f"{name}: must be a mapping of options such as `seeds: [42]` (got {shown(options)})")
    return Source(name, options, path.absolute().parent, lines)


def refusal(source: Source, error: ValidationError, model: type[BaseModel]) -> BadInput:
    """The first thing wrong in the file, in one line, and how many more there are."""
    found = [(_path(details), details) for details in error.errors(include_url=False)]
    misspelt = {path[:-1] for path, details in found if details["type"] == "extra_forbidden"}
    found = [each for each in found if not _follows(*each, misspelt)]
    path, details = min(found, key=lambda each: source.line(each[0]) or float("inf"))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return BadInput(_problem(source, path, details, model) + more)


def shown(value: Any) -> str:
    """A value as a file would have it, cut to what fits in a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _path(details: ErrorDetails) -> KeyPath:
    """Pydantic's location without its tags, plus what a check of ours points at inside it."""
    inner = details.get("ctx", {}).get("at", ())
    return (*(key for key in details["loc"] if key not in TAGS and key != "[key]"), *inner)


def _follows(path: KeyPath, details: ErrorDetails, misspelt: set[KeyPath]) -> bool:
    """Whether an error only follows from another: a key is missing because it is misspelt, say."""
    # Pydantic also calls a list too short when none of its items is right.
    emptied = details["type"] == "too_short" and bool(details["input"])
    return emptied or (details["type"] == "missing" and path[:-1] in misspelt)


def _problem(source: Source, path: KeyPath, details: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "placed":  # a prompt's own place is already in the message
        return str(context["message"])
    value = details["input"]
    for key in context.get("at", ()):
        value = value[key]
    got = f" (got {shown(value)})"
    if kind == "extra_forbidden":
        return f"{source.place(path)}: unknown key{_nearest_key(path, model)}"
    if kind == "missing":
        got = ""
    return f"{source.place(path)}: {_what(path, details, model)}{got}"


def _what(path: KeyPath, details: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"]) + ["null"] * ("None" in context["expected"])
        right = " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
        return f"must be {right}{did_you_mean(str(details['input']), choices)}"
    if kind in ("tuple_type", "list_type"):
        return f"must be a list{_example(path, model)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        inner = _model_at(model, path)
        return (
            f"must be a mapping with the keys {', '.join(inner.model_fields)}"
            if inner
            else "must be a mapping"
        )
    if path == ("prompts",) and kind == "missing":
        return "is missing; prompts or prompts_file is needed"
    return _SAID.get(kind, details["msg"])


def _nearest_key(path: KeyPath, model: type[BaseModel]) -> str:
    key, here = str(path[-1]), _model_at(model, path[:-1])
    valid = [*here.model_fields, *(["prompts_file"] if here is model else [])] if here else []
    elsewhere = [name for name in _every_key(model) if name.rpartition(".")[2] == key]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return did_you_mean(key, valid) or f"; valid here: {', '.join(valid)}"


def _every_key(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, option in model.model_fields.items():
        yield prefix + name
        inner = _model_in(option.annotation)
        if inner:
            yield from _every_key(inner, f"{prefix}{name}.")


def _example(path: KeyPath, model: type[BaseModel]) -> str:
    option = _field_at(model, path)
    if not option or not option.examples:
        return ""
    return " such as " + json.dumps(option.examples[0], ensure_ascii=False).replace('"', "")


def _field_at(model: type[BaseModel], path: KeyPath) -> FieldInfo | None:
    names = [key for key in path if isinstance(key, str)]
    around = _model_at(model, tuple(names[:-1])) if names else None
    return around.model_fields.get(names[-1]) if around else None


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    here: type[BaseModel] | None = model
    for key in path:
        if isinstance(key, str):
            option = here.model_fields.get(key) if here else None
            here = _model_in(option.annotation) if option else None
    return here


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
