"""What the commands share: where text goes, and how an error becomes one line and an exit code."""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import TempoError
from ..words import shown

FINE, SOME_FAILED, BAD_INPUT = 0, 1, 2
INTERRUPTED = 130  # what typer gives back after Ctrl-C

UsageError: Any = typer.BadParameter.__base__  # click's, which typer carries under a private name


class _Console(Console):
    """Text that always gets out: what a terminal cannot show, or would obey, is spelled."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def print(self, *objects: Any, **how: Any) -> None:
        encoding = sys.stdout.encoding or "utf-8"
        super().print(*(shown(each, encoding) if isinstance(each, str) else each for each in objects), **how)


out = _Console(highlight=False, soft_wrap=True)
err = _Console(stderr=True, highlight=False, soft_wrap=True)


def run(app: typer.Typer, name: str) -> NoReturn:
    """Run a command: errors a user can mend are one line, their traceback only with --debug."""
    debug = "--debug" in sys.argv
    try:
        code = app(prog_name=name, standalone_mode=False)
        sys.stdout.flush()  # here, where a reader that went away can still be told from an error
    except TempoError as error:
        if debug:
            raise
        line = " ".join(f"{name}: {error}".splitlines())
        err.print(line, markup=False, style="red" if err.is_terminal else "")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FINE)
    except (KeyboardInterrupt, typer.Abort):
        _stop(name)
    except UsageError as error:
        if debug:
            raise
        err.print(_usage(error) if len(sys.argv) == 1 else f"{name}: {_usage(error)}", markup=False)
        sys.exit(BAD_INPUT)
    except Exception as error:
        if debug:
            raise
        err.print(
            f"{name}: {type(error).__name__}: {error}; --debug shows where".replace("\n", " "), markup=False
        )
        sys.exit(SOME_FAILED)
    if code == INTERRUPTED:
        _stop(name)
    sys.exit(code or FINE)


def _stop(name: str) -> NoReturn:
    err.print(f"{name}: stopped")
    sys.exit(SOME_FAILED)


def _usage(error: Any) -> str:
    """What is wrong with the command line; without any words on it, the help that typer gives for that."""
    hint = f"; see '{error.ctx.command_path} --help'" if error.ctx and len(sys.argv) > 1 else ""
    return str(error.format_message()).rstrip(".") + hint


def say(text: str) -> None:
    """One line (or table) for people."""
    out.print(text, markup=False)


def say_json(value: Any) -> None:
    """The same for scripts."""
    say_text(json.dumps(value, indent=1, ensure_ascii=False))


def say_text(text: str) -> None:
    """What is for scripts already, as it is."""
    try:
        print(text)
    except BrokenPipeError:  # without its number, by which typer would end with an error
        raise BrokenPipeError from None


def complain(text: str) -> None:
    """One line beside the output, for people."""
    err.print(text, markup=False)


@contextmanager
def importing() -> Iterator[None]:
    """Imports leave no garbage; looking for it takes a tenth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def with_progress(what: str, work: Callable[[Callable[[int, int], None]], Any]) -> Any:
    """Do something that reports (done, total); the bar is shown on a terminal only."""
    if not err.is_terminal:
        return work(lambda done, total: None)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(what, total=None)
        return work(lambda done, total: progress.update(task, completed=done, total=total))
