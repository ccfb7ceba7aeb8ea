"""The report as files: report.json, tables, figures, and the page last."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import folder, provenance
from .frames import frames, safe

if TYPE_CHECKING:
    import pandas as pd

    from ..report import Report

__all__ = ["early", "page", "write"]

PAGE, NUMBERS = "index.html", "report.json"


def page(report: "Report", explore: Sequence[str] = ()) -> str:
    """The report as one HTML page."""
    from .page import html

    return html(report, _pictures(report), explore)


def early(html: bool) -> list[str]:
    """Files of every report: what can be looked for before anything is measured."""
    return [NUMBERS, *[PAGE] * html, *(f"tables/{name}.csv" for name in ("answers", "gate", "experiments"))]


def write(report: "Report", where: Path, html: bool = True, explore: Sequence[str] = ()) -> Path:
    """Put the report into a folder, and give the path of its page (without one: of report.json)."""
    folder.must_be_free(where, early(html))
    files = {NUMBERS: f"{report.to_json()}\n".encode()}
    grids = zip(provenance.grid_files(report), provenance.grids(report), strict=True)
    files |= {name: text.encode() for name, text in grids}
    tables = frames(report)
    if html:
        from .page import html as rendered

        pictures = _pictures(report)
        tables |= {safe(name): frame for each in pictures for name, frame in each.tables.items()}
        files |= _drawn(pictures)
        files[PAGE] = rendered(report, pictures, explore).encode()
    files |= {f"tables/{name}.csv": _csv(frame) for name, frame in tables.items()}
    last = PAGE if html else NUMBERS
    folder.replace(where, files, last)
    return where / last


def _pictures(report: "Report") -> Sequence[Any]:
    from ..figures import pictures

    return pictures(report)


def _drawn(pictures: Sequence[Any]) -> dict[str, bytes]:
    from ..figures import png, svg

    return {
        f"figures/{safe(picture.name)}.{kind}": content
        for picture in pictures
        for kind, content in (("svg", svg(picture).encode()), ("png", png(picture)))
    }


def _csv(frame: "pd.DataFrame") -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode("utf-8", "backslashreplace")
