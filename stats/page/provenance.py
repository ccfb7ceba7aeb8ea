"""Where the numbers come from, and the commands that make them again."""

import io
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..gate import ANSWERS
from .generation import imported, kind

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["address", "commands", "facts", "grid_files", "grids", "hint", "ranges"]


def facts(report: "Report") -> list[tuple[str, str]]:
    """Name and value of what identifies cube, model, software and machine."""
    cube = report.part.cube
    attrs: Mapping[str, Any] = {} if cube is None else cube.attrs
    model = attrs.get("model") or {}
    told = [
        ("made from", report.source["name"]),
        ("address", report.source.get("url")),
        ("data", "made up by simulation: no model was run" if kind(report) == "simulated" else ""),
        ("imported from", (attrs.get("imported") or {}).get("from")),
        ("missing in what was imported", "; ".join(imported(report))),
        ("SHA-256 of the table's file", report.source.get("file_sha256")),
        ("digest of what was measured", report.source.get("digest")),
        ("model", model.get("id") or report.source.get("model")),
        ("SHA-256 of the model's files", model.get("sha256")),
        ("size of the model", _size(model)),
        ("layers used", ranges(report.source.get("layers"))),
        ("heads used", ranges(report.source.get("heads"))),
        ("captured", attrs.get("created")),
        ("captured with", _versions(attrs.get("versions"))),
        ("captured on", attrs.get("platform")),
        ("analysed with", _versions({"tempocube": report.source["tempocube"], **report.answers.versions})),
    ]
    return [(name, str(value)) for name, value in told if value]


def _size(model: Mapping[str, Any]) -> str:
    if not model:
        return ""
    return (
        f"{model['layers']} layers, {model['heads']} heads, width {model['hidden']}, {model['vocab']:,} "
        "tokens"
    )


def _versions(versions: Mapping[str, str] | None) -> str:
    return ", ".join(f"{name} {version}" for name, version in (versions or {}).items())


def ranges(numbers: Sequence[int] | None) -> str:
    """0-5,8 for 0, 1, 2, 3, 4, 5, 8: as the options take it."""
    if not numbers:
        return ""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def grids(report: "Report") -> list[str]:
    """Each grid that was asked, as YAML in which every character can be seen."""
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import SafeRepresenter

    class Plain(SafeRepresenter):
        """Texts with what cannot be seen, or would be obeyed, stand in double quotes."""

    Plain.add_representer(str, _text)
    cube = report.part.cube
    made = []
    for grid in [] if cube is None else cube.attrs.get("grid") or []:
        text, yaml = io.StringIO(), YAML(typ="safe", pure=True)
        yaml.Representer = Plain
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel says None
        yaml.dump(dict(grid), text)
        made.append(re.sub(r"[^\n -~]", lambda found: _escaped(found[0]), text.getvalue()))
    return made


def _text(representer: Any, text: str) -> Any:
    style = None if text.isprintable() else '"'
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _escaped(c: str) -> str:
    """As double quotes spell it, which is where such a character stands."""
    return c if c.isprintable() else f"\\U{ord(c):08x}"


def grid_files(report: "Report") -> list[str]:
    """What the files of the grids are called, beside the page."""
    count = 0 if report.part.cube is None else len(report.part.cube.attrs.get("grid") or [])
    return [f"grid{i + 1}.yaml" for i in range(count)] if count > 1 else ["grid.yaml"] * count


def address(report: "Report") -> str:
    """What a shell takes for the cube or table, in its own folder where it is not remote."""
    url, name = str(report.source.get("url") or ""), str(report.source["name"])
    named = url if "://" in url and not url.startswith("file:") else name
    return shlex.quote(f"./{named}" if named.startswith("-") else named)


def hint(report: "Report") -> str:
    """What must be known before the commands are typed."""
    if report.source.get("kind") == "frame":
        return "In Python, with the same table as `frame`."
    told = "In the folder that holds it; the grid files lie beside this page."
    told = told if kind(report) == "captured" else "In the folder that holds it."
    if kind(report) == "simulated":
        return f"{told} The cube was made by tempocube.dataset.simulated.cube, and cannot be captured."
    if kind(report) == "imported":
        return f"{told} The cube was made by tempo-stats import, and cannot be captured from the grid."
    return told


def commands(report: "Report", explore: Sequence[str] = ()) -> list[str]:
    """What to type, from the grid to this page."""
    whole = set(report.answers.answers) == set(ANSWERS)
    if report.source.get("kind") == "frame" or not whole:
        return [_python(report, explore, whole)]
    name = address(report)
    files = grid_files(report) if kind(report) == "captured" else []
    return [
        *(f"tempo-capture {file} -o {name}" for file in files),
        f"tempo-stats report {name}{_options(report, explore)}",
    ]


def _options(report: "Report", explore: Sequence[str]) -> str:
    source = report.source
    told = [f"--at {shlex.quote(f'{axis}={value}')}" for axis, value in report.at.items()]
    if source["response"] != "downweighting":
        told.append(f"--response {shlex.quote(source['response'])}")
    told += [f"--{what} {ranges(chosen)}" for what, chosen in _chosen(report).items()]
    if source.get("sesoi") is not None:
        told.append(f"--sesoi {source['sesoi']}")
    if source.get("seed"):
        told.append(f"--seed {source['seed']}")
    told += [f"--experiment {shlex.quote(each.name)}" for each in report.experiments]
    told += [f"--explore {shlex.quote(','.join(explore))}"] if explore else []
    return "".join(f" {each}" for each in told)


def _chosen(report: "Report") -> dict[str, list[int]]:
    """Layers and heads, where they are not all that were captured."""
    source, cube = report.source, report.part.cube
    every = {
        what: None if cube is None else cube.attrs.get(f"captured_{what}") for what in ("layers", "heads")
    }
    return {
        what: list(source[what])
        for what in every
        if source.get(what) and list(source[what]) != list(every[what] or ())
    }


def _python(report: "Report", explore: Sequence[str], whole: bool) -> str:
    """The same in Python, for what has no command: a DataFrame, or a part of the answers."""
    source = report.source
    given = "frame" if source.get("kind") == "frame" else repr(str(source["name"]))
    asked = {
        "response": source["response"] if source["response"] != "downweighting" else None,
        "at": dict(report.at) or None,
        **_chosen(report),
        "sesoi": source.get("sesoi"),
        "seed": source.get("seed") or None,
    }
    told = "".join(f", {name}={value!r}" for name, value in asked.items() if value is not None)
    made = f"tempocube.report({given}{told})"
    if not whole:
        made += f".only({', '.join(map(repr, report.answers.answers))})"
    if report.experiments:
        made += f".with_experiments({', '.join(repr(each.name) for each in report.experiments)})"
    seen = f", explore={list(explore)!r}" if explore else ""
    return f"{made}.write('report'{seen})"
