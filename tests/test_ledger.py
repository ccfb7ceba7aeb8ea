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


@pytest.mark.parametrize("content", [b"", b"torn", b"\xff" * 64])
def test_what_is_no_receipt_is_removed(where, content):
    with Driver(where, grid(), facts(), PROMPT_TOKENS) as run:
        run.place.put(f"{RECEIPTS}/0-0-0.safetensors", content)
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
