"""What becomes of the seeds' claims: from cubes that were really captured, with and without their mask."""

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runs import grid, tiny
from tempocube.capture.engine import capture
from tempocube.capture.wanted import Wanted
from tempocube.cli.experiment import lines
from tempocube.dataset.simulated import Design, Effects, cube
from tempocube.dataset.store import Driver
from tempocube.stats.replication.claims import OURS, Claim, claims
from tempocube.stats.replication.experiments import experiment
from tempocube.stats.replication.sums import QUOTED
from tempocube.stats.report import report

ROOT = Path(__file__).parent.parent
IDENTICAL, UNMASKED = "bit for bit", "Run without its mask"
FORMULA = "The ratio of mean attention"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Claim, ...]:
    """The claims against a tiny model's captures, the same without mask, and a simulated cube with a sink."""
    folder = tmp_path_factory.mktemp("cubes")
    model = tiny(folder)
    cubes = [folder / "masked.zarr", folder / "unmasked.zarr", folder / "simulated.zarr"]
    for where, control in zip(cubes, (None, "no_mask"), strict=False):
        asked = grid(control=control, replay="isolated", seeds=[1, 2])
        longest = max(len(model.prompt_tokens(text)) for text in asked.prompt_texts)
        with Driver(where, asked, model.facts, longest) as run:
            tasks = run.todo()
            wanted = Wanted.of(asked.capture, asked.storage, model.facts)
            capture(model, [task.cell for task in tasks], [task.writer() for task in tasks], wanted)
    none = {"prompt_sd": 0, "prompt_seed_sd": 0, "prompt_mode_sd": 0, "residual_sd": 0, "recency": 0}
    cube(Design(seeds=1), Effects(sink=0.5, **none), cubes[2], seed=1)
    return claims(report(cubes[0]), *cubes[1:])


def one(found: tuple[Claim, ...], part: str) -> Claim:
    return next(claim for claim in found if part in claim.claim)


@pytest.fixture(scope="module")
def page() -> Any:
    spec: Any = importlib.util.spec_from_file_location("replicate", ROOT / "docs" / "replicate.py")
    replicate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(replicate)
    return replicate


def test_identical_modes_appear_only_where_the_treatment_is_off(found: tuple[Claim, ...]) -> None:
    with_mask, without = one(found, IDENTICAL), one(found, UNMASKED)
    assert (with_mask.verdict, without.verdict) == ("refuted", "confirmed")
    assert with_mask.measured.startswith("masked.zarr ")
    assert (
        "6 of 6 pairs of modes are identical, largest difference 0, correlation 1, KL 0 nat"
        in without.measured
    )


def test_the_formula_finds_down_weighting_where_there_is_none(found: tuple[Claim, ...]) -> None:
    claim = one(found, FORMULA)
    assert claim.verdict == "refuted"
    formula, ours = (float(part.split()[0].rstrip("x,")) for part in _numbers(claim.measured))
    assert 0.3 < formula < 0.4
    assert 0.95 < ours < 1.05


def _numbers(text: str) -> tuple[str, str]:
    return text.partition("gives ")[2], text.partition("within rows ")[2]


def test_seeds_at_temperature_0_are_copies(found: tuple[Claim, ...]) -> None:
    assert "6 distinct captures among 12 experiments with 2 seeds" in one(found, "five seeds show").measured


def test_what_depends_on_their_model_is_not_decided(found: tuple[Claim, ...]) -> None:
    for part in ("mean entropy", "most probable token has", "Scenario A", "40 to 60 % less", "1.09 s"):
        assert one(found, part).verdict == "cannot tell", part


@pytest.mark.parametrize(
    ("part", "verdict", "number"),
    [
        ("about 4 times as fast", "refuted", "1.21"),
        ("225 %", "refuted", "125 %"),
        ("18 loads", "refuted", "4.5 min, 20 %"),
        ("10 tokens takes 300 MB", "refuted", "334 x 334"),
        ("100 experiments of 300 MB", "confirmed", "30 GB"),
        ("22 %", "confirmed", "22 %"),
        ("give 6.7x", "confirmed", "6.67"),
        ("5-6 hours to 2-3", "refuted", "2.13 h become 106 min = 1.77 h"),
        ("100 tokens in place of 50", "cannot tell", "1.1 times"),
        ("The bottleneck", "cannot tell", "6 % of a prompt of 4 min 15 s, and 38 %"),
        ("30 GB become", "cannot tell", "5.4x smaller"),
    ],
)
def test_arithmetic_settles_what_it_can(
    found: tuple[Claim, ...], part: str, verdict: str, number: str
) -> None:
    claim = one(found, part)
    assert claim.verdict == verdict
    assert number in claim.measured


def test_without_cubes_every_claim_still_has_a_reason_and_says_what_to_give() -> None:
    bare = claims()
    assert all(claim.reason and claim.measured for claim in bare)
    assert one(bare, UNMASKED).verdict == "cannot tell"
    assert one(bare, UNMASKED).measured == "Not measured: give a cube captured with control: no_mask."


@pytest.mark.parametrize("part", [IDENTICAL, UNMASKED, FORMULA])
def test_what_a_cube_would_decide_is_not_told_without_it(part: str) -> None:
    claim = one(claims(), part)
    assert claim.basis == "cube"
    assert (claim.verdict, claim.measured[:14]) == ("cannot tell", "Not measured: ")


def test_only_arguments_settle_anything_without_cubes() -> None:
    bare = claims()
    assert {claim.basis for claim in bare if claim.verdict != "cannot tell"} == {"argument"}
    assert all(claim.verdict != "cannot tell" for claim in bare if claim.basis == "argument")


def test_claims_are_shown_like_an_experiment(found: tuple[Claim, ...], tmp_path: Path) -> None:
    cube(Design(categories=(1,), seeds=1, steps=6, layers=1, heads=1), Effects(), tmp_path / "cube.zarr")
    told = experiment(tmp_path / "cube.zarr", "replication")
    assert {each.hypothesis for each in told.hypotheses} == {claim.claim for claim in found}
    theirs = [claim for claim in found if OURS not in claim.where]
    count = Counter(claim.verdict for claim in theirs if claim.basis == "argument")
    settled = f"{sum(count.values())} claims settled by argument or arithmetic, whatever the cube: "
    assert f"{settled}{count['refuted']} refuted, {count['confirmed']} confirmed." in told.outcome
    assert "2 claims that a cube can decide, by this one: 2 cannot be told." in told.outcome
    shown = lines(told)
    assert max(map(len, shown)) <= 100
    assert sum(line.startswith(("refuted ", "confirmed ", "cannot tell ")) for line in shown) == len(found)


def test_numbers_that_benchmarks_measured_stand_on_their_page() -> None:
    for name, quote in QUOTED:
        assert quote in (ROOT / name).read_text(), f"{name} no longer says {quote}"


def test_the_page_is_what_its_numbers_give(page: Any) -> None:
    """Otherwise: python docs/replicate.py --page."""
    assert page.PAGE.read_text() == page.render(json.loads(page.NUMBERS.read_text()))


def test_the_page_holds_every_claim_of_today(page: Any) -> None:
    """Otherwise: python docs/replicate.py."""
    kept = json.loads(page.NUMBERS.read_text())["claims"]
    assert [(claim["where"], claim["claim"]) for claim in kept] == [(c.where, c.claim) for c in claims()]
    assert [claim["claim"] for claim in kept if claim["measured"].startswith("Not measured: give")] == []
