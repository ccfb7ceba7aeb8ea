"""What a grid asks of its model and of the cube: tokens, passes, files and bytes, before anything has run."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace

from . import model as models  # first: it prepares the BLAS before MLX is there  # isort: skip

from ..dataset.cell import Cell
from ..dataset.grid import Grid
from ..dataset.schema import BLOCK, ModelFacts, captured, data_variables, sizes
from ..dataset.store import Task
from . import memory
from .wanted import Wanted


@dataclass(frozen=True, slots=True)
class Effort:
    """What costs time in a batch."""

    passes: float
    nodes: float
    cells: float
    files: float = 0.0  # shards and receipts put into a cube
    raw: float = 0.0  # float32 bytes that become these files

    def __add__(self, more: "Effort") -> "Effort":
        return Effort(*(one + other for one, other in zip(astuple(self), astuple(more), strict=True)))


@dataclass(frozen=True, slots=True)
class Asked:
    """A grid and what config and tokenizer of its model say of it; `prompts`: tokens of each."""

    grid: Grid
    facts: ModelFacts
    prompts: dict[str, int]
    wanted: Wanted
    reader: models.Reader = field(repr=False)

    @classmethod
    def of(cls, grid: Grid) -> "Asked":
        """Refuses what the model has not got, and prompts that are too long for it; loads no weights."""
        facts, reader = models.facts(grid.model), models.tokenizer(grid.model)
        prompts = {text: len(reader.prompt_tokens(text, grid.max_sets)) for text in grid.prompt_texts}
        return cls(grid, facts, prompts, Wanted.of(grid.capture, grid.storage, facts), reader)

    def needs(self, tasks: Sequence[Task]) -> int:
        """Bytes that these tasks need together."""
        cells = [task.cell for task in tasks]
        return memory.needed(self.facts, cells, [self.prompts[cell.prompt] for cell in cells], self.wanted)

    def effort(self, cells: Sequence[Cell], width: float | None = None) -> Effort:
        """A batch's effort if sets have so many tokens on average; None: as many as they may."""
        shape = {cell: self._shape(cell, width) for cell in cells}
        trees = {(cell.prompt, cell.ablate): self.prompts[cell.prompt] for cell in cells}
        fed = {history(cell): shape[cell][0] - self.prompts[cell.prompt] for cell in cells}
        passes = math.ceil(max(trees.values()) / BLOCK) + max(sets for _, sets in shape.values())
        stored = [self.stored(*shape[cell]) for cell in cells]
        once = Effort(
            passes,
            sum(trees.values()) + sum(fed.values()),
            len(cells),
            sum(files for files, _ in stored),
            sum(raw for _, raw in stored),
        )
        again = [replace(cell, control=None) for cell in cells if cell.control == "repeat"]
        return sum((replace(self.effort([cell], width), files=0, raw=0) for cell in again), once)

    def stored(self, slots: float, sets: float) -> tuple[float, float]:
        """Files of a cell in the cube, its receipt among them, and what they weigh as float32."""
        lengths: dict[str, float] = {**sizes(self.grid, self.facts, 1)}
        lengths |= {"slot": slots, "query": slots, "key": slots, "step": sets}
        files, raw = 1.0, 0.0
        for variable in data_variables(self.grid):
            own = lengths | {dim: len(part) for dim, part in captured(self.grid, variable).items()}
            raw += 4 * math.prod(own[dim] for dim in variable.dims)
            files += math.ceil((sets if "step" in variable.dims else slots) / BLOCK)
        return files, raw

    def _shape(self, cell: Cell, width: float | None) -> tuple[float, float]:
        """Slots and sets that an experiment comes to."""
        prompt = self.prompts[cell.prompt]
        widest = memory.slots(replace(cell, max_slots=None), 0) / cell.max_tokens
        own = widest if width is None else min(width, widest)
        slots = min(prompt + own * cell.max_tokens, memory.slots(cell, prompt))
        return slots, cell.max_tokens if width is None else (slots - prompt) / own


def history(cell: Cell) -> Cell:
    """What of an experiment cannot be shared: at temperature 0 a seed changes nothing."""
    return cell if cell.temperature else replace(cell, seed=0)
