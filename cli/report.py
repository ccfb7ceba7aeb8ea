"""`tempo-stats report`: the answers on the console, and in a folder beside the cube."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BadInput
from . import console
from .answers import entry

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
    typer.Option(
        metavar="NAME",
        help="show this answer only, such as modes or logits; may be repeated",
        show_default=False,
    ),
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
    str | None,
    typer.Option(
        metavar="X",
        help="smallest difference of interest: a ratio as 1.10x or 10%, else on the response's own scale",
        show_default=False,
    ),
]
Numbers = Annotated[
    str | None, typer.Option(metavar="LIST", help="average over these only, as 0,2,5-7", show_default=False)
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="of permutations and bootstraps")]
Explore = Annotated[
    str | None,
    typer.Option(
        metavar="PROMPTS",
        help="prompts whose steps can be explored on the page, as p0,p3 (default: a few)",
        show_default=False,
    ),
]
Experiment = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="an experiment of the first study, exp1 ... exp5, or replication: what became of its claims; "
        "may be repeated",
        show_default=False,
    ),
]
NoHtml = Annotated[bool, typer.Option("--no-html", help="numbers only: no page and no figures, but quick")]

MOST = 9_999
MOST_SESOI = 0.7  # a log beyond it, twofold, is a ratio that someone forgot to mark


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
    explore: Explore = None,
    experiment: Experiment = None,
    no_html: NoHtml = False,
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
        "sesoi": None if sesoi is None else _sesoi(sesoi, response),
        "seed": seed,
    }
    _must_be_known(only or ())
    _must_be_an_experiment(experiment or (), cube)
    explored = _explored(explore, cube, no_html, options["at"])
    where = _folder(cube) if out is None else out
    _must_be_free(where, not no_html)
    made: Report = console.with_progress(
        "measuring", lambda progress: make(cube, progress=progress, **options)
    )
    made = made.with_experiments(*experiment) if experiment else made
    chosen = made.only(*only) if only else made
    written = made.write(where, html=not no_html, explore=explored)
    if as_json:
        console.say_text(chosen.to_json())
    else:
        told = _experiments(chosen) if experiment and not only else shown.lines(chosen)
        console.say("\n".join([*told, "", *_files(written)]))
    raise typer.Exit(console.FINE if made.passed else console.SOME_FAILED)


def _files(written: Path) -> list[str]:
    """Where the numbers are, and the page if there is one."""
    numbers = written.with_name("report.json")
    page = [] if written == numbers else entry("page", str(written))
    return [*entry("numbers", str(numbers)), *page]


def _experiments(report: "Report") -> list[str]:
    """The experiments that were asked for, instead of the answers."""
    from . import experiment as shown

    return shown.told(report)


def _must_be_an_experiment(names: Sequence[str], source: str) -> None:
    """Before hours of measuring."""
    if not names:
        return
    from ..stats.replication.experiments import EXPERIMENTS
    from ..stats.table import is_table

    if odd := [name for name in names if name not in EXPERIMENTS]:
        raise BadInput(f"--experiment {odd[0]}: there are {', '.join(EXPERIMENTS)}")
    if is_table(source):
        raise BadInput("--experiment: looks into a cube, and a table holds means of experiments only")


def _must_be_free(where: str, html: bool) -> None:
    """Before hours of measuring."""
    from ..stats.page import folder, writing

    if not where.strip():
        raise BadInput("--out: an empty name is no folder; . is the one you are in")
    if Path(where).exists() and not Path(where).is_dir():
        raise BadInput(f"--out {where}: is a file, and the report needs a folder")
    folder.must_be_free(Path(where), writing.early(html))


def _explored(text: str | None, source: str, no_html: bool, at: Mapping[str, str]) -> tuple[str, ...]:
    """p0,p3 as prompts that are there, and have a done experiment: known before hours of measuring."""
    if text is None:
        return ()
    from ..stats.table import is_table

    if no_html or is_table(source):
        table = "a table has no steps to look at"
        raise BadInput(
            f"--explore {text}: {table if is_table(source) else 'without a page nothing can be explored'}"
        )
    done, told = _done(source, at)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if odd := [name for name in names if name not in done]:
        more = f" and {len(done) - 20} more" if len(done) > 20 else ""
        raise BadInput(f"--explore {odd[0]}: no such prompt; there are {', '.join([*done][:20])}{more}")
    if odd := [name for name in names if not done[name]]:
        raise BadInput(f"--explore {odd[0]}: no experiment of that prompt is done{told}")
    return names


def _done(source: str, at: Mapping[str, str]) -> tuple[dict[str, bool], str]:
    """Whether each prompt has a done experiment at the chosen point, and the point in words."""
    from ..dataset.reading import open_cube
    from ..dataset.schema import DONE
    from ..stats.source import opened

    cube = open_cube(source)
    whole = opened(cube)
    point = whole.point(at)
    status = cube["status"].isel({axis: whole.axes[axis].index(value) for axis, value in point.items()})
    done = (status == DONE).any([dim for dim in status.dims if dim != "prompt"]).values.tolist()
    told = ", ".join(f"{axis}={value}" for axis, value in point.items())
    return dict(zip(map(str, cube["prompt"].values), done, strict=True)), f" at {told}" * bool(told)


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


def _sesoi(text: str, response: str) -> float:
    """A ratio (1.10x, 10%) as its log; another number as it is, unless it must be a ratio."""
    from ..stats.study import LOGS

    number, ratio = text.strip(), text.strip()[-1:] in ("x", "%")
    try:
        value = float(number[:-1] if ratio else number)
    except ValueError:
        raise BadInput(f"--sesoi {text}: write a ratio as 1.10x or 10%, or a number") from None
    if number.endswith("%"):
        value = 1 + value / 100
    if ratio and not (value > 1 and math.isfinite(value)):
        raise BadInput(f"--sesoi {text}: a ratio is above 1, such as 1.10x or 10%")
    if ratio and response not in LOGS:
        raise BadInput(f"--sesoi {text}: {response} is no log of a ratio; give a number on its own scale")
    if not ratio and response in LOGS and value > MOST_SESOI:
        raise BadInput(f"--sesoi {text}: {response} is the log of a ratio; for a ratio write {text}x")
    return math.log(value) if ratio else value


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
