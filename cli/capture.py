"""`tempo-capture`: a grid of experiments into one cube."""

import json
from typing import Annotated, Any, NoReturn

import typer

from ..dataset import presets
from ..dataset.grid import Grid, json_schema
from ..errors import BadInput
from . import console

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

GridFile = Annotated[
    str | None,
    typer.Argument(metavar="GRID", help="a grid file, or the name of a preset", show_default=False),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="check the grid and print what it asks for; create nothing")
]
Presets = Annotated[bool, typer.Option("--presets", help="list the grids that come with tempocube")]
Schema = Annotated[
    bool, typer.Option("--print-schema", help="print the JSON schema of grid files, for editors")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]


@app.command()
def capture(
    grid: GridFile = None,
    dry_run: DryRun = False,
    list_presets: Presets = False,
    print_schema: Schema = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a grid of TEMPO experiments (running it over workers comes with the next version)."""
    if print_schema:
        console.out.file.write(json.dumps(json_schema(), indent=1) + "\n")
    elif list_presets:
        _list_presets(as_json)
    elif grid is None:
        raise BadInput(f"give a grid file or a preset ({', '.join(presets.names())})")
    elif dry_run:
        _plan(Grid.load(grid), as_json)
    else:
        Grid.load(grid)
        raise BadInput(
            f"{grid} is in order, but this version cannot run it from here yet; docs/engine.md says how to "
            "from Python, --dry-run shows what it asks for"
        )


def _list_presets(as_json: bool) -> None:
    told = {name: presets.describe(name) for name in presets.names()}
    if as_json:
        console.say_json(told)
    else:
        width = max(map(len, told))
        console.say("\n".join(f"{name:{width}}  {text}" for name, text in told.items()))


def _plan(grid: Grid, as_json: bool) -> None:
    """What the grid asks for, as far as the file itself says."""
    categories: dict[str, int] = {}
    for prompt in grid.prompts:
        categories[prompt.category] = categories.get(prompt.category, 0) + 1
    axes = {name: list(grid.axis_labels(name)) for name in grid.axes}
    plan: dict[str, Any] = {
        "grid": grid.name,
        "model": grid.model,
        "cells": len(grid.cells()),
        "prompts": categories,
        "seeds": list(grid.seeds),
        "modes": list(grid.modes),
        "axes": axes,
        "sets": grid.max_sets,
        "slots_after_the_prompt": grid.generated_slots,
        "max_slots": grid.max_slots,
    }
    if as_json:
        console.say_json(plan)
        return
    prompts = ", ".join(f"{name} {count}" for name, count in categories.items())
    factors = {"prompt": len(grid.prompts), "seed": len(grid.seeds), "mode": len(grid.modes)}
    factors |= {f"{name} value": len(values) for name, values in axes.items()}
    lines = {
        "grid": grid.name,
        "model": grid.model,
        "cells": f"{plan['cells']} = {' x '.join(_count(n, name) for name, n in factors.items())}",
        "prompts": f"{_count(len(grid.prompts), 'prompt')} ({prompts})",
        "seeds": ", ".join(map(str, grid.seeds)),
        "modes": ", ".join(grid.modes),
        **{name: ", ".join(map(str, values)) for name, values in axes.items()},
        **{name: str(grid.value(name)) for name in ("threshold", "temperature") if name not in axes},
        "slots": f"at most {grid.generated_slots} after the prompt, in {_count(grid.max_sets, 'set')}"
        + (f", {grid.max_slots} with the prompt" if grid.max_slots else ""),
    }
    console.say("\n".join(f"{name:12} {text}" for name, text in lines.items()))


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)


def main() -> NoReturn:
    """Entry point."""
    console.run(app, "tempo-capture")
