"""Result files of the original TEMPO, or of `tempo-stats export`, as a cube that says what it lacks.

>>> made = bring_in("experiments/results", "old.zarr", category="narrative")
>>> made.missing                                    # what no file held: (what, experiments, how many)
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput
from . import legacy_names as names
from .grid import MODES, Grid
from .imported_cell import write
from .imported_grid import Given, Told, asked, facts_of, groups, must_hold, one_at_a_time, options
from .legacy_read import Keys, Legacy, Missing, read
from .place import Place
from .schema import DONE, ROOT
from .store import Driver
from .template import document
from .writing import Receipt

__all__ = ["IMPORTED", "Given", "Imported", "bring_in"]

IMPORTED = "imported"  # attribute of a cube that no model of ours was captured into
CELLS = (names.ATTENTION, names.LOGITS, names.LOG)  # each of them makes a folder an experiment's
UNSEEN = "treatment checks: isolation, sight, cache, positions, distinct keys cannot be looked at"


@dataclass(frozen=True, slots=True)
class Imported:
    """What was imported: experiments done and failed, and what is missing in how many of them."""

    url: str
    done: int
    failed: tuple[str, ...]
    missing: tuple[tuple[str, int, int], ...]


def bring_in(
    folder: str | Path,
    where: Any,
    given: Given | None = None,
    *,
    keys: Keys = "sets",
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Write a cube of every experiment under a folder; `given` fills what the files do not say."""
    folder, place, given = Path(folder).expanduser(), Place.at(where), given or Given()
    if place.exists() and not overwrite:
        raise BadInput(f"{place} exists already; --overwrite replaces it, or name another cube")
    told = [_told(read(each, keys).light(), folder, given) for each in _folders(folder)]
    _must_differ(told)
    missing = _summed(told)
    about = {
        "from": folder.name,
        "files": {each.legacy.folder.name: list(each.legacy.files) for each in told},
        "missing": [{"what": what, "experiments": n, "count": count} for what, n, count in missing],
    }
    facts, common, receipts = facts_of(told, given), options(told), list[tuple[Told, Receipt]]()
    longest = max(len(each.legacy.prompt) for each in told)
    for number, group in enumerate(groups(told)):
        grid = Grid.from_dict(common | asked(group), source=str(folder))
        must_hold(grid, group)
        again = overwrite and not number  # the others extend what the first has made
        with Driver(
            where, grid, facts, longest, vocabulary=lambda: _vocabulary(told), overwrite=again
        ) as run:
            _mark(run, about)
            for each, receipt in _written(run, group, keys):
                receipts.append((each, receipt))
                progress(len(receipts), len(told))
    failed = [
        f"{each.legacy.folder.name}: {receipt.values['error']}"
        for each, receipt in receipts
        if receipt.values["status"] != DONE
    ]
    return Imported(place.url, len(receipts) - len(failed), tuple(failed), missing)


def _written(run: Driver, group: Sequence[Told], keys: Keys) -> Iterator[tuple[Told, Receipt]]:
    """Write the experiments of one grid, one after the other, each read again with its arrays."""
    by_key = {each.key: each for each in group}
    for task in run.todo():
        each = by_key[task.cell.prompt, task.cell.seed, task.cell.mode]
        yield each, write(task, read(each.legacy.folder, keys))


def _mark(run: Driver, about: Mapping[str, Any]) -> None:
    """Say in the root what the cube is, before any cell of it counts."""
    root = json.loads(run.place.get(ROOT) or b"{}")
    root["attributes"][IMPORTED] = about
    run.lease.check()
    run.place.put(ROOT, document(root))


def _folders(folder: Path) -> list[Path]:
    """Every folder of an experiment, this one or below; what an export left half-written is none."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    found = {path.parent for name in CELLS for path in folder.rglob(name)}
    found = {
        path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    if not found:
        raise BadInput(f"{folder}: no {', '.join(CELLS[:-1])} or {CELLS[-1]} in it or below")
    return sorted(found)


def _told(legacy: Legacy, folder: Path, given: Given) -> Told:
    """What an experiment is, by its log; else by what is given, its metadata and its name."""
    log, config = legacy.log, legacy.config
    missing = [*legacy.missing, Missing(UNSEEN)]
    missing += [Missing(f"keys and values: {names.CACHE} is not read")] * (names.CACHE in legacy.files)
    if legacy.ours:
        known = log["prompt"], log["prompt_id"], log["category"], log["seed"], log["mode"]
        return Told(legacy, *known, tuple(missing))
    missing += [
        Missing("positions: written by the recorder, not read from the model; the cube's are those declared"),
        Missing("modes: as declared; no mask was recorded, and the original's visible is this cube's causal"),
        Missing("selection: threshold, temperature and margins unknown; the grid's are placeholders"),
    ]
    prompt = given.prompt or str(log.get("prompt") or config.get("prompt") or "")
    seed = config.get("seed") if given.seed is None else given.seed
    seed = _seed(legacy.folder.name) if seed is None else seed
    missing += [Missing("prompts: texts unknown, named by their folders")] * (not prompt)
    missing += [Missing("seeds: unknown, called 0")] * (seed is None)
    prompt = prompt or f"imported: {_without_mode(legacy.folder, folder)}"
    return Told(
        *(legacy, prompt, None, given.category or "imported"),
        *(int(seed or 0), _mode(legacy, given), tuple(missing)),
    )


def _mode(legacy: Legacy, given: Given) -> str:
    """As given, as the metadata say, or as a word of the folder's name."""
    isolate = legacy.config.get("isolate")
    words = [word for word in re.split(r"[^a-z]+", legacy.folder.name.lower()) if word in MODES]
    known = legacy.config.get("mode") in MODES and legacy.config["mode"]
    said = "" if isolate is None else "isolated" if isolate else "visible"
    mode = given.mode or known or said or (words[-1] if words else "")
    if mode not in MODES:
        raise BadInput(f"{legacy.folder}: nothing says its mode; give --mode ({', '.join(MODES)})")
    return str(mode)


def _seed(name: str) -> int | None:
    found = re.search(r"(?:^|[_-])s(?:eed)?[_-]?(\d+)(?:[_-]|$)", name)
    return int(found[1]) if found else None


def _without_mode(folder: Path, root: Path) -> str:
    """exp1 of exp1_isolated: what two modes of one prompt have in common."""
    name = (folder if folder == root else folder.relative_to(root)).name
    words = [word for word in re.split(r"[_-]+", name) if word.lower() not in MODES]
    return "_".join(word for word in words if not re.fullmatch(r"s(eed)?\d+", word)) or name


def _must_differ(told: Sequence[Told]) -> None:
    seen: dict[tuple[str, int, str], Told] = {}
    for each in told:
        other = seen.setdefault(each.key, each)
        if other is not each:
            raise BadInput(
                f"{other.legacy.folder} and {each.legacy.folder} both hold prompt {each.prompt!r}, seed "
                f"{each.seed}, mode {each.mode}; {one_at_a_time(other, each)}"
            )
    if len({each.legacy.ours for each in told}) > 1:
        raise BadInput(
            "some folders were written by tempocube, others not; import them into cubes of their own"
        )


def _vocabulary(told: Sequence[Told]) -> list[str]:
    """The text of every token, as far as logs tell it; `#id` for the others, nothing if none is told."""
    texts: dict[int, str] = {}
    for each in told if told[0].legacy.ours else ():
        texts.update(_texts(each.legacy.log))
    if all(text == f"#{token}" for token, text in texts.items()):
        return []
    size = told[0].legacy.log["model"]["vocab"]
    return [texts.get(token, f"#{token}") for token in range(size)]


def _texts(log: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    yield from zip(log["prompt_tokens"], log["prompt_texts"], strict=False)
    for step in log["steps"]:
        for ids, texts in (("tokens", "texts"), ("best_tokens", "best_texts")):
            yield from zip(step[ids], step[texts], strict=False)


def _summed(told: Iterable[Told]) -> tuple[tuple[str, int, int], ...]:
    """What is missing: in how many experiments, and how many things in all."""
    experiments: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for each in told:
        for what in dict.fromkeys(missing.what for missing in each.missing):
            experiments[what] += 1
        for missing in each.missing:
            counts[missing.what] += missing.many
    return tuple((what, n, counts[what]) for what, n in experiments.items())
