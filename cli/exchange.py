"""`tempo-stats export` and `tempo-stats import`: other programs' files, out of a cube and into one."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import BadInput
from ..words import how_many
from . import console

if TYPE_CHECKING:
    from ..dataset.imported import Imported
    from ..stats.legacy import Exported

Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what is there")]
CubeArg = Annotated[str, typer.Argument(metavar="CUBE", help="path or URL of a cube", show_default=False)]
NewCube = Annotated[
    str, typer.Argument(metavar="CUBE", help="path or URL of the cube to write", show_default=False)
]
Folder = Annotated[
    str,
    typer.Argument(metavar="DIR", help="folder of one experiment, or of folders of them", show_default=False),
]
Legacy = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="write the original TEMPO's result files there", show_default=False),
]
Measures = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="write measures into a .csv, .tsv, .parquet or .nc (netCDF) file",
        show_default=False,
    ),
]
Table = Annotated[
    str, typer.Option("--table", metavar="NAME", help="which measures: experiments, between, steps or maps")
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", metavar="P", help="id or text; may be repeated", show_default=False),
]
Seeds = Annotated[
    list[int] | None, typer.Option("--seed", metavar="N", help="may be repeated", show_default=False)
]
Modes = Annotated[
    list[str] | None, typer.Option("--mode", metavar="MODE", help="may be repeated", show_default=False)
]
At = Annotated[
    list[str] | None,
    typer.Option(metavar="AXIS=VALUE", help="the value of a swept axis; may be repeated", show_default=False),
]
Said = "where the files do not say"
Prompt = Annotated[
    str | None, typer.Option(metavar="TEXT", help=f"the prompt's text, {Said}", show_default=False)
]
Category = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"the prompts' category, {Said}", show_default=False)
]
Seed = Annotated[int | None, typer.Option(metavar="N", help=f"the seed, {Said}", show_default=False)]
Mode = Annotated[
    str | None,
    typer.Option(metavar="MODE", help=f"isolated, causal, visible or single, {Said}", show_default=False),
]
Model = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"the model's name, {Said}", show_default=False)
]
Keys = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        help="columns of attention: every token of the sets, or a cache of one token a step (sets, cache)",
    ),
]


def export(
    cube: CubeArg,
    legacy: Legacy = None,
    measures: Measures = None,
    table: Table = "experiments",
    prompt: Prompts = None,
    seed: Seeds = None,
    mode: Modes = None,
    at: At = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Write the original TEMPO's result files, or tables of measures, of all experiments or of some."""
    from ..stats import legacy as out
    from ..stats import tables_out

    if legacy is None and measures is None:
        raise BadInput("say what to write: --legacy DIR, --measures FILE, or both")
    which: dict[str, Any] = {
        "prompts": prompt or (),
        "seeds": seed or (),
        "modes": mode or (),
        "at": _at(at or []),
    }
    if measures is not None:
        chosen = out.selected(cube, **which)
        made = console.with_progress(
            "measuring",
            lambda progress: tables_out.save(chosen, measures, table, overwrite=overwrite, progress=progress),
        )
        console.say(f"wrote {made}")
    if legacy is not None:
        found = console.with_progress(
            "exporting",
            lambda progress: out.export(cube, legacy, overwrite=overwrite, progress=progress, **which),
        )
        _tell_export(found)


def _tell_export(found: "Exported") -> None:
    console.say(
        f"wrote {how_many(len(found.experiments), 'experiment')} and "
        f"{how_many(len(found.pairs), 'pair')} of modes into {found.folder}"
    )
    for (name, reason), n in found.left_out.items():
        console.say(f"  not written in {how_many(n, 'folder')}: {name}: {reason}")


def import_(
    folder: Folder,
    cube: NewCube,
    prompt: Prompt = None,
    category: Category = None,
    seed: Seed = None,
    mode: Mode = None,
    model: Model = None,
    keys: Keys = "sets",
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Read result files of the original TEMPO, or exported ones, into a cube that says what is missing."""
    from ..dataset.imported import Given, bring_in

    given = Given(prompt, category, seed, mode, model)
    found = console.with_progress(
        "importing",
        lambda progress: bring_in(
            folder, cube, given, keys=_keys(keys), overwrite=overwrite, progress=progress
        ),
    )
    _tell_import(found)
    raise typer.Exit(console.SOME_FAILED if found.failed else console.FINE)


def _tell_import(found: "Imported") -> None:
    console.say(f"imported {how_many(found.done, 'experiment')} into {found.url}")
    for line in found.failed:
        console.say(f"  failed: {line}")
    if found.missing:
        console.say("missing, and so the cube says:")
    for what, n, count in found.missing:
        many = f", {count:,} in all" if count else ""
        console.say(f"  {what} (in {how_many(n, 'experiment')}{many})")


def _at(given: list[str]) -> dict[str, Any]:
    wrong = [each for each in given if "=" not in each]
    if wrong:
        raise BadInput(f"--at {wrong[0]}: must be AXIS=VALUE such as threshold=0.05")
    return dict(each.split("=", 1) for each in given)


def _keys(kind: str) -> Literal["sets", "cache"]:
    if kind == "sets":
        return "sets"
    if kind == "cache":
        return "cache"
    raise BadInput(f"--keys {kind}: there are sets and cache")
