"""Where the numbers come from, and the commands that make them again."""

import io
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["commands", "facts", "grids"]


def facts(report: "Report") -> list[tuple[str, str]]:
    """Name and value of what identifies cube, model, software and machine."""
    cube = report.part.cube
    attrs: Mapping[str, Any] = {} if cube is None else cube.attrs
    model = attrs.get("model") or {}
    told = [
        ("made from", report.source["name"]),
        ("address", report.source.get("url")),
        ("digest of what was measured", report.source.get("digest")),
        ("model", model.get("id") or report.source.get("model")),
        ("SHA-256 of the model's files", model.get("sha256")),
        ("size of the model", _size(model)),
        ("layers used", _ranges(report.source.get("layers"))),
        ("heads used", _ranges(report.source.get("heads"))),
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


def _ranges(numbers: Sequence[int] | None) -> str:
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
    """Each grid that was asked, as YAML."""
    from ruamel.yaml import YAML

    cube = report.part.cube
    made = []
    for grid in [] if cube is None else cube.attrs.get("grid") or []:
        text, yaml = io.StringIO(), YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel says None
        yaml.dump(dict(grid), text)
        made.append(text.getvalue())
    return made


def commands(report: "Report") -> list[str]:
    """What to type, from the grid to this page."""
    name = shlex.quote(report.source["name"])
    count = 0 if report.part.cube is None else len(report.part.cube.attrs.get("grid") or [])
    files = [f"grid{i + 1}.yaml" for i in range(count)] if count > 1 else ["grid.yaml"] * count
    return [
        *(f"tempo-capture {file} -o {name}" for file in files),
        f"tempo-stats report {name}{_options(report)}",
    ]


def _options(report: "Report") -> str:
    source, cube = report.source, report.part.cube
    told = [f"--at {shlex.quote(f'{axis}={value}')}" for axis, value in report.at.items()]
    if source["response"] != "downweighting":
        told.append(f"--response {shlex.quote(source['response'])}")
    for what in ("layers", "heads"):
        every = None if cube is None else cube.attrs.get(f"captured_{what}")
        if source.get(what) and list(source[what]) != list(every or ()):
            told.append(f"--{what} {_ranges(source[what])}")
    if source.get("sesoi") is not None:
        told.append(f"--sesoi {source['sesoi']}")
    if source.get("seed"):
        told.append(f"--seed {source['seed']}")
    return "".join(f" {each}" for each in told)
