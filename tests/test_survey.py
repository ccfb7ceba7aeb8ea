"""Measuring as a user meets it: unfinished cubes, parts of cubes, what is kept, stopped, damaged or large."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from cubes import PROMPT_TOKENS, facts, fill, grid, write
from measured import SMALL, by_oracle
from tempocube.dataset.caches import user_folder
from tempocube.dataset.place import Place
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import FAIL, FAILED, TREATMENT_CHECKS
from tempocube.dataset.simulated import Effects, cube
from tempocube.dataset.store import Driver
from tempocube.errors import BadInput, CubeError, DamagedError
from tempocube.stats import cache, measures

Make = Callable[..., str]


# --- cubes that are not finished, parts of cubes, cubes that are none


def test_a_cube_being_written_is_measured_as_far_as_it_is(make: Make) -> None:
    frame = measures.experiments(make(effects=Effects(missing=0.25)))
    assert len(frame) == frame.attrs["used"] == 9
    assert frame.attrs["cells"] == {"pending": 3, "done": 9}
    assert len(measures.between(make(effects=Effects(lost=((None, None, 1),))))) == 0


def test_a_cube_whose_capture_still_runs_says_how_many_cells_it_used(tmp_path: Path) -> None:
    where, model = tmp_path / "cube", facts()
    with Driver(where, grid(2), model, PROMPT_TOKENS) as driver:
        tasks = driver.todo()
        for task in tasks[:3]:
            write(task, model)
        driver.fold()
        frame = measures.experiments(where)
        assert frame.attrs["used"] == len(frame) == 3
        assert frame.attrs["cells"] == {"pending": len(tasks) - 3, "done": 3}
        for task in tasks[3:]:
            write(task, model)
    assert len(measures.experiments(where)) == len(tasks) == 8


def test_what_failed_its_check_does_not_count(make: Make) -> None:
    frame = measures.experiments(make(effects=Effects(untreated=((0, 0, 0),))))
    assert frame.attrs["cells"] == {"done": 11, "failed": 1}
    assert len(frame) == 11


def test_an_empty_cube_is_one_clear_error(make: Make) -> None:
    where = make(effects=Effects(lost=((None, None, None),)))
    with pytest.raises(BadInput, match=r"no experiment is done yet \(12 pending\); run tempo-capture first"):
        measures.experiments(where)


def test_a_cube_of_another_schema_is_refused_by_name(make: Make) -> None:
    root = Path(make(), "zarr.json")
    root.write_text(root.read_text().replace('"tempocube_schema": 1', '"tempocube_schema": 99'))
    with pytest.raises(
        CubeError, match="has schema 99, this version reads 1; use the tempocube that wrote it"
    ):
        measures.experiments(root.parent)


def test_a_folder_without_a_cube_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CubeError, match="no cube there"):
        measures.experiments(tmp_path)


def test_a_part_of_an_opened_cube_is_measured_in_part(make: Make) -> None:
    where = make()
    ds = open_cube(where)
    whole = measures.experiments(ds)
    part = measures.experiments(ds.sel(prompt=["p0"], mode="visible"))
    expected = whole[(whole["prompt"] == "p0") & (whole["mode"] == "visible")].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, expected)
    assert part.attrs["digest"] != whole.attrs["digest"]
    layer = measures.experiments(ds.sel(layer=1))
    assert layer["downweighting"].tolist() == pytest.approx(by_oracle(where, [1]), abs=1e-5)
    with pytest.raises(BadInput, match=r"layers: 7 not among those captured \(0 to 1\)"):
        measures.experiments(where, layers=[7])
    with pytest.raises(BadInput, match="does not know its cube"):
        measures.experiments(xr.Dataset())
    with pytest.raises(BadInput, match="has lost its mode; select without drop=True"):
        measures.experiments(ds.sel(mode="visible", drop=True))
    with pytest.raises(BadInput, match="what open_cube gives, got a DataArray"):
        measures.experiments(ds.attention)


# --- kept, stopped, damaged


def test_the_second_time_nothing_big_is_read(make: Make) -> None:
    where = make()
    first = measures.experiments(where), measures.between(where)
    shutil.rmtree(f"{where}/log_attention")
    shutil.rmtree(f"{where}/logits")
    began = time.perf_counter()
    second = measures.experiments(where), measures.between(where)
    assert time.perf_counter() - began < 3
    for one, other in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_only_what_is_new_is_measured(tmp_path: Path) -> None:
    where, told = tmp_path / "cube", []
    cube(SMALL, Effects(missing=0.25), where, 1)
    measures.experiments(where)
    shutil.rmtree(where)
    cube(SMALL, Effects(), where, 1)  # another model, by its hash: nothing of the old one holds
    measures.experiments(where, progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 12)
    assert told[-1] == (12, 12)
    again: list[tuple[int, int]] = []
    measures.experiments(where, progress=lambda done, total: again.append((done, total)))
    assert again == [(12, 12)]


def test_a_stopped_measurement_keeps_what_it_has_and_leaves_no_thread(make: Make) -> None:
    where, told = make(), []

    def stop(done: int, _: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measures.experiments(where, progress=stop)
    assert not [each for each in threading.enumerate() if each.name.startswith("measure")]
    frame = measures.experiments(where, progress=lambda done, _: told.append(done))
    assert 4 <= told[0] < 12
    assert frame["downweighting"].tolist() == pytest.approx(by_oracle(where), abs=1e-5)


INTERRUPTED = """
import signal, sys, time
from tempocube.stats import measures

signal.signal(signal.SIGINT, signal.default_int_handler)  # what started us may ignore it

def progress(done, total):
    print(done, total, flush=True)
    if done >= 4:
        time.sleep(60)

measures.experiments(sys.argv[1], progress=progress)
"""


def test_ctrl_c_leaves_what_was_measured_and_no_half_written_file(make: Make) -> None:
    where, told = make(), []
    run = [sys.executable, "-c", INTERRUPTED, where]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told.append(line.split())
            if int(told[-1][0]) >= 4:
                process.send_signal(signal.SIGINT)
                break
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert told[0] == ["0", "12"]
    kept = Path(f"{where}{cache.SUFFIX}")
    assert all(np.load(file)["key"].size for file in kept.iterdir())
    again: list[int] = []
    frame = measures.experiments(where, progress=lambda done, _: again.append(done))
    assert 4 <= again[0] < 12
    assert again[-1] == len(frame) == 12
    assert frame["downweighting"].tolist() == pytest.approx(by_oracle(where), abs=1e-5)


def test_a_cache_that_is_damaged_or_cannot_be_written_counts_for_nothing(make: Make) -> None:
    where = make()
    first = measures.experiments(where)
    files = list(Path(f"{where}{cache.SUFFIX}").glob("*.npz"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(b"PK nonsense")
    pd.testing.assert_frame_equal(measures.experiments(where), first)
    shutil.rmtree(f"{where}{cache.SUFFIX}")
    Path(f"{where}{cache.SUFFIX}").write_text("a file where the folder should be")
    pd.testing.assert_frame_equal(measures.experiments(where), first)


def test_many_small_saves_become_one(tmp_path: Path) -> None:
    records = {f"k{i}": {"x": float(i), "name": f"n{i}", "a": np.arange(i, i + 3.0)} for i in range(9)}
    for key, record in records.items():
        assert cache.save(tmp_path, "cells", {key: record})
    cache.tidy(tmp_path, "cells")
    assert len(list(tmp_path.iterdir())) == 1
    found = cache.load(tmp_path, "cells", ["k0", "k7", "absent"])
    assert sorted(found) == ["k0", "k7"]
    assert (found["k7"]["x"], found["k7"]["name"], found["k7"]["a"].tolist()) == (7.0, "n7", [7, 8, 9])


def test_a_damaged_shard_is_named_with_its_cells(make: Make) -> None:
    where = make()
    for shard in Path(where, "log_attention").glob("c.1.*"):
        if shard.is_file():
            shard.write_bytes(shard.read_bytes()[:-40] + bytes(40))
    with pytest.raises(DamagedError, match=r"log_attention cannot be read.*prompt=p1.*tempo-stats verify"):
        measures.experiments(where)


def test_the_users_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, found in (("HOME", "a/.cache/tempocube"), ("XDG_CACHE_HOME", "a/tempocube")):
        monkeypatch.delenv("TEMPOCUBE_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv(name, "a")
        assert user_folder() == Path(found)
    monkeypatch.setenv("TEMPOCUBE_CACHE", "own")
    assert user_folder() == Path("own")
    assert cache.folder(Place("s3://bucket/cube.zarr")).parent == Path("own/measures")


def test_a_cube_can_lie_anywhere(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOCUBE_CACHE", str(tmp_path / "caches"))
    cube(replace(SMALL, categories=(1,), seeds=1), Effects(), where)
    first = measures.experiments(where)
    assert first["downweighting"].tolist() == pytest.approx(by_oracle(where), abs=1e-5)
    pd.testing.assert_frame_equal(measures.experiments(where), first)
    assert len(list(tmp_path.rglob("cells-*.npz"))) == 1


def test_a_table_says_how_often_each_treatment_check_held(tmp_path: Path) -> None:
    """Of failed experiments too: they are what a gate must hear of."""
    where, model = tmp_path / "a.zarr", facts()
    fill(where, grid(2), model)
    checks = measures.experiments(where).attrs["checks"]
    assert list(checks) == list(TREATMENT_CHECKS)
    assert sum(count["pass"] for count in checks.values()) > 0
    assert not any(count["fail"] for count in checks.values())
    with Driver(where, grid(2), model, PROMPT_TOKENS) as driver:
        results = driver.cube.read("check_result")[0, 0, 0].copy()
        results[TREATMENT_CHECKS.index("isolation")] = FAIL
        driver.ledger.set({(0, 0, 0): {"check_result": results, "status": FAILED}})
    assert measures.experiments(where).attrs["checks"]["isolation"]["fail"] == 1


@pytest.mark.parametrize("variable", ["log_attention", "logits"])
def test_a_lost_shard_is_told_and_nothing_of_it_is_kept(make: Make, variable: str) -> None:
    where = Path(make())
    (shard,) = (where / variable).glob("c.0.0.0.*")
    data = shard.read_bytes()
    shard.unlink()
    with pytest.raises(DamagedError, match=f"{variable}: the shard of rows 0.. is missing .*mode=isolated"):
        measures.experiments(where)
    shard.write_bytes(data)
    assert (measures.experiments(where)["reason"] == "").all()


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY\x01\x00v\x00{}"])
def test_a_damaged_cache_counts_for_nothing(make: Make, content: bytes) -> None:
    where = Path(make())
    before = measures.experiments(where)
    for file in where.with_name(where.name + ".stats-cache").glob("*.npz"):
        file.write_bytes(content)
    pd.testing.assert_frame_equal(measures.experiments(where), before)
