"""`tempo-stats report`: the answers on the console, and in a folder beside the cube."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BadInput
from . import console

if TYPE_CHECKING:
    from ..stats.report import Report

Json = Annotated[bool, typer.Option("--json", help="print report.json, for scripts")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
Source = Annotated[
    str,
    typer.Argument(
        metavar="CUBE", help="path or URL of a cube, or a tidy CSV, TSV or parquet table", show_default=False
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="show this answer only; may be repeated", show_default=False),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        metavar="AXIS=VALUE",
        help="the value of a swept axis to answer at (default: its first); may be repeated",
        show_default=False,
    ),
]
Out = Annotated[
    str | None,
    typer.Option("-o", "--out", metavar="DIR", help="folder (default: CUBE-report)", show_default=False),
]
Response = Annotated[str, typer.Option(metavar="COLUMN", help="the number asked about")]
Sesoi = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="smallest difference of interest, on the response's scale (of log ratios 0.0953, that of 1.10)",
        show_default=False,
    ),
]
Numbers = Annotated[
    str | None, typer.Option(metavar="LIST", help="average over these only, as 0,2,5-7", show_default=False)
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="of permutations and bootstraps")]

MOST = 9_999


def report(
    cube: Source,
    only: Only = None,
    at: At = None,
    out: Out = None,
    response: Response = "downweighting",
    sesoi: Sesoi = None,
    layers: Numbers = None,
    heads: Numbers = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer the research questions, or say why not. Exit 1 if a check of the gate failed."""
    with console.importing():
        from ..stats.report import report as make
    from . import answers as shown

    options: dict[str, Any] = {
        "response": response,
        "at": dict(pair(text) for text in at or ()),
        "layers": _numbers("--layers", layers),
        "heads": _numbers("--heads", heads),
        "sesoi": sesoi,
        "seed": seed,
    }
    _must_be_known(only or ())
    where = out or _folder(cube)
    if Path(where).exists() and not Path(where).is_dir():
        raise BadInput(f"--out {where}: is a file, and the report needs a folder")
    made: Report = console.with_progress(
        "measuring", lambda progress: make(cube, progress=progress, **options)
    )
    chosen = made.only(*only) if only else made
    written = made.write(where)
    if as_json:
        console.say_text(chosen.to_json())
    else:
        console.say("\n".join([*shown.lines(chosen), "", *shown.entry("numbers", str(written))]))
    raise typer.Exit(console.FINE if made.passed else console.SOME_FAILED)


def _must_be_known(names: Sequence[str]) -> None:
    """Before hours of measuring."""
    from ..stats.gate import ANSWERS

    if odd := [name for name in names if name not in ANSWERS]:
        raise BadInput(f"--only {odd[0]}: there is no such answer; there are {', '.join(ANSWERS)}")


def _folder(source: str) -> str:
    """Beside a cube; here, for one at a URL."""
    path = source.rstrip("/")
    return f"{path.rsplit('/', 1)[-1] if '://' in path else Path(path).expanduser()}-report"


def pair(text: str) -> tuple[str, str]:
    """AXIS=VALUE in two."""
    axis, equals, value = text.partition("=")
    if not (axis and equals and value):
        raise BadInput(f"--at {text}: write AXIS=VALUE, such as threshold=0.05")
    return axis.strip(), value.strip()


def _numbers(option: str, text: str | None) -> list[int] | None:
    """0,2,5-7 as numbers."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise BadInput(f"{option} {text}: write numbers and ranges, such as 0,2,5-7")
        if int(last or first) > MOST:
            raise BadInput(f"{option} {text}: no model has a number above {MOST}")
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise BadInput(f"{option} {text}: a range goes from a smaller to a larger number")
    return found
