"""`make schema`: the parts of the documentation that are made from the code."""

import json
from pathlib import Path

from pydantic import BaseModel

from tempocube.dataset.grid import Grid, json_schema
from tempocube.dataset.options import AttentionCapture, Capture, Curve, Prune, Storage
from tempocube.dataset.schema import table

HERE = Path(__file__).parent
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


def made() -> dict[Path, str]:
    """Every file with such a part, as it ought to be."""
    parts = {HERE / "cube.md": table(), HERE / "grid.md": options()}
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
