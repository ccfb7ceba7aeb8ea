"""The explorer of the page: chosen experiments, embedded as far as they fit, with the script that shows them.

>>> html = section(tempocube.open_cube("demo.zarr"), chosen=("p0", "p3"))
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np

from ...dataset.schema import DONE
from ...words import how_many, in_bytes
from ..subjects import Subjects
from ..view import view
from .explorer_data import CODES_PER_NAT, LOWEST, SHOWN, embedded, encoded
from .explorer_plan import NoRoom, Piece, Plan, planned, usual

__all__ = ["LIMIT", "NoRoom", "section"]

LIMIT = 2_500_000  # bytes of HTML
SPARE = 8_000  # for what is not counted beforehand: the words about it, the names of layers and heads
SCRIPTS = ("explorer_data.js", "explorer.js", "explorer_maps.js", "explorer_step.js")


def section(cube: Any, chosen: Sequence[str] = (), limit_bytes: int = LIMIT) -> str:
    """HTML of the explorer of these prompts (ids or texts), at most so long; empty if no experiment is done.

    Style, script and data are inside. Left to itself it takes the first prompt with a parallel set of each
    category. What did not fit is said in its first lines.
    """
    if not np.any(cube["status"].values == DONE):
        return ""
    subjects = Subjects(cube)
    asked = [str(view(subjects, prompt=each).place["prompt"]) for each in chosen] or usual(subjects)
    asked = list(dict.fromkeys(asked))
    plan = planned(subjects, asked, limit_bytes, _fixed() + SPARE)
    return _html(embedded(_data(plan)), " ".join(_about(plan, subjects, asked)), bool(plan.maps))


def _data(plan: Plan) -> dict[str, Any]:
    return {
        "codes_per_nat": CODES_PER_NAT,
        "prompt_rows": plan.prompt_rows,
        "maps": plan.maps,
        "prompts": {piece.prompt: piece.seen.prompt_text[:100] for piece in plan.pieces},
        "labels": {token: text for piece in plan.pieces for token, text in piece.labels.items()},
        "experiments": [piece.record | {"attention": _attention(plan, piece)} for piece in plan.pieces],
    }


def _attention(plan: Plan, piece: Piece) -> str:
    return encoded(piece.anew(), plan.maps, piece.first_row(plan.prompt_rows)) if plan.maps else ""


def _about(plan: Plan, subjects: Subjects, asked: Sequence[str]) -> Iterator[str]:
    """What is here, how exact it is, and what was left out."""
    prompts = f"{how_many(len(plan.prompts), 'prompt')} ({', '.join(plan.prompts)})"
    yield f"Here are {how_many(len(plan.pieces), 'experiment')} of {prompts}."
    if plan.maps:
        most = math.ceil(1000 * SHOWN) / 10
        yield (
            f"Weights above {LOWEST:.1e}, and sums of them, are within {most:.1f}\u00a0% of those captured; "
            "weights of hidden tokens are exactly 0."
        )
    else:
        why = "did not fit" if plan.first.has_attention else "was not captured"
        yield f"Attention {why}, so there are the sets alone."
    if _noisy(subjects):
        yield "Noise took part in choosing (the threshold holds for probabilities with it); p is without it."
    left = [
        *_experiments_left(plan, subjects, asked),
        *(_maps_left(plan) if plan.first.has_attention else ()),
    ]
    if left:
        yield f"Left out to keep this under {in_bytes(plan.limit)}: {', '.join(left)}."
        if len(plan.prompts) > 1:
            yield "Fewer prompts would show more of each."


def _noisy(subjects: Subjects) -> bool:
    """Whether noise took part in choosing tokens; of what was imported that is not known."""
    if subjects.cube.attrs.get("imported"):
        return False
    of, told = "temperature", subjects.dims
    grids = subjects.cube.attrs["grid"]
    chosen = [told[of][i] for i in subjects.part[of]] if of in told else [grid[of] for grid in grids]
    return any(float(value) > 0 for value in chosen)


def _experiments_left(plan: Plan, subjects: Subjects, asked: Sequence[str]) -> Iterator[str]:
    if lost := [prompt for prompt in asked if prompt not in plan.prompts]:
        yield f"prompt{'s' * (len(lost) > 1)} {', '.join(lost)}"
    names = subjects.dims["prompt"]
    done = sum(str(names[index[0]]) in plan.prompts for index in subjects.indices)
    if more := done - len(plan.pieces):
        yield f"{how_many(more, 'experiment')} of other seeds or swept values"


def _maps_left(plan: Plan) -> Iterator[str]:
    seen, maps = plan.first, set(plan.maps)
    by_layer = sum((layer, None) not in maps for layer in seen.layers)
    by_head = sum((layer, head) not in maps for layer in seen.layers for head in seen.heads)
    every = len(seen.layers) * len(seen.heads)
    if by_layer:
        yield f"{by_layer} of {how_many(len(seen.layers), 'layer')}"
    if by_head:
        kept = (
            ""
            if by_head == every
            else f" (the {every - by_head} in which siblings give each other most are here)"
        )
        yield f"{by_head:,} of {how_many(every, 'head')}{kept}"
    if maps and not plan.prompt_rows and seen.cube.attrs["captured_queries"] == "all":
        yield "what prompt tokens attend to"


def _html(data: str, about: str, attention: bool = True) -> str:
    """The template with style and script, which are ours, and data, which `embedded` has made harmless."""
    template = jinja2.Environment(autoescape=True).from_string(_read("explorer.html.j2"))
    script = "\n".join(_read(name) for name in SCRIPTS)
    return template.render(
        style=_read("explorer.css"), script=script, data=data, about=about, attention=attention
    )


@cache
def _fixed() -> int:
    return len(_html("", "").encode())


@cache
def _read(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")
