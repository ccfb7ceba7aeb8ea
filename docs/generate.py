"""`make schema`: the parts of the documentation that are made from the code."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from tempocube.cli import capture, stats
from tempocube.dataset.grid import Grid, json_schema
from tempocube.dataset.options import AttentionCapture, Capture, Curve, Prune, Storage
from tempocube.dataset.schema import table

HERE = Path(__file__).parent
APPS = {"tempo-capture": capture.app, "tempo-stats": stats.app}
BEGIN, END = "<!-- made by make schema -->", "<!-- until here -->"


OPTIONS = {
    "": Grid,
    "threshold (a curve)": Curve,
    "prune": Prune,
    "capture": Capture,
    "capture.attention": AttentionCapture,
    "storage": Storage,
}


def options() -> str:
    """Every key of a grid file with its default and meaning, a table for each mapping."""
    return "\n\n".join(filter(None, (_section(name, model) for name, model in OPTIONS.items())))


def _section(name: str, model: type[BaseModel]) -> str:
    rows = ["| key | if it is left out | what |", "|---|---|---|"]
    for key, field in model.model_fields.items():
        default = "it or `prompts_file` must be there" if key == "prompts" else "must be there"
        default = default if field.is_required() else _written(field.default)
        default = "`{}`" if key == "project" else default
        rows.append(f"| `{key}` | {default} | {field.description or PROMPTS} |")
    return "\n".join([f"### {name}\n" if name else "", *rows]).strip()


PROMPTS = "category -> prompts, or a list of prompts; see Prompts below"


def _written(value: object) -> str:
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(plain)
    return "see below" if isinstance(plain, dict) else f"`{text}`"


def parsers() -> dict[str, Any]:
    """Every command as one types it (`tempo-stats report`), and what parses it."""
    found: dict[str, Any] = {}
    for name, app in APPS.items():
        whole = typer.main.get_command(app)
        verbs = getattr(whole, "commands", {})
        found |= {f"{name} {verb}": verbs[verb] for verb in verbs} or {name: whole}
    return found


def commands() -> str:
    """Every command with all that may be typed after it, a section for each."""
    return "\n\n".join("\n".join(_command(*each)) for each in parsers().items())


def _command(name: str, parser: Any) -> Iterator[str]:
    arguments = [each for each in parser.params if each.param_type_name == "argument"]
    options = [each for each in parser.params if each.param_type_name == "option"]
    usage = " ".join([name, *map(_placeholder, arguments), *(["[OPTIONS]"] if options else [])])
    yield from (f"## {name}", "", " ".join(parser.help.split()), "", f"    {usage}", "")
    yield from ("| | what |", "|---|---|")
    yield from (_row(f"`{_placeholder(each)}`", each) for each in arguments)
    yield from (_row(_spelled(each), each) for each in options)


def _placeholder(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    name += "..." if argument.multiple or argument.nargs != 1 else ""
    return name if argument.required else f"[{name}]"


def _spelled(option: Any) -> str:
    """`-o`, `--out` CUBE."""
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return names if option.is_flag else f"{names} {option.metavar or 'VALUE'}".replace("|", "\\|")


def _row(first: str, parameter: Any) -> str:
    what = " ".join((parameter.help or "").split()).replace("|", "\\|")
    default = parameter.default
    shown = parameter.show_default and not (default is None or default is False or callable(default))
    return f"| {first} | {what}{f' (default: `{default}`)' if shown else ''} |"


def made() -> dict[Path, str]:
    """Every file with such a part, as it ought to be."""
    parts = {
        HERE / "cube.md": table(),
        HERE / "grid.md": options(),
        HERE / "commands.md": commands(),
    }
    return {HERE / "grid.schema.json": json.dumps(json_schema(), indent=1) + "\n"} | {
        path: _with_part(path.read_text(), part) for path, part in parts.items()
    }


def _with_part(text: str, part: str) -> str:
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"a page lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"


if __name__ == "__main__":
    for path, text in made().items():
        path.write_text(text)
