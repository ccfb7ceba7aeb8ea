"""What the layer benchmark says of its samples: every arm, ratios within rounds, and the plans' targets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import layering
from common import spread
from layering import ALL, DISTINCT, FRESH, MANY, ONE, PACKED, RELOAD, by_round

Row = dict[str, Any]
Spread = Mapping[str, float]

TIMED = ("all_s", "start_s", "work_s", "end_s", "load_s", "batch_s")
COUNTED = ("loads", "passes", "nodes", "experiments", "distinct", "slots", "sampled", "workers")
HELD = ("peak_bytes", "sum_bytes", "stored_bytes")


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast an arm is as another, and what was hoped for."""

    arm: str
    over: str
    least: float | None = None
    most: float | None = None
    whose: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """The most that an arm may take for 100 experiments: minutes, or bytes of all its processes together."""

    arm: str
    name: str
    most: float
    unit: str


RATIOS = (
    Ratio(RELOAD, FRESH),
    Ratio(ONE, RELOAD),
    Ratio(ONE, FRESH, 2, None, "the plan's layer 1, and ours"),
    Ratio(MANY, ONE, 3, 5, "the plan's layer 2"),
    Ratio(PACKED, ONE),
    Ratio(ALL, PACKED),
    Ratio(ALL, MANY, 2, 3, "the plan's layer 3"),
    Ratio(PACKED, FRESH, 20, None, "ours"),
    Ratio(ALL, FRESH),
)
# They were set for a model of some billions of parameters on a laptop's GPU.
TARGETS = (
    Target(ONE, "all_s", 120, "min"),
    Target(MANY, "all_s", 30, "min"),
    Target(PACKED, "all_s", 15, "min"),
    Target(ALL, "all_s", 15, "min"),
    Target(ONE, "sum_bytes", 8, "GB"),
    Target(MANY, "sum_bytes", 40, "GB"),
    Target(PACKED, "sum_bytes", 12, "GB"),
    Target(ALL, "sum_bytes", 12, "GB"),
)
IN = {"min": 60.0, "GB": 1e9}
PLANNED = 100  # experiments


def summary(samples: Sequence[Row], cells: int) -> list[Row]:
    """A row for each arm, each ratio, each target, and what copies save."""
    names = [name for name in layering.arms(1, "auto") if by_round(samples, name)]
    rows = [arm(name, list(by_round(samples, name).values())) for name in names]
    pairs = [ratio(each, samples) for each in RATIOS if {each.arm, each.over} <= set(names)]
    held = [target(each, samples, cells) for each in TARGETS if each.arm in names]
    saved = [copies(samples)] if {PACKED, DISTINCT} <= set(names) else []
    return [*rows, *pairs, *held, *saved]


def arm(name: str, samples: Sequence[Row]) -> Row:
    """Median and range of what an arm took; counts of its first round."""
    row = {"kind": "arm", "arm": name} | {key: samples[0][key] for key in COUNTED}
    row |= {key: spread(each[key] for each in samples) for key in (*TIMED, *HELD)}
    row |= {"experiments_s": spread(done(each) / each["work_s"] for each in samples)}
    row |= {"slots_s": spread(each["slots"] * each["sampled"] / each["work_s"] for each in samples)}
    return row | {"nodes_s": spread(each["nodes"] / each["work_s"] for each in samples)}


def done(sample: Row) -> float:
    """Experiments that a sample's times stand for."""
    return float(sample["experiments"] * sample["sampled"])


def ratio(of: Ratio, samples: Sequence[Row]) -> Row:
    """Within each round: of all the time, and of the time from the first experiment to the last one's end.

    Where each experiment has its process, its start is part of the experiment.
    """
    mine, theirs = by_round(samples, of.arm), by_round(samples, of.over)
    row: Row = {"kind": "ratio", "arm": of.arm, "over": of.over, "whose": of.whose}
    row |= {"target": None if of.least is None else [of.least, of.most]}
    for clock in ("all_s", "work_s"):
        found = spread(theirs[n][clock] / mine[n][clock] for n in mine)
        row |= {clock: found, f"{clock}_verdict": "" if of.least is None else at_least(found, of.least)}
    return row


def target(of: Target, samples: Sequence[Row], cells: int) -> Row:
    """What 100 experiments take at most, held against what was hoped for; memory is what was held."""
    times = PLANNED / cells if of.name == "all_s" else 1.0
    values = (scaled(each, times) if of.name == "all_s" else each[of.name] for each in mine(samples, of.arm))
    found = spread(value / IN[of.unit] for value in values)
    about = {"kind": "target", "arm": of.arm, "name": of.name, "unit": of.unit, "most": of.most}
    return about | {"measured": found, "scaled": times != 1.0, "verdict": at_most(found, of.most)}


def mine(samples: Sequence[Row], name: str) -> Iterable[Row]:
    """An arm's samples, in the order of rounds."""
    return by_round(samples, name).values()


def scaled(sample: Row, times: float) -> float:
    """Seconds for so many times as many experiments; start and end happen once."""
    return float(sample["start_s"] + sample["work_s"] * times + sample["end_s"])


def copies(samples: Sequence[Row]) -> Row:
    """How many times as many experiments a second there are with the copies as without, within each round."""
    full, alone = by_round(samples, PACKED), by_round(samples, DISTINCT)
    faster = spread((done(full[n]) / full[n]["work_s"]) / (done(alone[n]) / alone[n]["work_s"]) for n in full)
    one, other = full[0], alone[0]
    about = {"kind": "copies", "experiments": one["experiments"], "distinct": one["distinct"]}
    return about | {"times": faster, "nodes": one["nodes"], "nodes_alone": other["nodes"]}


# --- words


def at_least(found: Spread, least: float) -> str:
    """Whether a target is reached, told only where all rounds agree."""
    if found["least"] >= least:
        return "met"
    return "missed" if found["most"] < least else "cannot tell from the range"


def at_most(found: Spread, most: float) -> str:
    """The same for what should be small."""
    if found["most"] < most:
        return "met"
    return "missed" if found["least"] >= most else "cannot tell from the range"


def times(found: Spread) -> str:
    """2.25x (2.1-2.4): never a percentage."""
    return "{median:,.3g}x ({least:,.3g}-{most:,.3g})".format(**found)


def coverage(repeats: int) -> float:
    """How often the range of so many rounds has the true median in it, whatever the distribution."""
    return 1 - 2.0 ** (1 - repeats)
