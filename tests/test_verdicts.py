"""What an answer says is what its numbers say, whatever gaps, units and shapes the data have."""

import numpy as np
import pandas as pd
import pytest

from tempocube.dataset.scenarios import Design, Effects, frame
from tempocube.errors import BadInput
from tempocube.stats.answers import answer


def test_headline_interval_and_verdict_never_contradict_each_other() -> None:
    for seed in range(40):
        found = answer(frame(Design(), Effects(skewed=True, mean=-0.15), seed)).answers["downweighting"]
        out = found.ci[0] > 0 or found.ci[1] < 0
        assert (found.p < 0.05) == out, seed
        assert ("than 1x is shown" in found.sentence) == out, seed


def test_modes_that_are_missing_unevenly_are_no_effect_of_seeds() -> None:
    made = frame(Design(), Effects(mode={"visible": -0.6}), seed=1)
    last = made["seed"] == made["seed"].max()
    gaps = made[~(last & (made["mode"] == "visible"))]
    whole = answer(made).answers["seeds"]
    assert whole.p > 0.05
    assert answer(gaps).answers["seeds"].p > 0.05


def test_a_mean_of_exactly_nothing_has_no_ratio_of_tau() -> None:
    values = [-3, -2, -1, 1, 2, 3]
    rows = [
        (f"p{i}", f"c{i // 2}", s, "isolated", v + d)
        for i, v in enumerate(values)
        for s, d in ((1, 1), (2, -1))
    ]
    made = pd.DataFrame(rows, columns=["prompt", "category", "seed", "mode", "downweighting"])
    found = answer(made).answers["effect_size"]
    assert found.details["consistency"]["tau_over_mean"] is None


def test_whether_modes_agree_does_not_hang_on_the_unit() -> None:
    made = frame(Design(), Effects(), seed=1)
    small = made.assign(downweighting=made["downweighting"] * 1e-6)
    assert answer(small).answers["modes"].p == pytest.approx(answer(made).answers["modes"].p)


def test_an_infinite_slope_is_a_missing_one() -> None:
    made = frame(Design(), Effects(), seed=1).assign(slope=0.1)
    made["slope"] += np.arange(len(made)) / 1e3
    made.loc[0, "slope"] = np.inf
    assert answer(made).answers["over_steps"].n == 10


def test_what_is_no_log_of_a_ratio_is_refused() -> None:
    made = frame(Design(), Effects(), seed=1)
    with pytest.raises(BadInput, match=r"reaches 8.*: that is no log of a ratio"):
        answer(made.assign(downweighting=made["downweighting"] + 800))
    with pytest.raises(BadInput, match=r"sesoi=1e.300: that is no log of a ratio"):
        answer(made, sesoi=1e300)
