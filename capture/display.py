"""How a run is shown: a bar on a terminal, a box in a notebook, plain lines in a log."""

import html
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..errors import BadInput
from ..words import shown
from .pace import Pace, counted, details
from .progress import State, Watch

NEWS = 20  # lines that a notebook's box keeps
SHARE, SECONDS = 0.1, 30.0  # a log gets a line when this much more is through and so long has passed


@contextmanager
def watching(progress: Any = "auto") -> Iterator[Watch]:
    """Shows a run: "auto" on a terminal or in a notebook, "lines" anywhere, None nowhere; or your own."""
    if callable(progress):
        yield progress
    elif progress == "lines":
        yield _lines(_Stderr())
    elif progress is None:
        yield lambda state: None
    elif progress != "auto":
        raise BadInput(f"progress: auto, lines, None or a function of a State, got {progress!r}")
    elif (display := _notebook()) is not None:
        yield _box(display)
    elif interactive():
        with _bar(_Stderr()) as watch:
            yield watch
    else:
        yield lambda state: None


def interactive() -> bool:
    """Whether someone sits before a terminal that can redraw a bar."""
    console = _Stderr()
    # not rich's own is_terminal, which FORCE_COLOR also makes true of a log
    return console.file.isatty() and not console.is_dumb_terminal


class _Stderr(Console):
    """A console whose reader may go away without stopping the run."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        self.quiet = True

    def tell(self, text: str) -> None:
        """A line of its own, whatever is in the text."""
        self.print(shown(" ".join(text.splitlines())), markup=False)


def _announced(tell: Callable[[str], None]) -> Callable[[State], None]:
    """Tells news, and the dashboard's address once."""
    told: set[str] = set()

    def announce(state: State) -> None:
        if state.dashboard and state.dashboard not in told:
            told.add(state.dashboard)
            tell(f"dashboard: {state.dashboard}")
        if state.news:
            tell(state.news)

    return announce


def _lines(console: _Stderr) -> Watch:
    """Plain lines: where a stage begins, now and then how far it is, and news at once."""
    pace, announce = Pace(), _announced(console.tell)
    last = (0, 0.0)  # cells that were through, and when

    def watch(state: State) -> None:
        nonlocal last
        began = pace.see(state)
        announce(state)
        through = pace.through(state)
        more = through - last[0] >= max(1, SHARE * state.asked) and state.seconds - last[1] >= SECONDS
        if began or more:
            last = through, state.seconds
            console.tell(f"{state.stage}: {counted(state)}, {details(state, pace)}")

    return watch


@contextmanager
def _bar(console: _Stderr) -> Iterator[Watch]:
    """A bar and a line of details that are redrawn; news goes above them."""
    pace, announce = Pace(), _announced(console.tell)
    # a standard output that goes to a file must not be drawn over the bar
    redirect = sys.stdout.isatty()
    with Live(console=console, transient=True, auto_refresh=False, redirect_stdout=redirect) as live:

        def watch(state: State) -> None:
            pace.see(state)
            announce(state)
            live.update(_drawn(state, pace), refresh=True)

        yield watch


def _drawn(state: State, pace: Pace) -> Group:
    bar = ProgressBar(total=max(1, state.asked), completed=pace.through(state), finished_style="green")
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True)
    row.add_row(state.stage, bar, f"{state.done:,}/{state.asked:,}")
    return Group(row, Text(details(state, pace), no_wrap=True, overflow="ellipsis", style="dim"))


def _notebook() -> Any:
    """IPython's `display`, if this is a notebook; IPython is no dependency, so it is there or it is not."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if "ZMQInteractiveShell" not in (kind.__name__ for kind in type(shell).__mro__):
        return None
    return import_module("IPython.display").display


def _box(display: Any) -> Watch:
    """One output of a notebook, updated in place: the latest news, a bar, the details."""
    news: list[str] = []
    pace, announce = Pace(), _announced(news.append)
    handle: Any = None

    def watch(state: State) -> None:
        nonlocal handle
        pace.see(state)
        announce(state)
        del news[:-NEWS]
        made = _page(state, pace, news)
        if handle is None:
            handle = display(made, raw=True, display_id=True)
        else:
            handle.update(made, raw=True)

    return watch


def _page(state: State, pace: Pace, news: list[str]) -> dict[str, str]:
    """What a notebook shows, as HTML and as text for those who read it without."""
    lines = [shown(" ".join(line.splitlines())) for line in news]
    now = f"{state.stage}: {counted(state)}, {details(state, pace)}"
    told = "<br>".join(map(html.escape, [*lines, now]))
    bar = f'<progress value="{pace.through(state)}" max="{max(1, state.asked)}"></progress>'
    return {"text/plain": "\n".join([*lines, now]), "text/html": f"<div>{told}<br>{bar}</div>"}
