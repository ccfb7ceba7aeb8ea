"""A cube as the result files of the original TEMPO: a folder for each experiment, and for each pair of modes.

>>> made = export("cube.zarr", "results", prompts=["p0"])
>>> made.experiments, made.left_out                 # folders, and what was not captured, by file
"""

import json
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import legacy_names as names
from ..dataset.cube import Index
from ..dataset.reading import open_cube
from ..errors import BadInput
from . import legacy_files as files
from .legacy_files import Array, Captured
from .study import PAIR
from .subjects import Subjects, first_difference
from .survey import Progress
from .tables_out import must_be_outside
from .view import View, label_in

__all__ = ["Exported", "export", "selected"]

PARTLY = f"{names.ATTENTION}, some steps"
LACKING = {
    names.ATTENTION: "no row from which a readout came was captured (capture.attention)",
    PARTLY: "the token that the readout came from, or the most probable one, was not captured "
    "(capture.attention.queries)",
    names.ROWS: "rows of the siblings were not captured (capture.attention.queries)",
    names.LOGITS: "readouts were not captured (capture.logits)",
    names.CACHE: "keys and values were not captured (capture.keys_values)",
    names.SCORES: "no parallel set has captured rows",
    names.DIVERGENCE: "it needs the readouts of isolated and visible",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: folders of experiments and of pairs; left_out: (file, reason) -> how many folders."""

    folder: Path
    experiments: tuple[str, ...]
    pairs: tuple[str, ...]
    left_out: Mapping[tuple[str, str], int]


def selected(
    cube: Any,
    prompts: Sequence[str] = (),
    seeds: Sequence[int] = (),
    modes: Sequence[str] = (),
    at: Mapping[str, Any] | None = None,
) -> Subjects:
    """The done experiments that fit what is said; nothing said: all. Prompts go by id or text."""
    whole = Subjects(cube)
    asked = {"prompt": prompts, "seed": seeds, "mode": modes} | {axis: [v] for axis, v in (at or {}).items()}
    labels = {
        dim: [label_in(whole, dim, value) for value in values] for dim, values in asked.items() if values
    }
    places = {dim: [whole.dims[dim].index(label) for label in of] for dim, of in labels.items()}
    return Subjects(open_cube(whole.cube).isel(places)) if places else whole


def export(
    cube: Any, folder: str | Path, *, overwrite: bool = False, progress: Progress | None = None, **which: Any
) -> Exported:
    """Write the original's files, a folder at a time and each in one step; `which` goes to `selected`."""
    subjects, folder = selected(cube, **which), Path(folder).expanduser()
    singles = {index: _name(subjects, index) for index in subjects.indices}
    pairs = {_name(subjects, one, pair=True): (one, other) for one, other in _pairs(subjects)}
    wanted = [*singles.values(), *pairs]
    must_be_outside(folder, *(folder / name for name in wanted))
    _must_be_free(folder, wanted, overwrite)
    left_out: Counter[tuple[str, str]] = Counter()
    total = len(singles) + len(pairs)
    for n, (index, name) in enumerate(singles.items()):
        left_out.update(_experiment(subjects, index, folder / name))
        if progress:
            progress(n + 1, total)
    for n, (name, (one, other)) in enumerate(pairs.items()):
        left_out.update(_pair(subjects, one, other, folder / name))
        if progress:
            progress(len(singles) + n + 1, total)
    return Exported(folder, tuple(singles.values()), tuple(pairs), dict(left_out))


def _name(subjects: Subjects, index: Index, *, pair: bool = False) -> str:
    """p0_s42_isolated, values of swept axes after it; a pair has no mode."""
    place = subjects.named(index)
    del place["category"]
    parts = [f"{place.pop('prompt')}", f"s{place.pop('seed')}", place.pop("mode")]
    parts = parts[:2] if pair else parts
    parts += [f"{axis}-{value}" for axis, value in place.items()]
    return "_".join(re.sub(r"[^\w.-]+", "-", part).lstrip(".") for part in parts)


def _pairs(subjects: Subjects) -> Iterator[tuple[Index, Index]]:
    """Experiments that differ in mode only, isolated first."""
    for group in subjects.groups().values():
        if set(PAIR) <= set(group):
            yield group[PAIR[0]], group[PAIR[1]]


def _must_be_free(folder: Path, wanted: Sequence[str], overwrite: bool) -> None:
    if twice := [name for name, n in Counter(wanted).items() if n > 1]:
        raise BadInput(f"two experiments would lie in {folder / twice[0]}; choose one of them")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; the experiments need a folder")
    there = [name for name in wanted if (folder / name).exists()]
    if there and not overwrite:
        raise BadInput(f"{folder / there[0]} exists already; --overwrite replaces it, or name another folder")


def _experiment(subjects: Subjects, index: Index, folder: Path) -> dict[tuple[str, str], int]:
    """Write one experiment; what was left out."""
    of = _captured(subjects, index, folder.name)
    contents: dict[str, Any] = {
        names.ATTENTION: files.attention_steps(of),
        names.ROWS: files.sibling_rows(of),
        names.LOGITS: files.logits_steps(of),
        names.CACHE: files.cache_states(of),
        names.SCORES: files.cross_parallel(of),
    }
    contents = {name: content for name, content in contents.items() if _any(content)}
    lacking = [name for name in LACKING if name not in (*contents, names.DIVERGENCE, PARTLY)]
    rows = sum(name.endswith("_attention") for name in contents.get(names.ATTENTION, ()))
    lacking += [PARTLY] * (0 < rows < of.view.steps)
    told = {name: LACKING[name] for name in lacking}
    contents |= {
        names.SETS: files.parallel_sets(of),
        names.POSITIONS: files.rope_positions(of),
        names.METADATA: files.metadata(of),
        names.LOG: files.generation_log(of, told),
        names.ANALYSIS: files.analysis(of),
    }
    _write(folder, contents)
    return dict.fromkeys(told.items(), 1)


def _any(content: Mapping[str, Any]) -> bool:
    return bool(content.get("sets", content))


def _pair(subjects: Subjects, one: Index, other: Index, folder: Path) -> dict[tuple[str, str], int]:
    """Write what two modes say of each other; nothing where there are no readouts."""
    if "logits" not in subjects.cube.data:
        return {(names.DIVERGENCE, LACKING[names.DIVERGENCE]): 1}
    a, b = (_captured(subjects, index, folder.name, attention=False) for index in (one, other))
    first = first_difference(subjects.experiment(one), subjects.experiment(other))
    common = min(a.view.steps, b.view.steps)
    told = files.kl_divergence(a, b, common if first < 0 else min(first + 1, common), first)
    _write(folder, {names.DIVERGENCE: told, names.ANALYSIS: files.analysis_of_pair(told)})
    return {}


def _captured(subjects: Subjects, index: Index, name: str, *, attention: bool = True) -> Captured:
    view = View(subjects, subjects.experiment(index))
    cell = open_cube(subjects.cube)[[*subjects.cube.data]].isel(dict(zip(subjects.dims, index, strict=True)))
    ends = {"slot": slice(view.slots), "step": slice(view.steps)}

    def read(variable: str) -> Array:
        found = cell[variable]
        return np.asarray(found.isel({dim: end for dim, end in ends.items() if dim in found.dims}).values)

    caches = [name for name in ("cached_key", "cached_value") if attention and name in cell]
    return Captured(
        name,
        view,
        view.cube_attention() if attention and view.has_attention else None,
        read("logits") if "logits" in cell else None,
        {name: read(name) for name in caches},
    )


def _write(folder: Path, contents: Mapping[str, Any]) -> None:
    """All files of a folder, which appears when they are complete."""
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.mkdir(parents=True)
        for name, content in contents.items():
            _file(part / name, content)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _file(path: Path, content: Any) -> None:
    if path.suffix == ".npz":
        np.savez_compressed(path, **content)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    else:
        path.write_text(content, "utf-8")
