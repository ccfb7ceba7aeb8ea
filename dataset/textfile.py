"""Reading text files: UTF-8 only, and YAML 1.2 or JSON as plain values with the line of every key."""

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ..errors import BadInput

KeyPath = tuple[str | int, ...]
Lines = dict[KeyPath, int]

# More values than this from aliases alone is a bomb, not a grid: nine lines can stand for a thousand million.
_MOST_ALIASED = 100_000

_YAML = "tag:yaml.org,2002:"
_TEXT_TAGS = {"!", f"{_YAML}str", f"{_YAML}timestamp", f"{_YAML}value", f"{_YAML}merge"}
_BASES = {"0x": 16, "0o": 8, "0b": 2}


def read_text(path: Path, wanted_by: str = "") -> str:
    """A UTF-8 file's text; `wanted_by` is the place that named it."""
    if path.is_dir():
        raise BadInput(f"{wanted_by}{path}: is a folder, not a file")
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise BadInput(f"{wanted_by}{path}: no such file{did_you_mean(path.name, siblings)}") from None
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise BadInput(f"{wanted_by}{path}: cannot be read ({reason})") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise BadInput(f"{path}:{line}: not UTF-8 text (byte 0x{raw[problem.start]:02x})") from None
    if "\0" in text:
        raise BadInput(
            f"{path}:{text[: text.index(chr(0))].count(chr(10)) + 1}: not a text file (it has NUL bytes)"
        )
    return text


def read_yaml(path: Path) -> tuple[Any, Lines]:
    """A YAML or JSON file's plain value, and the line of every key and item in it; an empty file is None."""
    name, text = str(path), read_text(path)
    if path.suffix.lower() == ".json":
        text = _json_as_yaml(text)
    tree = _Tree(name)
    try:
        root = YAML(typ="safe", pure=True).compose(text)
        return (None if root is None else tree.value(root, ())), tree.lines
    except RecursionError:
        raise BadInput(f"{name}: nested too deeply to be a grid") from None
    except YAMLError as problem:
        raise BadInput(_syntax(name, text, problem)) from None


def dotted(path: KeyPath) -> str:
    """`prompts.narrative[1]` for ("prompts", "narrative", 1)."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def did_you_mean(word: str, among: Iterable[str]) -> str:
    """`; did you mean threshold?`, or nothing if nothing is near."""
    near = difflib.get_close_matches(word, list(among), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class _Tree:
    """Plain values from YAML nodes; `lines` fills up with the line of every key and item on the way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[KeyPath, int] = {}
        self._seen: set[int] = set()
        self._open: set[int] = set()
        self._aliased = 0

    def value(self, node: Node, path: KeyPath) -> Any:
        """The node's value, whatever it is."""
        self._count(node)
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        self._open.add(id(node))
        if isinstance(node, MappingNode) and node.tag == f"{_YAML}map":
            value: Any = self._mapping(node, path)
        elif isinstance(node, SequenceNode) and node.tag == f"{_YAML}seq":
            value = [self._item(child, (*path, i)) for i, child in enumerate(node.value)]
        else:
            raise self._tagged(node)
        self._open.remove(id(node))
        return value

    def _item(self, node: Node, path: KeyPath) -> Any:
        self.lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        options: dict[str, Any] = {}
        for key, child in node.value:
            if not isinstance(key, ScalarNode):
                raise self._bad(key, "a key must be text")
            name, inner = _merged(key.value), (*path, _merged(key.value))
            if name in options:
                raise self._bad(key, f"{dotted(inner)}: given twice (first on line {self.lines[inner]})")
            self.lines[inner] = key.start_mark.line + 1
            options[name] = self.value(child, inner)
        return options

    def _scalar(self, node: ScalarNode) -> Any:
        text, tag = node.value, node.tag
        if tag in _TEXT_TAGS:
            return _merged(text)
        if tag == f"{_YAML}null":
            return None
        if tag == f"{_YAML}bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if tag in (f"{_YAML}int", f"{_YAML}float", f"{_YAML}bool"):
            return _number(text)
        raise self._tagged(node)

    def _count(self, node: Node) -> None:
        if id(node) in self._open:
            raise self._bad(node, "an alias contains itself")
        self._aliased += id(node) in self._seen
        self._seen.add(id(node))
        if self._aliased > _MOST_ALIASED:
            raise self._bad(node, f"aliases stand for more than {_MOST_ALIASED:,} values")

    def _tagged(self, node: Node) -> BadInput:
        tag = str(node.tag).replace(_YAML, "!!")
        return self._bad(node, f"the tag {tag} is not allowed: plain YAML only")

    def _bad(self, node: Node, problem: str) -> BadInput:
        return BadInput(f"{self.name}:{node.start_mark.line + 1}: {problem}")


def _number(text: str) -> int | float | str:
    digits = text.replace("_", "")
    sign, bare = (-1 if digits.startswith("-") else 1), digits.lstrip("+-").lower()
    try:
        if bare.lstrip(".") in ("inf", "nan"):
            return sign * float(bare.lstrip("."))
        if bare[:2] in _BASES:
            return sign * int(bare[2:], _BASES[bare[:2]])
        return sign * (int(bare) if bare.isdigit() else float(bare))
    except ValueError:
        return (
            text  # `no` under %YAML 1.1, a number of 5,000 digits: text, for the option's own check to refuse
        )


def _merged(text: str) -> str:
    """JSON writes an emoji as two escaped halves; YAML leaves them apart."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _json_as_yaml(text: str) -> str:
    """Tabs (which YAML refuses) lie between tokens in JSON, other unprintable characters only in strings."""
    return re.sub(r"[^\t\n\r -~\xa0-\ud7ff\ue000-\ufffd]", _escaped, text).replace("\t", " ")


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1] if ord(match[0]) != 0x7F else "\\u007f"


def _syntax(name: str, text: str, problem: YAMLError) -> str:
    if isinstance(problem, MarkedYAMLError):
        mark = problem.problem_mark or problem.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        what = str(problem.problem or problem.context)
        if "'\\t'" in what:
            what = "a tab cannot indent YAML: use spaces"
        if "another document" in what:
            what = "`---` begins a second document; a grid file has one"
        return f"{where}: not valid YAML: {' '.join(what.split())}"
    at = getattr(problem, "position", None)
    where = f"{name}:{text.count(chr(10), 0, at) + 1}" if at is not None else name
    code = getattr(problem, "character", None)
    character = f"U+{code:04X}" if isinstance(code, int) else repr(code)
    return f"{where}: not valid YAML: the character {character} is not allowed"
