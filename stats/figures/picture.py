"""A picture: a table, how it is drawn, and what is to be seen; as SVG, PNG, or an element of a page."""

import html
import io
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .style import ACCENT, INK, OWN_BLUE, RC, WIDTH

__all__ = ["Draw", "Picture", "inline", "png", "svg"]

Draw = Callable[[Figure, pd.DataFrame], None]

DPI = 160
PAPER, PRINTED = "#ffffff", "#1a1a1a"
TAG = re.compile(r"<[^>]+>")
NAMED = re.compile(r'(\bid="|href="#|url\(#)')
FAMILY = re.compile(r" ?font-family: [^;\"]*;?")
OF_ALL = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
SIZE = re.compile(r'width="[\d.]+pt" height="[\d.]+pt" ')


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What is drawn is what is in the table: `draw(figure, table)` is given nothing else.

    answer: the key of the answer it belongs to, or "design" or "positions"; height in inches.
    """

    name: str
    answer: str
    title: str
    caption: str
    alt: str
    table: pd.DataFrame
    draw: Draw
    height: float = 3.6

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """All that is drawn, by the name of its file."""
        return {self.name: self.table}

    def figure(self) -> Figure:
        """The drawing as matplotlib's objects."""
        with self.style():
            figure = Figure(
                figsize=(WIDTH, self.height),
                dpi=DPI,  # text is wider in some resolutions, and the layout must fit the file's
                layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05, wspace=0.03),
            )
            FigureCanvasAgg(figure)
            self.draw(figure, self.table)
        return figure

    def style(self) -> AbstractContextManager[None]:
        """The settings that it is drawn with, and nothing else is."""
        return matplotlib.rc_context({**RC, "svg.hashsalt": self.name})

    def rendered(self, kind: str) -> bytes:
        """The drawing as a file's bytes, without a date and on no ground of its own."""
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        made = io.BytesIO()
        figure = _laid_out(self)
        with self.style():
            canvas = FigureCanvasSVG(figure) if kind == "svg" else FigureCanvasAgg(figure)
            options: dict[str, Any] = {} if kind == "svg" else {"facecolor": PAPER}
            canvas.print_figure(made, format=kind, dpi=DPI, metadata=metadata, **options)
        return made.getvalue()


def png(picture: Picture) -> bytes:
    """The picture as PNG, on white."""
    return picture.rendered("png")


def svg(picture: Picture) -> str:
    """The picture as an SVG file, on white, text as text."""
    made = _drawn(picture)
    start = made.index(">", made.index("<svg")) + 1
    ground = f'\n <rect width="100%" height="100%" fill="{PAPER}"/>'
    return (made[:start] + ground + made[start:]).replace(INK, PRINTED)


def inline(picture: Picture) -> str:
    """The picture as an element of a page: the page's colour and font, no ground, names of its own.

    A page may set --figure-blue, the one colour that is dim on black.
    """
    made = _drawn(picture)
    made = OF_ALL.sub("", made[made.index("<svg") :], count=1)
    made = SIZE.sub("", made, count=1)
    made = TAG.sub(lambda tag: _own(tag.group(), picture.name), made)
    how = "stroke-linejoin:round;width:100%;height:auto;font-family:system-ui,'DejaVu Sans',sans-serif"
    told = f'<svg role="img" aria-label="{html.escape(picture.alt)}" style="{how}"'
    made = made.replace(INK, "currentColor").replace(ACCENT.lower(), OWN_BLUE)
    return made.replace("<svg", told, 1).strip()


@lru_cache(maxsize=4)
def _laid_out(picture: Picture) -> Figure:
    """The drawing with everything in its place, once for both kinds of file: that is half of the work."""
    with picture.style():
        figure = picture.figure()
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
        figure.set_layout_engine(None)  # "none" is an engine too, for which all is drawn once more in vain
    return figure


@lru_cache(maxsize=32)
def _drawn(picture: Picture) -> str:
    """As matplotlib writes it; a report wants it twice, as a file and in its page."""
    return picture.rendered("svg").decode()


def _own(tag: str, name: str) -> str:
    """A tag whose names are this picture's, without the font of the file."""
    return FAMILY.sub("", NAMED.sub(rf"\g<1>{name}-", tag))
