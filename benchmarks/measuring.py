"""Measurements of the storage benchmark: write from many processes, read back, compare, count."""

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import planted
import xarray as xr
from common import MB, Clock, Counted, forget_peak, peak
from formats import FORMATS, Array, Job, Npz, Ours
from planted import PROFILES, Profile

from tempocube.dataset import encoding
from tempocube.dataset.reading import open_cube

LADDER = np.linspace(0, -80, 100_001, dtype=np.float32).reshape(1, 1, 1, -1)  # log weights from 1 to e^-80
CELLS_TIMED = 5  # single cells read for the latency of one
DECODINGS = 5  # rounds in which our table and xarray decode the same cell
FOLD_SECONDS = 0.5

Sample = dict[str, float]


def raw(profile: Profile, cell: int) -> int:
    """Bytes of a cell's maps as raw float32."""
    return profile.layers * profile.heads * planted.slots(profile, cell) ** 2 * 4


def stored(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextmanager
def writers(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of their own, started afresh and all there before anything is timed."""
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, _warm, (context.Barrier(workers),)) as pool:
        for started in [pool.submit(os.getpid) for _ in range(workers)]:
            started.result()
        yield pool


def _warm(all_there: Any) -> None:
    """In a worker: load what is loaded on first use, and wait for the others."""
    with TemporaryDirectory() as folder:
        for form in FORMATS.values():
            where = Path(folder, form.name)
            with form.created(where, PROFILES["tiny"], 1) as jobs:
                form.write(where, PROFILES["tiny"], jobs[0])
    all_there.wait(120)


def write(name: str, folder: Path, profile: Profile, job: Job) -> tuple[int, Clock, int]:
    """In a worker: write one cell; which process, how long, peak memory."""
    forget_peak()
    clock = FORMATS[name].write(folder, profile, job)
    return os.getpid(), clock, peak()


def write_all(pool: ProcessPoolExecutor, form: Npz, folder: Path, profile: Profile, cells: int) -> Sample:
    """Write all cells; the rate of the workers together is the sum of what each wrote a second of writing."""
    spent: dict[int, float] = defaultdict(float)
    wrote: dict[int, int] = defaultdict(int)
    cpu, most = 0.0, 0
    with Clock() as whole, form.created(folder, profile, cells) as jobs:
        futures = {pool.submit(write, form.name, folder, profile, job): cell for cell, job in enumerate(jobs)}
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, FOLD_SECONDS)
            form.fold()
            for future in done:
                process, clock, memory = future.result()
                spent[process] += clock.wall
                cpu += clock.cpu
                wrote[process] += raw(profile, futures[future])
                most = max(most, memory)
    return {
        "stored_bytes": stored(folder),
        "write_mbs": sum(wrote[process] / spent[process] for process in spent) / MB,
        "write_cell_ms": sum(spent.values()) / cells * 1e3,
        "write_cpu_s_gb": cpu / sum(wrote.values()) * 1e9,
        "write_peak_mb": most / MB,
        "wall_s": whole.wall,
    }


def read_all(form: Npz, folder: Path, profile: Profile, cells: int) -> Sample:
    """Read one layer of all cells, a few single cells, everything (a cell at a time); opening apart."""
    some = range(0, cells, -(-cells // CELLS_TIMED))
    total = sum(raw(profile, cell) for cell in range(cells))
    forget_peak()
    with Clock() as opening:
        opened = form.open(folder)
    with Clock() as layer:
        form.layer(opened, profile, cells, profile.layers // 2)
    with Clock() as few:
        for cell in some:
            form.cell(opened, profile, cell)
    with Clock() as everything:
        for cell in range(cells):
            form.cell(opened, profile, cell)
    return {
        "open_ms": opening.wall * 1e3,
        "read_layer_mbs": total / profile.layers / layer.wall / MB,
        "read_cell_ms": few.wall / len(some) * 1e3,
        "read_all_mbs": total / everything.wall / MB,
        "read_cpu_s_gb": everything.cpu / total * 1e9,
        "read_peak_mb": peak() / MB,
    }


def layer_cost(form: Npz, folder: Path, profile: Profile, cells: int) -> dict[str, float]:
    """Requests and bytes that reading one layer of all cells takes."""
    watched: list[Counted] = []

    def watch(store: Any) -> Counted:
        watched.append(Counted(store))
        return watched[-1]

    opened = form.open(folder, watch)
    before = [(store.requests, store.bytes) for store in watched]
    form.layer(opened, profile, cells, profile.layers // 2)
    if not watched:  # a file is read as a whole
        return {"layer_requests": cells, "layer_share": 1.0}
    counted = [
        (store.requests - requests, store.bytes - size)
        for store, (requests, size) in zip(watched, before, strict=True)
    ]
    requests, size = (sum(values) for values in zip(*counted, strict=True))
    return {"layer_requests": requests, "layer_share": size / stored(folder)}


def errors(form: Npz, folder: Path, profile: Profile, cell: int = 0) -> dict[str, float]:
    """What a format does to weights: on a ladder from 1 to e^-80, and on one cell as it was read back.

    What was read must be what was written, or the times mean nothing.
    """
    ladder = np.exp(LADDER.astype(np.float64))
    error = np.abs(form.unpack(form.pack(LADDER)) / ladder - 1).max()
    found = np.nan_to_num(form.cell(form.open(folder), profile, cell), copy=False)
    weights = lost = hidden = seen = 0
    for start, logs in planted.maps(profile, cell):
        part = found[:, :, start : start + logs.shape[2], : logs.shape[3]]
        if not np.array_equal(part, np.nan_to_num(form.unpack(form.pack(logs)))):
            raise RuntimeError(f"{form.name}: cell {cell} does not read as it was written")
        positive, masked = np.exp(logs) > 0, np.isneginf(logs)
        hidden += int(np.count_nonzero(masked))
        seen += int(np.count_nonzero(part[masked]))
        weights += int(np.count_nonzero(positive))
        lost += int(np.count_nonzero(positive & (part == 0)))
    return {
        "largest_relative_error": float(error),
        "share_lost": lost / weights,
        "hidden_pairs": hidden,
        "hidden_with_weight": seen,
    }


def decoding(folder: Path, profile: Profile, cell: int = 0) -> list[dict[str, float]]:
    """One cell of log16 read as logs, by our table and by xarray alone, and its codes decoded in memory.

    CPU seconds of several rounds; the one before them, which meets cold memory, does not count.
    """
    slots = planted.slots(profile, cell)
    where = (cell, 0, 0, slice(None), slice(None), slice(slots), slice(slots))
    ours, plain = open_cube(folder).log_attention, xr.open_zarr(folder, chunks=None).log_attention
    codes = xr.open_zarr(folder, chunks=None, mask_and_scale=False).log_attention[where].load()
    packed = xr.Dataset({"a": codes.variable}).drop_attrs(deep=False)
    ways: dict[str, Callable[[], Any]] = {
        "table_read": lambda: ours[where].load(),
        "xarray_read": lambda: plain[where].load(),
        "table": lambda: encoding.decode(codes.values, "attention", logs=True),
        "xarray": lambda: xr.decode_cf(packed).load(),
    }
    rounds = [{name: _cpu(way) for name, way in ways.items()} for _ in range(1 + DECODINGS)]
    return rounds[1:]


def _cpu(call: Callable[[], Any]) -> float:
    """CPU seconds that a call takes."""
    with Clock() as clock:
        call()
    return clock.cpu


def estimates(folder: Path, profile: Profile, cells: int) -> dict[str, float]:
    """Stored bytes a raw float32 byte, as `dataset/encoding.py` estimates them: attention and logits."""
    found = {}
    for name in ("log16", "exact float32"):
        form, where = FORMATS[name], folder / "estimate"
        if not isinstance(form, Ours):
            raise TypeError(name)
        with form.created(where, profile, cells, logits=True) as jobs:
            for job in jobs:
                form.write(where, profile, job)
        steps = sum(planted.structure(profile, cell).width.size for cell in range(cells))
        attention = sum(raw(profile, cell) for cell in range(cells))
        found[f"attention.{form.storage}"] = stored(where / form.variable.name) / attention
        found[f"logits.{form.storage}"] = stored(where / "logits") / (steps * profile.vocab * 4)
        shutil.rmtree(where)
    return dict(sorted(found.items()))


def nature(profile: Profile) -> dict[str, Any]:
    """What the planted maps are like: quantiles of log weights, and the share that float16 cannot hold."""
    logs = np.concatenate([_visible(block) for _, block in planted.maps(profile, 0)])
    at = (0.01, 0.05, 0.16, 0.5, 0.84, 0.95)
    quantiles = {str(q): round(float(v), 2) for q, v in zip(at, np.quantile(logs, at), strict=True)}
    return {"log_weight_quantiles": quantiles, "below_float16": float((logs < np.log(2**-25)).mean())}


def _visible(logs: Array) -> Array:
    return logs[logs > -np.inf][::7]
