"""Curves follow their formulas, and every value of an axis has a label of its own."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempocube.dataset.grid import Grid
from tempocube.dataset.options import Curve, Prune, label, threshold_at
from tempocube.errors import BadInput

from . import strategies


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Curve(start=0.3, end=0.1), "linear 0.3-0.1"),
        (Curve(start=1, end=0.1, curve="bezier"), "bezier 1-0.1"),
        (Curve(start=1, end=0.1, curve="bezier", points=(0, 0.5)), "bezier 1-0.1 0,0.5"),
        (Curve(start=0.3, end=0.1, curve="relu", activation=0.25), "relu 0.3-0.1 from 0.25"),
        (Curve(start=0.3, end=0.1, curve="relu", activation=0.5), "relu 0.3-0.1"),
        (Prune(threshold=0.05), "0.05"),
        (
            Prune(threshold=0.5, relative=True, layers=(5, 3), weighting="rising"),
            "0.5 relative L3,L5 rising",
        ),
        (None, "none"),
        ((), "none"),
        (("L3H5", "L7.mlp"), "L3H5+L7.mlp"),
        ("top", "top"),
        (0.1, 0.1),
        (16, 16),
    ],
)
def test_labels_are_short_and_canonical(value: Any, text: Any) -> None:
    assert label(value) == text


@given(st.lists(strategies.curves(), min_size=2, max_size=6))
def test_different_curves_have_different_labels(written: list[dict[str, Any]]) -> None:
    curves = {Curve.model_validate(each) for each in written}
    assert len({label(curve) for curve in curves}) == len(curves)


@given(st.lists(strategies.prunes(), min_size=2, max_size=6))
def test_different_prunings_have_different_labels(written: list[dict[str, Any]]) -> None:
    prunes = {Prune.model_validate(each) for each in written}
    assert len({label(prune) for prune in prunes}) == len(prunes)


def test_each_curve_follows_its_formula() -> None:
    ends: dict[str, Any] = {"start": 0.4, "end": 0.2}
    assert threshold_at(0.1, 3, 10) == 0.1
    assert Curve(**ends).at(1, 5) == pytest.approx(0.4 - 0.2 * 0.25)
    assert Curve(**ends, curve="relu", activation=0.5).at(2, 5) == 0.4
    assert Curve(**ends, curve="relu", activation=0.5).at(3, 5) == pytest.approx(0.3)
    s = 0.25
    bezier = 3 * (1 - s) ** 2 * s * 0.1 + 3 * (1 - s) * s**2 * 0.9 + s**3
    assert Curve(**ends, curve="bezier", points=(0.1, 0.9)).at(1, 5) == pytest.approx(0.4 - 0.2 * bezier)


@given(strategies.curves(), st.integers(2, 60))
def test_a_curve_runs_from_start_to_end_and_never_turns_back(written: dict[str, Any], steps: int) -> None:
    curve = Curve.model_validate(written)
    values = [threshold_at(curve, step, steps) for step in range(steps)]
    assert (values[0], values[-1]) == (curve.start, curve.end)
    assert min(values) == curve.lowest
    sign = 1 if curve.end >= curve.start else -1
    assert all(sign * (later - earlier) >= -1e-12 for earlier, later in pairwise(values))
    assert curve.at(0, 1) == curve.start


def test_a_spelt_out_default_is_the_same_curve() -> None:
    spelt = Curve(start=0.3, end=0.1, curve="bezier", points=(0.25, 0.75))
    assert spelt == Curve(start=0.3, end=0.1, curve="bezier")


def test_neurons_without_internals_are_refused() -> None:
    with pytest.raises(BadInput, match=r"capture.neurons: without internals no neuron is kept"):
        Grid.from_dict({"prompts": ["x"], "capture": {"neurons": [1]}})
