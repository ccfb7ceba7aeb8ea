"""Arms of the peer benchmark: tools in processes of their own, and whether all found the same."""

import importlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from common import Clock, forget_peak, peak

TORCH, NNSIGHT, LENS, MLX = "peers_torch", "peers_nnsight", "peers_lens", "peers_mlx"
CLOSE = 1e-4  # weights of two tools agree to this

Row = dict[str, Any]
Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Arm:
    """A way of a tool, on so many processes of so many threads; needs: packages without which it is skipped.

    task: arms of one task must take the same tokens.
    """

    name: str
    tool: str
    way: str
    processes: int
    threads: int
    needs: tuple[str, ...] = ()
    captures: bool = True
    task: str = "greedy"

    @property
    def key(self) -> Key:
        """Arms that share processes."""
        return self.tool, self.processes, self.threads

    @property
    def missing(self) -> str:
        """Why it is skipped, or nothing."""
        gone = [name for name in self.needs if find_spec(name) is None]
        return f"{' and '.join(gone)} not installed: pip install {' '.join(gone)}" if gone else ""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What every arm is given: a model's folder, prompts as texts and as tokens, and how many to take."""

    name: str
    folder: Path
    texts: Sequence[str]
    tokens: Sequence[list[int]]
    sets: int

    def prompts(self, tool: str, part: slice) -> Sequence[Any]:
        """Texts for our engine, which makes tokens of them in every run; tokens for others."""
        return self.texts[part] if tool == MLX else self.tokens[part]


TORCH, NNSIGHT, LENS, MLX = "peers_torch", "peers_nnsight", "peers_lens", "peers_mlx"
HUGGING = ("torch", "transformers")


def arms(cores: int) -> list[Arm]:
    """All, each with all cores: in one process, or a process a core."""
    one = [
        Arm("transformers, one by one", TORCH, "one_by_one", 1, cores, HUGGING),
        Arm("transformers, batched", TORCH, "batched", 1, cores, HUGGING),
        Arm("nnsight, batched", NNSIGHT, "batched", 1, cores, (*HUGGING, "nnsight")),
        Arm("TransformerLens, one by one", LENS, "one_by_one", 1, cores, (*HUGGING, "transformer_lens")),
        Arm("mlx-lm, no capture", MLX, "without_capture", 1, cores, captures=False),
        Arm("tempocube, one by one", MLX, "one_by_one", 1, cores),
        Arm("tempocube, packed", MLX, "packed", 1, cores),
        Arm("tempocube, parallel tokens", MLX, "parallel", 1, cores, task="parallel"),
    ]
    spread_out = [arm for arm in one if arm.way != "one_by_one" and arm.tool != NNSIGHT]
    several = [
        replace(arm, name=f"{arm.name}, {cores} processes", processes=cores, threads=1) for arm in spread_out
    ]
    return [*one, *(several if cores > 1 else [])]


# --- in the processes

_tool: Any = None


def start(module: str, folder: Path, threads: int) -> None:
    """Load the model, once a process."""
    global _tool
    _tool = importlib.import_module(module).Tool(folder, threads)


def work(way: str, prompts: Sequence[Any], sets: int) -> Row:
    """What a way found, and the most memory that this process held meanwhile."""
    forget_peak()
    found: Row = getattr(_tool, way)(prompts, sets)
    return found | {"peak": peak()}


def attention(number: int) -> Any:
    """Weights of one prompt of what was found last."""
    return _tool.attention(number)


# --- around them


class Tools:
    """The processes of some arms, all with their models loaded."""

    def __init__(self, pools: dict[Key, list[ProcessPoolExecutor]], task: Task) -> None:
        self._pools, self._task = pools, task

    def take(self, arm: Arm) -> Row:
        """The task once: seconds, tokens fed, the tokens taken of every prompt, memory of all processes."""
        pools, task = self._pools[arm.key], self._task
        parts = [slice(i, None, len(pools)) for i in range(len(pools))]
        with Clock() as clock:
            asked = [
                pool.submit(work, arm.way, task.prompts(arm.tool, part), task.sets)
                for pool, part in zip(pools, parts, strict=True)
            ]
            found = [each.result() for each in asked]
        taken: list[Any] = [None] * len(task.texts)
        for part, each in zip(parts, found, strict=True):
            taken[part] = each["tokens"]
        counted = {name: sum(each[name] for each in found) for name in ("nodes", "peak")}
        return {"wall_s": clock.wall, "experiments": len(taken), "tokens": taken} | counted

    def weights(self, arm: Arm, number: int) -> Any:
        """What an arm that ran last in its processes found of one prompt."""
        pools = self._pools[arm.key]
        return pools[number % len(pools)].submit(attention, number // len(pools)).result()


@contextmanager
def started(arms: Sequence[Arm], task: Task) -> Iterator[Tools]:
    """Processes for all arms; those of the same tool and shape are shared."""
    pools: dict[Key, list[ProcessPoolExecutor]] = {}
    with ExitStack() as stack:
        for arm in arms:
            if arm.key not in pools:
                pools[arm.key] = [
                    stack.enter_context(_process(arm, task.folder)) for _ in range(arm.processes)
                ]
        yield Tools(pools, task)


def _process(arm: Arm, folder: Path) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        1, get_context("spawn"), initializer=start, initargs=(arm.tool, folder, arm.threads)
    )


def rounds(arms: Sequence[Arm], task: Task, repeats: int) -> list[Row]:
    """Every arm in turn; a round before the first loads models and compares weights, and does not count."""
    samples, first = list[Row](), dict[str, tuple[Arm, Row]]()
    with started(arms, task) as tools:
        kept: dict[int, Any] = {}
        for arm in arms:
            row = tools.take(arm)
            lead, other = first.setdefault(arm.task, (arm, row))
            must_take_the_same(lead, other, arm, row, task)
            if arm.captures and arm.task == "greedy":
                must_weigh_the_same(tools, arm, task, kept)
        for repeat in range(repeats):
            turn = repeat % len(arms)
            for arm in (*arms[turn:], *arms[:turn]):
                row = tools.take(arm)
                must_take_the_same(*first[arm.task], arm, row, task)
                del row["tokens"]
                samples.append({"kind": "sample", "arm": arm.name, "repeat": repeat} | row)
    return samples


def must_take_the_same(lead: Arm, first: Row, arm: Arm, row: Row, task: Task) -> None:
    """All arms of a task take the same tokens, or no ratio is shown."""
    for text, one, other in zip(task.texts, first["tokens"], row["tokens"], strict=True):
        if not one or one != other:
            step = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
            step = min(len(one), len(other)) if step is None else step
            raise RuntimeError(
                f"{arm.name}: {text!r}: token {step} is not what {lead.name} took; no ratio is shown"
            )


def must_weigh_the_same(tools: Tools, arm: Arm, task: Task, kept: dict[int, Any]) -> None:
    """Attention of what an arm has just found against that of the first arm, over the slots of both."""
    for number, text in enumerate(task.texts):
        mine = tools.weights(arm, number)
        off = apart(kept.setdefault(number, mine), mine)
        if not off <= CLOSE:
            raise RuntimeError(f"{arm.name}: {text!r}: weights off by {off:.1e}; no ratio is shown")


def apart(one: Any, other: Any) -> float:
    """The largest difference of weights; infinite where only one has any, or nothing is there to compare."""
    slots = min(one.shape[-1], other.shape[-1])
    a, b = one[:, :, :slots, :slots], other[:, :, :slots, :slots]
    if a.shape != b.shape or not a.size or not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    return float(np.nanmax(np.abs(a - b)))
