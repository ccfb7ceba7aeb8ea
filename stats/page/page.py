"""The page: one file that opens anywhere, without a network."""

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...words import shown
from . import methods, parts, provenance
from .limits import could_have_seen

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["html"]

TEMPLATES = Path(__file__).parent / "templates"
MOST = 5_000_000  # bytes of a page
OF_PICTURES = 3_000_000
SPARE = 50_000
SHORT = 600  # characters that are shown at once
WORD = 40  # characters that a column should be wide for
SCRIPT = re.compile(r"<script(?![^>]*application/json)[^>]*>(.*?)</script>", re.DOTALL)


def html(report: "Report", pictures: Sequence[Any], explore: Sequence[str] = ()) -> str:
    """The page of a report with its pictures, and an explorer of some prompts where there is a cube."""
    drawn = _inline(pictures)
    bare = _render(report, pictures, drawn, "")
    explorer = _explorer(report, explore, MOST - len(bare.encode()) - SPARE)
    return _render(report, pictures, drawn, explorer) if explorer else bare


def _inline(pictures: Sequence[Any]) -> dict[str, Markup]:
    """Pictures as elements of the page; those that are too much for it are looked at in their files."""
    if not pictures:
        return {}
    from ..figures import inline

    made: dict[str, Markup] = {}
    left = OF_PICTURES
    for picture in pictures:
        element = inline(picture)
        left -= len(element.encode())
        if left > 0:
            made[picture.name] = Markup(element)
    return made


def _explorer(report: "Report", explore: Sequence[str], limit: int) -> str:
    if report.part.cube is None:
        return ""
    from .explorer import section

    return section(report.part.cube, tuple(explore), limit)


def _render(report: "Report", pictures: Sequence[Any], drawn: dict[str, Markup], explorer: str) -> str:
    found, logs = report.answers, parts.is_logs(report)
    template = _environment().get_template("page.html.j2")
    made = template.render(
        report=report,
        css=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        policy=_policy(explorer),
        headline=parts.headline(report),
        gate_line=parts.gate_line(report),
        worst=parts.worst(found.gate),
        failed=[check for check in found.gate if check.status == "fail"],
        summary=parts.summary(report),
        effective=parts.effective(report),
        prompts=parts.prompts(report),
        gate=parts.gate_table(report),
        checks=parts.checks(report),
        sections=parts.sections(report, pictures),
        beside=[picture for picture in pictures if picture.answer not in found.answers],
        drawn=drawn,
        axes=[parts.swept(axis, report.at[axis], rows) for axis, rows in report.axes.items()],
        experiments=parts.experiments(report),
        explorer=Markup(explorer),
        limits=could_have_seen(found, report.source["response"], logs),
        methods=methods.paragraphs(report),
        provenance=provenance.facts(report),
        grids=provenance.grids(report),
        commands=provenance.commands(report),
    )
    return f"{made.strip()}\n"


def _environment() -> Environment:
    """Everything is escaped, and control characters are spelled."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_spelled,
    )
    made.filters["short"] = _short
    made.tests["unbroken"] = _unbroken
    made.globals["SHORT"] = SHORT
    return made


def _spelled(value: Any) -> Any:
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _short(text: str, length: int = 120) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def _unbroken(text: str) -> bool:
    return max(map(len, text.split()), default=0) > WORD


def _policy(explorer: str) -> str:
    """What the page may do: run its own scripts, known by their hashes, and fetch nothing."""
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in SCRIPT.findall(explorer)
    ]
    scripts = " ".join(hashes) or "'none'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; base-uri "
        "'none'; "
        "form-action 'none'"
    )
