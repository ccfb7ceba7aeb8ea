"""Who ran what when: kept in the cube, read back in order, shown by a command."""

import json
import subprocess
import sys
from pathlib import Path

import xarray as xr

from cubes import facts, fill, grid
from tempocube.dataset.place import Place
from tempocube.dataset.runlog import FOLDER, RunLog, runs
from tempocube.dataset.verify import verify

ROWS = [{"worker": "here-1", "host": "here", "cells": 3, "skipped": 0, "passes": 7, "nodes": 40,
         "seconds": 1.5, "bytes": 12_000, "loads": 1, "peak_bytes": 4 * 10**8}]  # fmt: skip


def shown(*words):
    done = subprocess.run(
        [Path(sys.executable).parent / "tempo-stats", "runs", *map(str, words)],
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_runs_come_back_in_order_and_nothing_else_minds_them(tmp_path):
    cube = tmp_path / "a.zarr"
    fill(cube, grid(2), facts())
    assert runs(cube) == []
    assert shown(cube)[:2] == (0, "no run has left a record\n")
    for number in range(3):
        log = RunLog(Place.at(cube), f"{number:032}", grid="g", options={"workers": number})
        log.write(cells=3, state="running")
        log.write(state="finished", workers=ROWS)
    found = runs(cube)
    assert [record["options"]["workers"] for record in found] == [0, 1, 2]
    assert all(record["state"] == "finished" for record in found)
    assert found[0]["versions"]["mlx"]
    assert verify(cube).ok
    assert xr.open_zarr(cube).sizes["prompt"] > 0


def test_the_command_shows_workers_losses_and_the_cross_check(tmp_path):
    cube = tmp_path / "a.zarr"
    fill(cube, grid(2), facts())
    log = RunLog(Place.at(cube), "f" * 32, grid="mine")
    losses = [{"at": log.record["began"], "why": "its worker died after 3 s", "cells": 2, "first": (0, 0, 0)}]
    cross = {"cells": 1, "attention": 3e-6, "logprob": float("nan"), "kl": float("nan")}
    driver = {"cpu_seconds": 2.0, "peak_bytes": 10**8}
    log.write(
        cells=3, done=3, state="finished", workers=ROWS, losses=losses, cross_check=cross, driver=driver
    )
    code, out, err = shown(cube)
    assert (code, err) == (0, "")
    assert "mine: 3 of 3 cells, finished" in out
    assert "here-1: 3 cells, 1 model load, 7 passes, 40 nodes, 1.5 s, 12 kB written, at most 400 MB" in out
    assert "2 cells: its worker died after 3 s" in out
    assert "cross-checked 1: at most attention 3.0e-06 apart" in out
    assert json.loads(shown(cube, "--json")[1])[0]["workers"] == ROWS
    assert shown(tmp_path / "none.zarr")[0] == 2


def test_a_record_that_is_damaged_hides_no_other(tmp_path):
    cube = tmp_path / "a.zarr"
    fill(cube, grid(2), facts())
    RunLog(Place.at(cube), "a" * 32, grid="g").write(cells=1)
    (cube / FOLDER / "0-torn.json").write_bytes(b'{"run": "tor')
    assert len(runs(cube)) == 1
