"""The grid that a command line asks for: a file's or preset's, one made of options alone, or both mixed."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from ..dataset import gridfile, presets
from ..dataset.grid import Grid
from ..dataset.gridfile import Source
from ..dataset.textfile import KeyPath, dotted
from ..errors import BadInput

CATEGORY = "prompt"  # of the prompts that are typed
WRITTEN = ("threshold", "temperature", "max_tokens", "max_width", "replay", "seeds")  # as in a grid file
OPTIONS = {"seeds": "--seed", "modes": "--mode", "prompts": "--prompt"}  # the others are called as their key
PROMPTS = ("prompts", "prompts_file")


@dataclass(frozen=True)
class _Typed(Source):
    """A source of which some keys were typed as options: what is wrong with them is told by the option."""

    typed: Mapping[str, Any] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """`--threshold.start`, or where in the file."""
        if not path or path[0] not in self.typed:
            return super().place(path)
        inner = path[2:] if path[0] == "prompts" else path[1:]  # without the category
        return dotted((_option(str(path[0])), *inner))


def asked(name: str | None, options: Mapping[str, Any]) -> Grid:
    """The grid of a file or preset, with what was typed (not None, not empty) in place of its own keys."""
    typed = {key: _value(key, given) for key, given in options.items() if given not in (None, [], ())}
    if name is None:
        return _one_off(typed)
    path = presets.path(name) if name in presets.names() else Path(os.path.expanduser(name))
    if not typed or not path.exists():
        return Grid.load(name)
    file = gridfile.read(path)
    typed = {key: _from_here(key, value) for key, value in typed.items()}
    gone = {*typed, *(PROMPTS if typed.keys() & set(PROMPTS) else ())}
    kept = {key: value for key, value in file.options.items() if key not in gone}
    lines = {at: line for at, line in file.lines.items() if at[0] not in gone}
    return Grid.from_source(_Typed(file.name, kept | typed, file.folder, lines, typed), path.stem)


def _one_off(typed: Mapping[str, Any]) -> Grid:
    if not typed.keys() & set(PROMPTS):
        raise BadInput(f"give a grid file, a preset ({', '.join(presets.names())}) or --prompt TEXT")
    prompts = typed.get("prompts", {}).get(CATEGORY)
    name = prompts[0] if prompts else Path(typed["prompts_file"][0]).stem
    return Grid.from_source(_Typed("the command line", typed, Path(), {}, typed), _slug(name))


def _value(key: str, given: Any) -> Any:
    """What was typed as a grid file would have it."""
    if key == "prompts":
        return {CATEGORY: list(given)}
    if key not in WRITTEN:
        return given
    return _read(key, given) if isinstance(given, str) else [_read(key, each) for each in given]


def _read(key: str, text: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, RecursionError, ValueError) as problem:
        said = problem.problem if isinstance(problem, MarkedYAMLError) else None
        raise BadInput(f"{_option(key)}: not valid YAML: {said or type(problem).__name__}") from None


def _from_here(key: str, value: Any) -> Any:
    """Paths that are typed start where the command was given, those in a file at its folder."""
    if key == "prompts_file":
        return [os.path.abspath(os.path.expanduser(path)) for path in value]
    if key == "model" and value != "embedded":
        path = os.path.expanduser(value)
        if os.path.isdir(path) or path.startswith(("./", "../", "~", "/")):
            return os.path.abspath(path)
    return value


def _option(key: str) -> str:
    return OPTIONS.get(key, "--" + key.replace("_", "-"))


def _slug(text: str) -> str:
    """A name for files: the first words of a prompt."""
    return "-".join(re.findall(r"\w+", text.lower()))[:40].strip("-") or "grid"
