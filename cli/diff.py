"""`tempo-stats diff`: how two cubes differ, on the console."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from ..words import how_many
from . import console
from .answers import WIDTH
from .columns import columns

if TYPE_CHECKING:
    from ..stats.diff import Alone, Diff, Largest

Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
One = Annotated[str, typer.Argument(metavar="A", help="path or URL of a cube", show_default=False)]
Other = Annotated[str, typer.Argument(metavar="B", help="path or URL of another", show_default=False)]

MOST_LINES = 10


def diff(one: One, other: Other, as_json: Json = False, debug: Debug = False) -> None:
    """The same content? The largest difference, by variable. Exit 1 unless all cells have the same."""
    from ..stats.diff import diff as compare
    from ..stats.questions import plain

    found = console.with_progress("comparing", lambda progress: compare(one, other, progress))
    if as_json:
        console.say_json(plain(asdict(found)) | {"equal": found.equal})
    else:
        console.say("\n".join(_lines(found, one, other)))
    raise typer.Exit(console.FINE if found.equal else console.SOME_FAILED)


def _lines(found: "Diff", one: str, other: str) -> Iterator[str]:
    bits = f"; {found.same_bits} hold equal values to the last bit" if found.same_bits else ""
    yield f"the same content in {found.same} of {how_many(found.common, 'common cell')}{bits}"
    for name, cells in ((one, found.only_one), (other, found.only_other)):
        yield from _alone(name, cells)
    if found.parted:
        yield f"another experiment in {how_many(len(found.parted), 'common cell')}:"
        told = [
            f"{each.cell}: {each.what} differ"
            + ("" if each.first_set is None else f" from set {each.first_set} on")
            for each in found.parted
        ]
        yield from _most(told)
    if found.values:
        names = ", ".join(found.values)
        if "replay" in found.options and all(name.startswith("margin_") for name in found.values):
            names += ": sets that were forced have none"
        yield from _wrapped(
            f"the same sets, but other values in {how_many(found.other_values, 'common cell')} ({names})"
        )
    for option, (here, there) in found.options.items():
        yield from _wrapped(f"{option}: {here} in {one}, {there} in {other}")
    for name, variables in ((one, found.variables_only_one), (other, found.variables_only_other)):
        if variables:
            yield from _wrapped(f"captured in {name} only: {', '.join(variables)}")
    if any(each.cells for each in found.variables):
        yield ""
        yield from _table(found.variables)


def _wrapped(text: str) -> list[str]:
    return wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _alone(name: str, cells: Sequence["Alone"]) -> Iterator[str]:
    if cells:
        yield f"done in {name} only: {how_many(len(cells), 'cell')}"
        yield from _most([f"{each.cell} ({each.there} in the other)" for each in cells])


def _most(lines: list[str]) -> list[str]:
    more = [f"  ... and {len(lines) - MOST_LINES} more; --json lists all"] if len(lines) > MOST_LINES else []
    return [*(f"  {line}" for line in lines[:MOST_LINES]), *more]


def _table(variables: Sequence["Largest"]) -> list[str]:
    head = ("variable", "largest difference", "cells", "beyond", "where it is")
    rows = [head, *map(_row, variables)]
    if max(map(len, columns(rows))) <= WIDTH:
        return columns(rows)
    told = zip(columns([row[:-1] for row in rows]), rows, strict=True)  # the place on a line of its own
    return [line for text, row in told for line in (text, f"    {row[-1]}" if row[-1] else "") if line]


def _row(of: "Largest") -> tuple[str, ...]:
    """Beyond: cells in which the difference is more than packing and storage make."""
    where = ": ".join(filter(None, (of.cell, of.at)))
    if of.not_compared:
        return of.name, "not compared", "", "", of.not_compared
    if of.differing is not None:
        return of.name, how_many(of.differing, "entry").replace("entrys", "entries"), str(of.cells), "", where
    beyond = str(of.beyond) if of.beyond else ""
    return of.name, _size(of.largest, of.unit), str(of.cells), beyond, where


def _size(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if math.isinf(value):
        return "other entries"
    return f"{value:.2g} {unit}".rstrip() if value else "0"
