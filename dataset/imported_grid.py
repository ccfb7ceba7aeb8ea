"""The grid and the model of imported experiments, as far as files know them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import BadInput
from .grid import MODES, Grid
from .gridfile import shown
from .legacy_read import Legacy, Missing
from .schema import ModelFacts, capacity

SHA = "imported-"  # how the hash of an imported cube's model begins: it is none of files
OPTIONS = ("threshold", "temperature", "max_width", "readout", "prune", "ablate", "max_tokens", "max_slots")
ALSO = ("control", "stop_at_eos")


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """One experiment without its arrays, and what it is."""

    legacy: Legacy
    prompt: str
    prompt_id: str | None
    category: str
    seed: int
    mode: str
    missing: tuple[Missing, ...]

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells it from the others."""
        return self.prompt, self.seed, self.mode


@dataclass(frozen=True, slots=True)
class Given:
    """What the files may not say, as the user says it."""

    prompt: str | None = None
    category: str | None = None
    seed: int | None = None
    mode: str | None = None
    model: str | None = None


def facts_of(told: Sequence[Told], given: Given) -> ModelFacts:
    """The model as far as files know it; 0 is unknown."""
    if told[0].legacy.ours:
        models = [ModelFacts.from_dict(each.legacy.log["model"]) for each in told]
        if odd := [each for each, model in zip(told, models, strict=True) if model != models[0]]:
            raise BadInput(f"{odd[0].legacy.folder} is of another model; import it into a cube of its own")
        return replace(models[0], sha256=SHA + models[0].sha256.removeprefix(SHA))
    layers, heads, vocab = (_one(told, i, name) for i, name in enumerate(("layers", "heads", "tokens")))
    ids = [token for each in told for tokens in each.legacy.sets for token in tokens]
    vocab = vocab or max(ids) + 2
    sha = f"{SHA}{layers}-layers-{heads}-heads-{vocab}-tokens"
    return ModelFacts(given.model or "unknown", sha, layers, heads, 0, 0, 0, 0, vocab)


def _one(told: Sequence[Told], of: int, name: str) -> int:
    sizes = {each.legacy.shape[of]: each.legacy.folder.name for each in told if each.legacy.shape[of]}
    if len(sizes) > 1:
        shown = ", ".join(f"{size} in {folder}" for size, folder in sizes.items())
        raise BadInput(
            f"the experiments have different numbers of {name} ({shown}): they are of different models"
        )
    return next(iter(sizes), 0)


def options(told: Sequence[Told]) -> dict[str, Any]:
    """What the grid says of all experiments."""
    kinds = {each.legacy.queries for each in told if each.legacy.shape[0]}
    queries = kinds.pop() if len(kinds) == 1 else "all"
    attention: Any = {"queries": queries} if any(each.legacy.shape[0] for each in told) else False
    capture = {"attention": attention, "logits": any(each.legacy.shape[2] for each in told)}
    if not told[0].legacy.ours:
        widest = max(int(each.legacy.width.max()) for each in told)
        sets = max(each.legacy.width.size for each in told)
        return {"model": "imported", "max_tokens": sets, "max_width": widest, "threshold": 1 / widest} | {
            "capture": capture
        }
    if attention:
        model, part = told[0].legacy.log["model"], {name: _same(told, name) for name in ("layers", "heads")}
        attention |= {name: n if len(n) < model[name] else "all" for name, n in part.items()}
    own = {name: _same(told, name, "parameters") for name in (*OPTIONS, *ALSO)}
    leaders = {each.legacy.log["parameters"].get("replay") for each in told} - {None}
    leader = leaders.pop() if len(leaders) == 1 else None
    if all(leader in {other.mode for other in group} for group in groups(told)):
        own["replay"] = leader
    return own | {"model": "imported", "capture": capture, "storage": _same(told, "storage")}


def _same(told: Sequence[Told], name: str, within: str | None = None) -> Any:
    """The one value that all logs have."""
    logs = [each.legacy.log[within] if within else each.legacy.log for each in told]
    values = {json.dumps(log.get(name), sort_keys=True) for log in logs}
    if len(values) > 1:
        raise BadInput(
            f"{name} differs among the folders ({', '.join(sorted(values))}): export one value at a time "
            f"(--at {name}=VALUE), and import each into a cube of its own"
        )
    return json.loads(values.pop())


def one_at_a_time(one: Told, other: Told) -> str:
    """What to do with two folders that only options tell apart: no such axis comes back."""
    if one.legacy.ours and other.legacy.ours:
        for name in OPTIONS:
            values = [each.legacy.log["parameters"].get(name) for each in (one, other)]
            if values[0] != values[1]:
                return (
                    f"they differ in {name} ({shown(values[0])}, {shown(values[1])}): export one value "
                    f"at a time (--at {name}=VALUE), and import each into a cube of its own"
                )
    return "import them into cubes of their own"


def must_hold(grid: Grid, group: Sequence[Told]) -> None:
    """Refuse folders with more than the options of their own log allow."""
    for each in group:
        folder, prompt = each.legacy.folder, len(each.legacy.prompt)
        if (sets := each.legacy.width.size) > grid.max_sets:
            raise BadInput(f"{folder}: has {sets} sets, its max_tokens allows {grid.max_sets}")
        room = capacity(grid, prompt)
        if (slots := each.legacy.slot_step.size) > room:
            raise BadInput(f"{folder}: has {slots} slots, its options allow {room}")


def groups(told: Sequence[Told]) -> list[list[Told]]:
    """Experiments that one grid asks for: prompts with the same seeds and modes, all combinations."""
    by_prompt: dict[str, list[Told]] = {}
    for each in told:
        by_prompt.setdefault(each.prompt, []).append(each)
    groups: dict[Any, list[Told]] = {}
    for prompt, mine in by_prompt.items():
        pairs = {(each.seed, each.mode) for each in mine}
        seeds, modes = ({each.seed for each in mine}, {each.mode for each in mine})
        whole = len(pairs) == len(seeds) * len(modes)
        for each in mine:
            own = None if whole else (prompt, each.seed, each.mode)
            groups.setdefault((frozenset(pairs) if whole else own), []).append(each)
    return list(groups.values())


def asked(group: Sequence[Told]) -> dict[str, Any]:
    """Prompts, seeds and modes of a group as a grid file has them."""
    prompts = {
        each.prompt: {"prompt": each.prompt, "category": each.category}
        | ({"id": each.prompt_id} if each.prompt_id else {})
        for each in group
    }
    modes = {each.mode for each in group}
    return {
        "prompts": list(prompts.values()),
        "seeds": sorted({each.seed for each in group}),
        "modes": [mode for mode in MODES if mode in modes],
    }
