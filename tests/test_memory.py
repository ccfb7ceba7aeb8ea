"""What a planner is told a batch needs, against what it took."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from footprint import alone, long

from tempocube.capture import model
from tempocube.capture.memory import needed, slots
from tempocube.capture.wanted import Wanted
from tempocube.dataset.grid import Grid

LONG = {"prompts": {"a": ["Once upon a time", "The scientist discovered"]}, "threshold": 0.05}


def told(prompt_tokens=8, **options):
    grid = Grid.from_dict(LONG | options)
    facts = model.facts("embedded")
    cells = grid.cells()
    return needed(facts, cells, [prompt_tokens] * len(cells), Wanted.of(grid.capture, grid.storage, facts))


@pytest.mark.slow
@pytest.mark.parametrize("capture", [{}, {"attention": False, "residual": True, "keys_values": True}])
def test_a_long_batch_stays_within_what_the_planner_was_told(capture):
    options = LONG | {"max_tokens": 160, "max_slots": 200, "max_width": 4, "capture": capture}
    took = alone(long, "embedded", options, 4, 1)
    assert took["slots"] > 150
    assert 0 < took["peak_bytes"] <= took["planned_bytes"]
    assert took["planned_bytes"] < 4 * took["peak_bytes"]  # a bound, not a guess in the clouds


def test_seeds_cost_nothing_at_temperature_0_and_everything_above():
    assert told(seeds=[1, 2, 3, 4]) == told(seeds=[1])
    assert told(seeds=[1, 2, 3, 4], temperature=0.5) > 1.5 * told(seeds=[1], temperature=0.5)


def test_what_is_not_captured_needs_no_memory():
    few = told(max_tokens=50, capture={"attention": {"layers": [0]}})
    none = told(max_tokens=50, capture={"attention": False})
    assert none < few < told(max_tokens=50) < told(max_tokens=50, capture={"residual": True})


def test_slots_are_bounded_by_width_threshold_mode_and_max_slots():
    def most(**options):
        return max(slots(cell, 8) for cell in Grid.from_dict(LONG | options).cells())

    assert most(max_tokens=10) == 8 + 10 * 16
    assert most(max_tokens=10, threshold=0.25) == 8 + 10 * 4
    assert most(max_tokens=10, threshold={"start": 0.5, "end": 0.1}) == 8 + 10 * 10
    assert most(max_tokens=10, modes=["single"]) == 18
    assert most(max_tokens=10, max_slots=40) == 40
