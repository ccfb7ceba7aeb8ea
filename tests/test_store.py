import os
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr

from cubes import PROMPT_TOKENS, digests, facts, fill, grid, write
from tempocube.dataset.cube import Cube
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import DONE, NOT_ASKED, PENDING, STATUS
from tempocube.dataset.store import Driver
from tempocube.dataset.verify import verify
from tempocube.errors import CubeError


def counts(where):
    return {name: n for name, n in verify(where).counts.items() if n}


def test_a_grid_becomes_a_cube_that_verifies(where):
    cube = fill(where, grid())
    assert counts(where) == {"done": 8}
    assert verify(where).ok
    read = open_cube(where)
    assert read.attention.dims == ("prompt", "seed", "mode", "layer", "head", "query", "key")
    assert read.prompt.values.tolist() == ["p0", "p1"]
    assert read.prompt_text.values.tolist() == ["prompt 0", "prompt 1"]
    assert read.category.values.tolist() == ["first", "first"]
    assert read.attention.sel(mode="visible", layer=1).sum("key").max() == pytest.approx(1, abs=0.01)
    assert read.sizes["slot"] == int(read.length.max()) < cube.sizes["slot"]
    assert open_cube(where, trim=False).sizes["slot"] == cube.sizes["slot"]


def test_nobody_needs_our_package_to_open_a_cube(where):
    fill(where, grid(threshold=[0.1, {"start": 0.3, "end": 0.1}], ablate=[None, ["L1H2", "L0.mlp"]]))
    with xr.open_zarr(where) as plain:
        assert plain.log_attention.dims[:5] == ("prompt", "seed", "mode", "threshold", "ablate")
        assert set(plain.threshold.values.tolist()) == {"0.1", "linear 0.3-0.1"}
        assert set(np.unique(plain.status)) == {DONE}
        assert {"category", "prompt_text"} <= set(plain.coords)
        assert plain.ablate.values.tolist() == ["none", "L0.mlp+L1H2"]
        curve = {"start": 0.3, "end": 0.1, "curve": "linear"}
        assert plain.attrs["axes"]["threshold"] == {"0.1": 0.1, "linear 0.3-0.1": curve}
    with xr.open_zarr(where, consolidated=False) as plain:  # lists the store, and meets no stranger in it
        assert set(np.unique(plain.status)) == {DONE}


def test_strings_can_be_compared_and_mixed_with_missing_values(where):
    fill(where, grid())
    read = open_cube(where)
    assert read.where(read.category == "first", drop=True).sizes["prompt"] == 2
    frame = read[["length", "text"]].to_dataframe()
    assert frame["text"].str.startswith("prompt").all()


def test_the_same_grid_again_has_nothing_left_and_changes_nothing(where):
    fill(where, grid())
    before, root = digests(where), Cube.open(where).attrs
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        assert run.todo() == []
    assert digests(where) == before
    assert Cube.open(where).attrs == root


def test_a_cube_grows_by_prompts_seeds_and_a_lower_threshold(where):
    """Old cells keep their bytes, what the new grid asks is pending, the rest is not asked."""
    fill(where, grid(10, threshold=[0.2]))
    before, old = digests(where), Cube.open(where)
    more = grid(20, threshold=[0.2, 0.05], seeds=[3])
    with Driver(where, more, facts(), PROMPT_TOKENS + 3) as run:
        cube = run.cube
        assert cube.shape == (20, 3, 2, 2)
        assert cube.sizes["slot"] == PROMPT_TOKENS + 3 + 6 * 16 > old.sizes["slot"]
        assert len(run.todo()) == 20 * 1 * 2 * 2
    assert counts(where) == {"done": 40, "pending": 80, "not asked": 120}
    assert digests(where) == before
    assert verify(where).problems == []
    for name, meta in old.metas.items():
        assert cube.metas[name]["chunk_grid"] == meta["chunk_grid"]
    fill(where, more)
    assert counts(where) == {"done": 120, "not asked": 120}
    with Driver(where, grid(10, threshold=[0.2]), facts(), PROMPT_TOKENS) as run:
        assert run.todo() == []
        assert len(run.cube.grids) == 2


def test_an_axis_of_curves_takes_numbers_an_axis_of_numbers_takes_no_curves(where):
    curve = {"start": 0.3, "end": 0.1}
    fill(where, grid(1, threshold=[0.2, curve]))
    fill(where, grid(1, threshold=[0.4]))
    assert open_cube(where).threshold.values.tolist() == ["0.2", "linear 0.3-0.1", "0.4"]
    assert counts(where) == {"done": 12}
    fill(where, grid(1, temperature=[0.5]), overwrite=True)
    fill(where, grid(1, temperature=[0.7]))
    assert open_cube(where).temperature.values.tolist() == [0.5, 0.7]


def test_what_was_not_asked_becomes_pending_when_a_later_grid_asks_it(where):
    fill(where, grid(1, seeds=[1]))
    fill(where, grid(2, seeds=[2]))
    assert counts(where) == {"done": 6, "not asked": 2}
    with Driver(where, grid(2, seeds=[1, 2]), facts(), PROMPT_TOKENS) as run:
        assert [(task.cell.prompt, task.cell.seed) for task in run.todo()] == [("prompt 1", 1)] * 2


def test_a_task_knows_whether_its_cell_was_finished_meanwhile(where):
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        first, second, third, *_ = run.todo()
        write(first, facts())
        second.writer().fail("no luck")
        assert [task.done() for task in (first, second, third)] == [True, False, False]
        run.fold()
        assert [task.done() for task in (first, second, third)] == [True, False, False]


def test_a_cube_with_a_vocabulary_can_be_overwritten(where):
    for words in (["a"] * 50, ["b"] * 50):
        fill(where, grid(1), vocabulary=lambda words=words: words, overwrite=True)
        assert Cube.open(where).read("vocabulary").tolist() == words


def test_overwrite_gives_a_new_cube(where):
    fill(where, grid())
    other = grid(1, threshold=0.3)
    with Driver(where, other, facts(), PROMPT_TOKENS, overwrite=True) as run:
        assert len(run.todo()) == 4
        for task in run.todo():
            write(task, facts())
    assert counts(where) == {"done": 4}
    assert Cube.open(where).grids == (other,)


def test_the_index_can_be_marked_by_the_driver(where):
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        first, second, *_ = run.todo()
        run.ledger.mark([first.index], STATUS.index("quarantined"), "killed its worker twice", attempts=2)
        run.ledger.mark([second.index], PENDING, "lost with its worker", attempts=1)
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        todo = {task.index: task.attempt for task in run.todo()}
        assert first.index not in todo
        assert todo[second.index] == 2
        assert first.index in {task.index for task in run.todo(quarantined=True)}
    assert "killed its worker twice" in str(verify(where).problems[0])


def test_a_link_stands_for_the_folder_it_leads_to(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "link.zarr").symlink_to(tmp_path / "scratch" / "real.zarr")
    fill(tmp_path / "link.zarr", grid(1))
    fill(tmp_path / "link.zarr", grid(2), overwrite=True)
    assert (tmp_path / "link.zarr").is_symlink()
    assert Cube.open(tmp_path / "scratch" / "real.zarr").grids == (grid(2),)
    assert [p.name for p in (tmp_path / "scratch").iterdir()] == ["real.zarr"]


def test_a_full_disk_is_one_line_and_the_run_goes_on_after_space_is_made(tmp_path):
    """On a file system of its own, too small for the cube."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", mount], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    try:
        ballast = mount / "ballast"
        ballast.write_bytes(b"\0" * 300_000)
        asked, model, where = grid(4, max_tokens=60), facts(), mount / "a.zarr"
        with pytest.raises(CubeError, match="no space left; make room and run the same command again"):
            fill(where, asked, model)
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=20m", mount], check=True)
        assert verify(where).problems == []
        with Driver(where, asked, model, PROMPT_TOKENS) as run:
            assert 0 < len(run.todo()) < 16
        fill(where, asked, model)
        assert verify(where).ok
        assert digests(where) == digests(fill(tmp_path / "roomy.zarr", asked, model).place)
    finally:
        subprocess.run(["umount", mount], check=True)


def test_ten_thousand_cells_open_list_and_fold_in_seconds(tmp_path):
    asked = grid(1000, seeds=[1, 2, 3, 4, 5], capture={"attention": False, "logits": False})
    small = {
        "token": np.arange(9),
        "logical": np.arange(9),
        "slot_step": np.repeat([-1, 0], [5, 4]),
        "width": [4],
        "check_result": 1,
    }
    where = tmp_path / "a.zarr"
    with Driver(where, asked, facts(), PROMPT_TOKENS) as run:
        for task in run.todo()[:-3]:
            task.writer().finish(small)
        start = time.process_time()  # others may use the machine, and tell nothing of us
        assert len(run.fold()) == 9997
        assert time.process_time() - start < 10
    script = (
        "import sys, time, dask, pandas;"
        "from tempocube.dataset.cube import Cube; from tempocube.dataset.reading import open_cube;"
        "t = time.process_time(); cube = Cube.open(sys.argv[1]); missing = cube.cells(0);"
        "listed = time.process_time() - t; t = time.process_time(); open_cube(sys.argv[1]);"
        "print(len(missing), listed, time.process_time() - t)"
    )
    done = subprocess.run([sys.executable, "-c", script, where], capture_output=True, text=True, check=True)
    missing, listed, opened = done.stdout.split()
    assert int(missing) == 3
    assert float(listed) < 1
    assert float(opened) < 1


def test_listing_missing_cells_is_one_small_read(where):
    fill(where, grid(20))
    cube = Cube.open(where)
    gets = counted_gets(cube)
    assert len(cube.cells(DONE)) == 80
    assert [key for key, _ in gets] == ["status/c/0/0/0"]
    assert sum(size for _, size in gets) < 2000


def test_reading_one_layer_touches_only_that_layers_chunks(where):
    """Two shards a cell; of each the index and one of four inner chunks."""
    model = facts(layers=4, heads=128, vocab=8)  # heads enough for one layer an inner chunk
    asked = grid(1, max_tokens=40, modes=["visible"], max_slots=100)
    fill(where, asked, model)
    cube = Cube.open(where)
    whole = sum(s.size for s in cube.place.list("log_attention") if "/c." in s.key)
    gets = counted_gets(cube)
    read = open_cube(cube).log_attention.sel(layer=2)
    assert gets == [] or all("log_attention" not in key for key, _ in gets)
    gets.clear()
    read.load()
    assert {key.split("/")[0] for key, _ in gets} == {"log_attention"}
    assert sum(size for _, size in gets) < whole / 4 * 1.15


def counted_gets(cube):
    """Every read of the cube's store from now on, as (key, bytes)."""
    from zarr.storage import WrapperStore

    class Counting(WrapperStore):
        gets: list = []  # noqa: RUF012

        async def get(self, key, prototype, byte_range=None):
            value = await self._store.get(key, prototype, byte_range)
            self.gets.append((key, len(value) if value else 0))
            return value

    cube.__dict__["_store"] = Counting(cube.place.zarr())
    return Counting.gets


def test_status_of_cells_outside_every_grid_is_not_asked(where):
    fill(where, grid(1, seeds=[1]))
    fill(where, grid(2, seeds=[2]))
    status = Cube.open(where).status()
    assert status[1, 0].tolist() == [NOT_ASKED, NOT_ASKED]
    assert os.path.basename(str(Cube.open(where).place)) == "cube.zarr"
