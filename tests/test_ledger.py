import time
from dataclasses import replace

import numpy as np
import pytest

from cubes import PROMPT_TOKENS, digests, experiment, facts, fill, grid, write
from tempocube.dataset.cube import Cube
from tempocube.dataset.place import Place
from tempocube.dataset.schema import CHECKS, DONE, FAILED, PASS, PENDING, QUARANTINED
from tempocube.dataset.store import Driver
from tempocube.dataset.verify import verify
from tempocube.dataset.writing import RECEIPTS
from tempocube.errors import CubeError


def test_a_receipt_whose_shard_is_gone_is_told_of_and_its_cell_done_again(where):
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        receipt = write(run.todo()[0], facts())
        run.place.delete([next(iter(receipt.shards))])
        (told,) = run.fold()
        assert (told.index, told.status) == (receipt.index, PENDING)
        assert "is missing" in told.error
        assert receipt.index in {task.index for task in run.todo()}


def test_a_store_that_fails_for_a_moment_costs_no_receipt(where, monkeypatch):
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        write(run.todo()[0], facts())

        def away(self, key):
            raise CubeError("server away")

        with monkeypatch.context() as patch:
            patch.setattr(Place, "get", away)
            patch.setattr(Place, "size", away)
            with pytest.raises(CubeError, match="server away"):
                run.fold()
        assert [folded.status for folded in run.fold()] == [DONE]


def test_of_two_workers_that_had_a_cell_the_one_that_failed_undoes_nothing(where):
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        task = run.todo()[0]
        write(task, facts())
        run.fold()
        task.writer().fail("second copy of the task")
        run.fold()
        assert run.ledger.status()[task.index] == DONE
    assert verify(where).problems == []


def test_a_slow_worker_that_overwrites_a_finished_cell_is_noticed_when_the_run_ends(where):
    """A scheduler gave the task out twice; the second copy puts a shard after the first was folded."""
    model = facts()
    with Driver(where, grid(), model, PROMPT_TOKENS) as run:
        task = run.todo()[0]
        write(task, model)
        slow = task.writer()
        run.fold()
        time.sleep(1.1)  # S3 tells times in whole seconds
        slow.write("log_attention", experiment(task.cell, model)[1] - 1, 0)
    assert Cube.open(where).status()[task.index] == PENDING


def test_receipts_of_one_cell_are_told_apart_by_what_they_vouch_for(where):
    """Two copies of a task both finish, with different bytes, before the driver folds."""
    model = facts()
    with Driver(where, grid(), model, PROMPT_TOKENS) as run:
        task = run.todo()[0]
        small, logs, readout = experiment(task.cell, model)
        for shift in (0, 1e-1):
            writer = task.writer()
            writer.write("log_attention", logs, 0)
            writer.write("logits", readout - shift, 0)
            writer.finish(small)
        assert len(run.place.list(RECEIPTS)) == 2
        assert run.ledger.status()[task.index] == PENDING
        run.fold()
        assert run.ledger.status()[task.index] == DONE
    assert verify(where).problems == []


def test_words_that_cannot_be_stored_block_nobody(where):
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        run.todo()[0].writer().fail("no such file: bad \udcff path")
        (told,) = run.fold()
        assert (told.status, told.error) == (FAILED, "no such file: bad ? path")


@pytest.mark.parametrize("index", [(-1, 0, 0), (0, 0), (0, 0, 0, 0), (5, 0, 0)])
def test_a_receipt_of_a_cell_that_is_not_there_changes_nothing(where, index):
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        receipt = replace(write(run.todo()[0], facts()), index=index)
        run.place.delete([stored.key for stored in run.place.list(RECEIPTS)])
        run.place.put(receipt.key, receipt.to_bytes())
        assert run.fold() == []
        assert not (run.ledger.status() == DONE).any()


def test_files_that_other_programs_leave_in_a_cube_disturb_nobody(tmp_path):
    cube = fill(tmp_path / "a.zarr", grid(1))
    for folder in (
        "length/c",
        "status/c",
        "status/run/lease",
        "status/run/receipts",
        "log_attention",
    ):
        (tmp_path / "a.zarr" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "a.zarr" / folder / ".DS_Store").write_bytes(b"x")
    fill(tmp_path / "a.zarr", grid(2))
    assert verify(cube.place).ok


def test_a_damaged_chunk_of_the_index_is_named_when_folding_into_it(where):
    cube = fill(where, grid(1))
    key = cube.place.list("entropy/c")[:1] or cube.place.list("token/c")
    cube.place.put(key[0].key, b"garbage")
    with pytest.raises(CubeError, match=r"a chunk of .* cannot be read"):
        fill(where, grid(2))


@pytest.mark.parametrize("content", [b"", b"torn", b"\xff" * 64])
def test_what_is_no_receipt_is_removed(where, content):
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        run.place.put(f"{RECEIPTS}/0-0-0-x.safetensors", content)
        assert run.fold() == []
        assert run.place.list(RECEIPTS) == []


def test_a_receipt_of_a_larger_cube_is_removed(where, tmp_path):
    with Driver(tmp_path / "large.zarr", grid(9), facts(), PROMPT_TOKENS) as large:
        receipt = write(large.todo()[-1], facts())
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        run.place.put(receipt.key, receipt.to_bytes())
        assert run.fold() == []
        assert run.place.list(RECEIPTS) == []


def test_failures_and_quarantines_without_receipt_count_as_tries(where):
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        first, second, *_ = (task.index for task in run.todo())
        for _ in range(3):
            run.ledger.mark([first], FAILED, "its worker died")
        run.ledger.mark([second], QUARANTINED, "its worker died twice")
        left = {task.index: task.attempt for task in run.todo(quarantined=True)}
        assert first not in left
        assert left[second] == 2


def test_a_cross_check_found_later_can_be_kept_and_changes_no_digest(where):
    cube = fill(where, grid())
    before = digests(where)
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        value = np.full(len(CHECKS), np.nan)
        value[CHECKS.index("cross_attention")] = 1e-6
        run.ledger.set({(0, 0, 0): {"check_value": value}})
    assert Cube.open(where).row((0, 0, 0))["check_value"][CHECKS.index("cross_attention")] == 1e-6
    assert digests(where) == before
    assert verify(where).ok
    assert cube.cell((1, 0, 1)).prompt == "prompt 1"
    assert cube.index(cube.cell((1, 0, 1))) == (1, 0, 1)


def test_a_row_of_the_index_is_cut_to_its_cell(where):
    cube = fill(where, grid(max_tokens=9))
    small, *_ = experiment(cube.cell((0, 1, 1)), facts())
    row = cube.row((0, 1, 1))
    assert row["token"].tolist() == small["token"].tolist()
    assert row["width"].tolist() == small["width"].tolist()
    assert row["text"] == small["text"]
    assert row["check_result"].tolist() == [PASS] * len(CHECKS)
