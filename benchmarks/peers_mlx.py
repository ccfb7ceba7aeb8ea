"""A process of the peer benchmark that has MLX: our engine, and mlx-lm's batches as what no capture costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tempocube.capture import blas, engine, model, selftest  # first: it prepares the BLAS before MLX is there

# isort: split
from mlx_lm.generate import BatchGenerator

from tempocube.capture.rows import Kept
from tempocube.capture.wanted import Wanted
from tempocube.dataset.grid import Grid

Found = dict[str, Any]


class Tool:
    """A loaded model, and every way to the task; texts become tokens here, as in a run."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.model = model.load(str(folder))
        blas.set_threads(threads)
        selftest.check(self.model)
        self.kept: list[Kept] = []

    def one_by_one(self, texts: Sequence[str], tokens: int) -> Found:
        """Our sequential engine: batches of one."""
        return self._captured(texts, tokens, "single", 1)

    def packed(self, texts: Sequence[str], tokens: int) -> Found:
        """Our engine, all prompts in one batch."""
        return self._captured(texts, tokens, "single", len(texts))

    def parallel(self, texts: Sequence[str], sets: int) -> Found:
        """The same with sets of parallel tokens: more tokens for as many passes."""
        return self._captured(texts, sets, "isolated", len(texts))

    def without_capture(self, texts: Sequence[str], tokens: int) -> Found:
        """mlx-lm's batch generator, which keeps neither attention nor readouts."""
        prompts = [self.model.prompt_tokens(text) for text in texts]
        batch = BatchGenerator(self.model.net, stop_tokens=[], completion_batch_size=max(32, len(texts)))
        taken: dict[int, list[int]] = {uid: [] for uid in batch.insert(prompts, [tokens] * len(prompts))}
        while answers := batch.next_generated():
            for each in answers:
                taken[each.uid].append(int(each.token))
        batch.close()
        self.kept = []
        fed = sum(map(len, prompts)) + len(prompts) * (tokens - 1)  # the last one is not fed
        return {"nodes": fed, "tokens": list(taken.values())}

    def attention(self, number: int) -> Any:
        """(layer, head, query, key): weights of a prompt of the last capture; None without."""
        return self.kept[number].data["attention"] if self.kept else None

    def _captured(self, texts: Sequence[str], tokens: int, mode: str, size: int) -> Found:
        stored = {"attention": "float32", "logits": "float32"}
        asked = {"prompts": {"a": list(texts)}, "modes": [mode], "max_tokens": tokens, "storage": stored}
        grid = Grid.from_dict(asked)
        cells, wanted = grid.cells(), Wanted.of(grid.capture, grid.storage, self.model.facts)
        self.kept = [Kept() for _ in cells]
        nodes = 0
        for start in range(0, len(cells), size):
            part = slice(start, start + size)
            nodes += engine.capture(self.model, cells[part], self.kept[part], wanted).nodes
        rows = [(each.small["token"], each.small["slot_step"]) for each in self.kept]
        return {"nodes": nodes, "tokens": [np.asarray(t)[s >= 0].tolist() for t, s in rows]}
