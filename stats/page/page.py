"""The page: one file that opens anywhere, without a network."""

import base64
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...words import how_many, shown
from . import methods, parts, prompts, provenance
from .generation import kind
from .limits import could_have_seen

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["html"]

TEMPLATES = Path(__file__).parent / "templates"
MOST = 5_000_000  # bytes of a page
OF_PICTURES = 3_000_000
SPARE = 50_000
OF_GRID, MOST_GRIDS = 20_000, 8  # characters of one grid, and how many of them
JOINERS = "\u200c\u200d"  # Persian words and families of emoji fall apart without them
NO_ROOM = "<p>There is no room for the explorer on this page: what else is on it takes all of its 5 MB.</p>"
SHORT = 600  # characters that are shown at once
WORD = 40  # characters that a column should be wide for
SCRIPT = re.compile(r"<script(?![^>]*application/json)[^>]*>(.*?)</script>", re.DOTALL)


def html(report: "Report", pictures: Sequence[Any], explore: Sequence[str] = ()) -> str:
    """The page of a report with its pictures, and an explorer of some prompts where there is a cube."""
    drawn = _inline(pictures)
    grids = _grids(report)
    bare = _render(report, pictures, drawn, grids, explore, "")
    explorer = _explorer(report, explore, MOST - len(bare.encode()) - SPARE)
    return _render(report, pictures, drawn, grids, explore, explorer) if explorer else bare


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
    """The explorer, or a sentence where the page has no room for it."""
    if report.part.cube is None:
        return ""
    from .explorer import NoRoom, section

    try:
        return section(report.part.cube, tuple(explore), limit)
    except NoRoom:
        return NO_ROOM


def _render(
    report: "Report",
    pictures: Sequence[Any],
    drawn: dict[str, Markup],
    grids: Sequence[tuple[str, str, str]],
    explore: Sequence[str],
    explorer: str,
) -> str:
    found, response = report.answers, report.source["response"]
    template = _environment().get_template("page.html.j2")
    made = template.render(
        report=report,
        css=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        policy=_policy(explorer),
        made_up=kind(report) == "simulated",
        headline=parts.headline(report),
        gate_line=parts.gate_line(report),
        worst=parts.worst(found.gate),
        failed=[check for check in found.gate if check.status == "fail"],
        summary=parts.summary(report),
        effective=parts.effective(report),
        prompts=prompts.table_of(report),
        gate=parts.gate_table(report),
        checks=parts.checks(report),
        sections=parts.sections(report, pictures),
        beside=[picture for picture in pictures if picture.answer not in found.answers],
        drawn=drawn,
        axes=[parts.swept(axis, report.at[axis], rows) for axis, rows in report.axes.items()],
        experiments=parts.experiments(report),
        explorer=Markup(explorer),
        explored_at=", ".join(f"{axis} = {report.at[axis]}" for axis in report.axes),
        limits=could_have_seen(found, response, parts.is_logs(report)),
        methods=methods.paragraphs(report),
        provenance=provenance.facts(report),
        grids=grids,
        commands=provenance.commands(report, explore),
        hint=provenance.hint(report),
        address=None if report.source.get("kind") == "frame" else provenance.address(report),
    )
    return f"{made.strip()}\n"


def _grids(report: "Report") -> list[tuple[str, str, str]]:
    """Of the first grids what they are called, a part of their text, and what was left out."""
    told = list(zip(provenance.grid_files(report), provenance.grids(report), strict=True))
    made = []
    for name, text in told[:MOST_GRIDS]:
        cut = text if len(text) <= OF_GRID else text[: text.rfind("\n", 0, OF_GRID) + 1] or text[:OF_GRID]
        lacking = (
            f"The first {len(cut):,} of {len(text):,} characters; all of it is in {name} beside this page."
        )
        made.append((name, cut, lacking * (cut != text)))
    left = len(told) - len(made)
    rest = f"{how_many(left, 'more grid')} lie beside this page."
    return [*made, ("", "", rest)] if left else made


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
    made.filters["ended"] = _ended
    made.tests["unbroken"] = _unbroken
    made.globals["SHORT"] = SHORT
    return made


def _spelled(value: Any) -> Any:
    """What a screen would obey is spelled; blanks and what joins letters or emoji belong to their text."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return value if value.isprintable() else "".join(c if _stays(c) else shown(c) for c in value)


def _stays(c: str) -> bool:
    return c in JOINERS or unicodedata.category(c) == "Zs"


def _ended(text: str) -> str:
    """A title as the first sentence of a caption."""
    return text if text.endswith(("?", "!", ".")) else f"{text}."


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
