"""Sinks: rows leave as they are finished, nothing stays behind, and a cube gets what memory gets."""

import gc
import tracemalloc
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from scipy import stats

from runs import EVERYTHING, Results, grid, run, tiny, weights
from tempocube.capture.engine import capture
from tempocube.capture.model import Model
from tempocube.capture.rows import Kept
from tempocube.capture.wanted import Wanted
from tempocube.dataset.grid import Grid
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import DONE, INTERNALS
from tempocube.dataset.store import Driver
from tempocube.dataset.verify import verify

import mlx.core as mx  # isort: skip  (after the BLAS)

LONG = "".join(str(i * i % 10) for i in range(99))  # 100 tokens: more than one block


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny(tmp_path_factory.mktemp("models"))


class Told(Kept):
    """A sink that writes down, in a list shared by all, what it was given."""

    def __init__(self, name: str, log: list[tuple[str, str, int]]) -> None:
        super().__init__()
        self.name, self.log = name, log

    def write(self, name: str, block: Any, start: int) -> None:
        super().write(name, block, start)
        self.log.append((self.name, name, start))

    def finish(self, small: Mapping[str, Any], *, applied_mode: str | None = None) -> None:
        super().finish(small, applied_mode=applied_mode)
        self.log.append((self.name, "end", 0))


def test_rows_leave_as_soon_as_their_block_is_full(model: Model) -> None:
    asked = grid(
        prompts={"a": ["lal", LONG]},
        modes=["visible"],
        max_tokens=[1, 30],
        capture=EVERYTHING,
        threshold=0.05,
    )
    log: list[tuple[str, str, int]] = []
    names = [f"{'long' if cell.prompt == LONG else 'short'} {cell.max_tokens}" for cell in asked.cells()]
    sinks = [Told(name, log) for name in names]
    capture(model, asked.cells(), sinks, Wanted.of(asked.capture, asked.storage, model.facts))
    rows = ("attention", "residual", "after_attention", "cached_key", "cached_value")
    for name in rows:
        of_prompt = log.index(("long 30", name, 0))
        generated = log.index(("long 30", name, 64))
        assert of_prompt < log.index(("short 1", "end", 0)) < generated < log.index(("long 30", name, 128))
    assert log[-1][1] == "end"
    for sink in sinks:
        for name in rows:
            starts = [start for who, what, start in log if (who, what) == (sink.name, name)]
            assert starts == list(range(0, sink.small["token"].size, 64))


# --- memory


def everything() -> Grid:
    """A grid that needs every way to look into a model and to change it."""
    capture = EVERYTHING | {"internals": [0, 1]}
    ablate = [[], ["L0H1", "L1.mlp"]]
    return grid(prompts={"a": [LONG, "lal"]}, capture=capture, ablate=ablate, prune={"threshold": 0.02})


def test_nothing_of_a_finished_run_is_kept_alive(model: Model) -> None:
    asked = everything()
    sinks = [Kept() for _ in asked.cells()]
    capture(model, asked.cells(), sinks, Wanted.of(asked.capture, asked.storage, model.facts))
    there = [weakref.ref(kept) for kept in sinks]
    sinks.clear()
    gc.collect()
    assert [ref() for ref in there] == [None] * len(there)


def test_the_pools_are_free_when_a_run_ends(model: Model) -> None:
    """At once, and not when Python next looks for cycles: those of a large model are gigabytes."""
    run(model, everything())
    gc.collect()
    before = mx.get_active_memory()
    gc.disable()
    try:
        run(model, everything())
        assert mx.get_active_memory() - before < 10_000
    finally:
        gc.enable()


def test_readouts_are_let_go_once_their_set_is_taken(tmp_path: Path) -> None:
    wide = tiny(tmp_path, "llama", vocab_size=20_000)
    peaks = []
    for steps in (5, 5, 60):  # the first one warms up
        options: dict[str, Any] = {"modes": ["single"], "capture": {"attention": False, "logits": False}}
        asked = grid(prompts={"a": ["lal"]}, max_tokens=steps, **options)
        tracemalloc.start()
        run(wide, asked)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 5 * 20_000 * 8  # of 55 more steps


@pytest.mark.slow
def test_memory_stays_flat_over_200_experiments(model: Model) -> None:
    """With 95 % confidence each leaves behind less than a fiftieth of what it holds."""
    prompts = {"a": [LONG + LONG[:30]]}
    asked = grid(prompts=prompts, capture=EVERYTHING | {"internals": [0, 1, 2]}, temperature=0.7)
    process, used, held = psutil.Process(), [], []
    for seed in range(300):
        (kept,) = run(model, asked, [replace(asked.cells()[1], seed=seed)]).values()
        held.append(sum(values.nbytes for values in kept.data.values()))
        used.append(process.memory_info().rss)
    blocks = np.reshape(used[100:], (10, 20)).mean(1)  # by then allocators and caches are full
    slopes = np.diff(blocks) / 20
    upper = slopes.mean() + stats.t.ppf(0.975, len(slopes) - 1) * stats.sem(slopes)
    assert np.mean(held) > 2e6
    assert upper < np.mean(held) / 50, f"{slopes.mean():.0f} bytes an experiment, at most {upper:.0f}"


# --- into a cube


@pytest.fixture(scope="module")
def asked() -> Grid:
    return grid(
        modes=["isolated", "causal", "visible", "single"],
        prompts={"a": ["lal", "the cat sat on the mat"], "b": [LONG]},
        prune=[None, {"threshold": 0.03}],
        capture=EVERYTHING | {"internals": [1]},
    )


def filled(where: Path, model: Model, asked: Grid, size: int) -> Any:
    """A cube of a grid, in batches of so many cells."""
    longest = max(len(model.prompt_tokens(text)) for text in asked.prompt_texts)
    wanted = Wanted.of(asked.capture, asked.storage, model.facts)
    with Driver(where, asked, model.facts, longest) as driver:
        tasks = driver.todo()
        for start in range(0, len(tasks), size):
            batch = tasks[start : start + size]
            capture(
                model, [task.cell for task in batch], [task.writer() for task in batch], wanted, worker="w"
            )
    verdict = verify(where)
    assert verdict.ok, [*map(str, verdict.problems)]
    return open_cube(where)


def differences(cube: Any, results: Results) -> dict[str, float]:
    """Largest difference by variable between a cube and what was kept in memory."""
    found: dict[str, float] = {}
    cells = np.ndindex(*(cube.sizes[dim] for dim in cube["status"].dims))
    for at, kept in zip(cells, results.values(), strict=True):
        mine = cube.isel(dict(zip(cube["status"].dims, at, strict=True)))
        for name, values in {**kept.data, **{n: kept.small[n] for n in SMALL}}.items():
            stored = (mine[name][[1]] if name in INTERNALS else mine[name]).to_numpy()
            stored = stored[tuple(slice(n) for n in np.shape(values))]
            theirs = np.asarray(values, np.float64)
            assert (np.isnan(stored) == np.isnan(theirs)).all()
            off = float(np.nanmax(np.abs(stored - theirs), initial=0.0))
            found[name] = max(found.get(name, 0.0), off)
        assert str(mine["text"].item()) == kept.small["text"]
        assert mine["length"].item() == kept.small["token"].size
    return found


SMALL = ("token", "logical", "slot_step", "pruned_at", "width", "capped", "probability", "prune_score")


def test_a_cube_holds_what_memory_holds(model: Model, asked: Grid, tmp_path: Path) -> None:
    cube = filled(tmp_path / "cube.zarr", model, asked, 100)
    assert (cube["status"] == DONE).all()
    assert set(cube["worker"].to_numpy().ravel()) == {"w"}
    found = differences(cube, run(model, asked))
    assert len(found) == 13 + len(SMALL)
    assert all(off == 0 for name, off in found.items() if name not in ("probability", "prune_score"))
    assert found["probability"] < 1e-7
    assert found["prune_score"] < 1e-7


def test_log16_keeps_weights_to_half_a_percent(model: Model, tmp_path: Path) -> None:
    packed = grid(storage={"attention": "log16", "logits": "log16"})
    cube = filled(tmp_path / "cube.zarr", model, packed, 100)
    cells = np.ndindex(*(cube.sizes[dim] for dim in cube["status"].dims))
    for at, kept in zip(cells, run(model, packed).values(), strict=True):
        mine, expected = cube.isel(dict(zip(cube["status"].dims, at, strict=True))), weights(kept)
        slots = slice(expected.shape[-1])
        stored = np.nan_to_num(mine["attention"].to_numpy()[:, :, slots, slots])
        assert ((stored == 0) == (expected == 0)).all()
        np.testing.assert_allclose(stored, expected, rtol=5e-3)
        np.testing.assert_allclose(mine["logits"].to_numpy(), kept.data["logits"], atol=1 / 4096 + 1e-5)


def test_batches_of_any_size_make_the_same_experiments(model: Model, asked: Grid, tmp_path: Path) -> None:
    cubes = [filled(tmp_path / f"{size}.zarr", model, asked, size) for size in (1, 5, 100)]
    paths = [cube["path_digest"].to_numpy().ravel().tolist() for cube in cubes]
    assert all(paths[0])
    assert paths[0] == paths[1] == paths[2]
