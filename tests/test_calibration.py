"""What a calibration measures and keeps: real samples of a tiny model, and costs that are planted."""

import json
import math
import os
import socket
from dataclasses import astuple, replace

import pytest

from runs import grid, worked
from tempocube.capture import calibration, model, selftest
from tempocube.capture.calibration import Asked, Calibration, Effort, calibrate, last
from tempocube.dataset.grid import Grid
from tempocube.dataset.store import Driver
from tempocube.dataset.writing import Receipt, receipts
from tempocube.errors import BadInput
from tiny import checkpoint

MIXED = {
    "modes": ["visible", "isolated", "single"],
    "replay": "isolated",
    "temperature": 0.5,
    "seeds": [1, 2],
}
PLANTED = Calibration(
    date="2026-01-01T00:00+00:00",
    grid="planted",
    cells=8,
    threads=1,
    starting=4.0,
    loading=2.0,
    per_pass=0.01,
    per_node=5e-4,
    per_cell=1e-3,
    per_file=2e-3,
    per_raw_byte=3e-9,
    per_fold=1e-3,
    mean_width=1.5,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(checkpoint(tmp_path_factory.mktemp("tiny") / "llama", "llama"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPOCUBE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def keep(made, sha256="a" * 64):
    told = []
    calibration._keep(sha256, made, told.append)
    return told


@pytest.mark.slow
def test_a_calibration_is_measured_on_this_machine_and_kept_for_this_model(path, monkeypatch):
    monkeypatch.setattr(calibration, "BUDGET", 2.0)
    told = []
    made = calibrate(grid(model=path, **MIXED), told.append)
    sha256 = model.facts(path).sha256
    assert last(sha256) == made
    assert last("0" * 64) is None
    assert any(f"loading {path}" in line for line in told)
    assert min(made.starting, made.loading, made.per_pass + made.per_node) > 0
    assert 1 < made.mean_width <= 12
    monkeypatch.setattr(os, "cpu_count", lambda: 999)
    assert last(sha256) is None


def test_costs_that_were_planted_are_found_again(path):
    asked = Asked.of(grid(model=path))
    shapes = [(3, 8, 1), (3, 70, 8), (11, 18, 1), (3, 220, 48), (11, 170, 8), (11, 780, 48)]
    samples = []
    for passes, nodes, cells in shapes:
        effort = Effort(passes, nodes, cells, 3 * cells, 20_000 * nodes + 7 * cells)
        times = [PLANTED.seconds(each) for each in (replace(effort, files=0, raw=0), effort)]
        folding = 0.05 + cells * PLANTED.per_fold
        samples.append(calibration._Sample(cells, *times, folding, effort, (1,) * (cells - 1) + (49,)))
    found = calibration._fitted(asked, samples)
    for name in ("per_pass", "per_node", "per_cell", "per_file", "per_raw_byte", "per_fold"):
        assert getattr(found, name) == pytest.approx(getattr(PLANTED, name), rel=1e-3)
    assert found.cells == 48
    assert found.mean_width == 2  # of 48 sets; of 8 it would be 7


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": [1, 2]},
        {"seeds": [1, 2], "temperature": 0.7, "max_slots": 20},
        {"modes": ["single", "causal"], "ablate": [[], ["L0H1"]]},
        {"replay": "isolated", "control": "repeat", "max_tokens": 3},
    ],
)
def test_the_effort_told_before_is_the_one_it_takes(path, options):
    asked = Asked.of(grid(model=path, **options))
    cells = asked.grid.cells()
    results, work = worked(selftest.load(path), asked.grid)
    free = [kept.small["width"] for cell, kept in results.items() if cell.mode != "single"]
    width = sum(map(sum, free)) / sum(map(len, free))
    most, expected = asked.effort(cells), asked.effort(cells, width)
    assert work.nodes <= most.nodes
    assert work.passes <= most.passes
    assert expected.nodes == pytest.approx(work.nodes, rel=0.25)
    assert expected.passes == pytest.approx(work.passes, rel=0.1)


def test_files_and_raw_bytes_of_a_cell_are_those_that_it_writes(tmp_path, path):
    wanted = grid(model=path, capture={"attention": {"layers": [0, 2]}, "keys_values": True}, max_tokens=3)
    asked = Asked.of(wanted)
    with Driver(tmp_path / "cube.zarr", wanted, asked.facts, max(asked.prompts.values())) as driver:
        tasks = driver.todo()[:2]
        loaded = selftest.load(path)
        results, _ = worked(loaded, wanted, [task.cell for task in tasks])
        calibration.engine.capture(
            loaded, [task.cell for task in tasks], [task.writer() for task in tasks], asked.wanted
        )
        for task, kept in zip(tasks, results.values(), strict=True):
            (receipt,) = receipts(driver.place, task.index)
            shards = Receipt.from_bytes(driver.place.get(receipt.key)).shards
            files, raw = asked.stored(len(kept.small["token"]), len(kept.small["width"]))
            assert files == len(shards) + 1
            assert raw == sum(values.nbytes for values in kept.data.values())


def test_seeds_share_everything_at_temperature_0_and_a_prompt_above(path):
    one, five = (Asked.of(grid(model=path, seeds=list(range(n)))) for n in (1, 5))
    assert five.effort(five.grid.cells()).nodes == one.effort(one.grid.cells()).nodes
    warm = Asked.of(grid(model=path, seeds=list(range(5)), temperature=0.5))
    prompts = sum(warm.prompts.values())
    once = one.effort(one.grid.cells()).nodes - prompts
    assert warm.effort(warm.grid.cells()).nodes == prompts + 5 * once


def test_a_part_of_a_sample_has_the_leaders_of_its_followers(path):
    cells, workers, threads = calibration._chosen(Asked.of(grid(model=path, **MIXED)))
    assert set(cells) == set(grid(model=path, **MIXED).cells())
    seen = set()
    for cell in cells:
        seen.add(cell)
        assert cell.leader is None or cell.leader in seen
    assert workers >= 1
    assert threads == 1  # of a model as small as this one


def test_a_sample_is_small_and_from_all_over_the_grid(path):
    many = {"a": [f"the cat {i}" for i in range(100)]}
    cells, _, _ = calibration._chosen(Asked.of(grid(model=path, prompts=many)))
    assert len(cells) == calibration.MOST_CELLS
    places = sorted({int(cell.prompt.split()[-1]) for cell in cells})
    assert places[0] < 25
    assert places[-1] >= 75


def test_what_a_worker_is_given_for_a_sample_is_whole_prompts_with_all_modes(path):
    many = {"a": [f"the cat {i}" for i in range(9)]}
    for seeds, modes in ((1, ["single"]), (5, ["isolated", "visible"]), (60, ["isolated", "visible"])):
        asked = grid(model=path, prompts=many, seeds=list(range(seeds)), modes=modes, threshold=[0.1, 0.2])
        part = calibration._part(asked)
        assert set(part.cells()) <= set(asked.cells())
        assert (part.modes, part.axes) == (asked.modes, asked.axes)
        assert min(18, calibration.MOST_CELLS // 2) <= len(part.cells()) <= calibration.MOST_CELLS


def test_short_samples_have_a_quarter_of_the_sets_and_few(path):
    for sets, short in ((2, 1), (10, 2), (400, calibration.SHORT)):
        cells = grid(model=path, max_tokens=sets).cells()
        assert {cell.max_tokens for cell in calibration._cut(cells, True)} == {short}
        assert calibration._cut(cells, False) == list(cells)


def test_calibrations_of_several_models_lie_side_by_side():
    keep(PLANTED)
    keep(replace(PLANTED, grid="another"), "b" * 64)
    keep(replace(PLANTED, cells=9))
    assert last("a" * 64) == replace(PLANTED, cells=9)
    assert last("b" * 64) == replace(PLANTED, grid="another")


def test_another_host_has_to_measure_for_itself(monkeypatch):
    keep(PLANTED)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert last("a" * 64) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:40],
        lambda text: "[1, 2]",
        lambda text: text.replace("0.01", '"much"'),
        lambda text: text.replace("0.01", "NaN"),
        lambda text: text.replace("0.01", "-1"),
        lambda text: text.replace("per_pass", "per_step"),
        lambda text: json.dumps(dict.fromkeys(json.loads(text), "what?")),
        lambda text: text + "\udcff",
    ],
)
def test_a_damaged_file_means_unknown_and_is_mended_by_the_next_calibration(cache, damage):
    keep(PLANTED)
    file = cache / calibration.FILE
    file.write_bytes(damage(file.read_text("utf-8")).encode("utf-8", "surrogateescape"))
    assert last("a" * 64) is None
    assert keep(PLANTED) == []
    assert last("a" * 64) == PLANTED
    assert [each.name for each in cache.iterdir()] == [calibration.FILE]


def test_a_cache_that_cannot_be_written_is_told_of_and_costs_nothing_else(cache):
    cache.write_text("a file where the folder should be")
    (line,) = keep(PLANTED)
    assert "cannot be kept" in line
    assert last("a" * 64) is None


def test_seconds_are_the_sum_of_what_each_thing_takes():
    effort = Effort(11, 300, 20, 60, 5e6)
    assert PLANTED.seconds(effort) == pytest.approx(0.11 + 0.15 + 0.02 + 0.12 + 0.015)
    assert PLANTED.seconds(effort + effort) == pytest.approx(2 * PLANTED.seconds(effort))
    assert all(math.isfinite(each) for each in astuple(effort))


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_loaded(path):
    with pytest.raises(BadInput, match="positions"):
        calibrate(Grid.from_dict({"model": path, "prompts": {"a": ["the cat " * 400]}}))
