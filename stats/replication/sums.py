"""What seeds/000 and 004 say of numbers, time and memory: settled by their own arithmetic where it can be.

Speed and storage are measured by benchmarks, whose numbers stand in the README and in docs/: they are quoted
here with the place, and a test holds each quote against its page.
"""

from ...words import how_many, in_bytes
from ..questions import number, percent
from .claim import Claim, Word
from .cubes import Cubes
from .evidence import Evidence

__all__ = ["QUOTED", "sums"]

PLAN, BATCHES = "seeds/000", "seeds/004"
PAIR_BYTES = 28 * 24 * 4  # of one query and one key, all layers and heads, float32
QUOTED = (
    ("README.md", "29.99 GB raw | 5.52 GB on disk, 5.4x smaller"),
    ("README.md", "13.8x (13.4-14.3)"),
    ("docs/scaling.md", "9.5 (6.6-10.8)"),
    ("docs/scaling.md", "11.2 (7.9-19.4)"),
)
TWO = "9.5 s (6.6-10.8) with one worker, 11.2 s (7.9-19.4) with two, on 2 cores that were busy"
SAVED, LOADS = 128 - 106, (24 - 6) * 15 / 60  # minutes saved, and those of the loads avoided


def _settled(claim: str, verdict: Word, arithmetic: str, reason: str) -> Claim:
    """A claim of seeds/004 that its own numbers decide."""
    return Claim(BATCHES, claim, verdict, f"Arithmetic: {arithmetic}.", reason, "argument")


SPEEDS = (
    Claim(
        PLAN,
        "A model kept in memory halves the time: 200 to 100 minutes (layer 1).",
        "cannot tell",
        "Not measured of their model: python benchmarks/layers.py --sample 20 compares layer 1 with layer 0, "
        "which loads for every experiment, and counts the loads, with the model in the box.",
        "It says that loading takes as long as an experiment. With the 15 s of seeds/004 and the 1 to 2 s "
        f"of seeds/003 the factor would be {number((15 + 2) / 2)} to {number((15 + 1) / 1)}: the numbers "
        "are not of one machine.",
    ),
    Claim(
        PLAN,
        "Five processes make it 3 to 5 times as fast again (layer 2).",
        "cannot tell",
        f"docs/scaling.md: seeds100-sampled takes {TWO}: no gain that could be told.",
        "It depends on cores and on the model; there were neither five cores nor a large model here.",
    ),
    Claim(
        PLAN,
        "A batched cache makes it 2 to 3 times as fast again (layer 3).",
        "cannot tell",
        "README.md, the engine: one batch of 100 is 13.8x (13.4-14.3) as fast as one by one, with the "
        "model in the box.",
        "Their layer 3 was a loop over layer 1 and could gain nothing; ours does more work a pass, on a "
        "small model.",
    ),
    Claim(
        PLAN,
        "Layers 1 and 2 together give 6.7x.",
        "confirmed",
        f"Arithmetic: 200 min / 30 min = {number(200 / 30)}.",
        "As a sum of its forecasts; the forecasts are another matter.",
        "argument",
    ),
    Claim(
        PLAN,
        "100 experiments take under 120, 30 and 15 minutes by layers 1, 2 and 3.",
        "cannot tell",
        f"docs/scaling.md: with the model in the box the whole command takes {TWO}.",
        "The targets are for a model of 3 billion parameters on a GPU, which was not run.",
    ),
)
MORE = 50 * 0.5  # seconds of 50 tokens
BATCHING = (
    _settled(
        "Batching brings the night's run from 5-6 hours to 2-3 hours.",
        "refuted",
        f"by its own sums 128 min = {number(128 / 60)} h become 106 min = {number(106 / 60)} h",
        "The page notices that its sum is not 5 to 6 hours, and keeps the headline.",
    ),
    _settled(
        "Loading the model 6 times in place of 24 makes the run about 4 times as fast.",
        "refuted",
        f"128 min / 106 min = {number(128 / 106)}",
        "Loads become four times fewer, and they are a small part of the time.",
    ),
    _settled(
        "The 22 minutes saved come mostly from the 18 loads avoided.",
        "refuted",
        f"18 loads x 15 s = {number(LOADS)} min, {percent(LOADS / SAVED)} of {SAVED} min",
        "The rest is that a prompt takes 5 (or 7) minutes in one sum and 4 (or 5) in the other.",
    ),
    _settled(
        "From 45 to 20 seconds is 225 % faster.",
        "refuted",
        f"45 / 20 = {number(45 / 20)}, which is {percent(45 / 20 - 1)} faster",
        "2.25 times as fast is 125 % faster.",
    ),
    _settled(
        "Loading the model 24 times wastes 6 minutes.",
        "confirmed",
        f"24 x 15 s = {number(24 * 15 / 60)} min",
        "If a load takes 15 s, as it says.",
    ),
    _settled(
        "7 of 32 GB are used: 22 %.",
        "confirmed",
        f"7 / 32 = {percent(7 / 32)}",
        "Of memory; it says nothing of how busy the device is.",
    ),
    Claim(
        BATCHES,
        "100 tokens in place of 50 take about the same time.",
        "cannot tell",
        f"Arithmetic: 50 more tokens of 0.5 s are {number(MORE)} s; on a prompt of 4 min that makes it "
        f"{number(1 + MORE / 240)} times as long, on 50 tokens of 0.5 s alone twice. The page itself says "
        "1.5 times.",
        "Its numbers contradict each other: 50 tokens of 0.5 s are 25 s, not 4 min.",
    ),
    Claim(
        BATCHES,
        "The bottleneck is the time of a token, not loading the model.",
        "cannot tell",
        f"Arithmetic: a load of 15 s is {percent(15 / 255)} of a prompt of 4 min 15 s, and "
        f"{percent(15 / (15 + MORE))} of one of 50 tokens of 0.5 s.",
        "Its numbers contradict each other: by one a load hardly counts, by the other it is a good third.",
    ),
    Claim(
        BATCHES,
        "Traits cannot share a run, since each needs vectors of its own.",
        "refuted",
        "By construction: a grid's capture.project takes several vectors at once (docs/engine.md, preset "
        "traits).",
        "A projection is taken of the same residual stream: more vectors need no further pass.",
        "argument",
    ),
    Claim(
        BATCHES,
        "Several instances at once do not pay on one GPU.",
        "cannot tell",
        "Not measured: there was no GPU; python benchmarks/layers.py --workers 2 compares workers on cores.",
        "It was not tried there, and not here either.",
    ),
)


def sums(cubes: Cubes) -> tuple[Claim, ...]:
    """The claims of seeds/000, then those of seeds/004."""
    plan = (
        _hundred(cubes),
        _copies(cubes),
        _per_experiment(),
        _all(),
        _compressed(),
        *SPEEDS,
        _memory(cubes),
    )
    return (*plan, *BATCHING)


def _hundred(cubes: Cubes) -> Claim:
    def say(of: Evidence) -> str:
        design = of.report.answers.design
        return f"{design['done']} of {how_many(design['cells'], 'experiment')} done"

    return Claim(
        PLAN,
        "10 prompts x 5 seeds x 2 modes are 100 experiments.",
        "confirmed",
        cubes.said(cubes.data, say, "give a cube"),
        f"10 x 5 x 2 = {10 * 5 * 2}.",
        "argument",
    )


def _copies(cubes: Cubes) -> Claim:
    def say(of: Evidence) -> str:
        design = of.report.answers.design
        return (
            f"{how_many(design['distinct_captures'], 'distinct capture')} among {design['done']} experiments "
            f"with {how_many(of.frame['seed'].nunique(), 'seed')}"
        )

    return Claim(
        PLAN,
        "A hundred experiments weigh a hundred times one: five seeds show how much randomness matters.",
        "refuted",
        cubes.said(cubes.copies, say, "give a cube with several seeds at temperature 0"),
        "Their selection is deterministic: a seed changes nothing, five seeds are five copies. And prompts "
        "are what can be counted: 10, with or without seeds.",
        "argument",
    )


def _per_experiment() -> Claim:
    side = round((300e6 / PAIR_BYTES) ** 0.5)
    small = sum(range(7, 17)) * PAIR_BYTES
    return Claim(
        PLAN,
        "The attention of one experiment of 10 tokens takes 300 MB.",
        "refuted",
        f"Arithmetic: 28 layers x 24 heads x 4 bytes are {PAIR_BYTES:,} bytes a pair of tokens. Ten rows "
        f"over 7 to 16 keys are {in_bytes(small)}; 300 MB are {side} x {side} tokens.",
        "Their own page reports 1.3 MB of attention for all experiments together.",
        "argument",
    )


def _all() -> Claim:
    return Claim(
        PLAN,
        "100 experiments of 300 MB are 30 GB.",
        "confirmed",
        "Arithmetic: 100 x 300 MB = 30 GB.",
        "If one were 300 MB.",
        "argument",
    )


def _compressed() -> Claim:
    return Claim(
        PLAN,
        "Compressed, 30 GB become about 10 GB.",
        "cannot tell",
        "README.md, storage: 29.99 GB raw of planted softmax maps, 100 x 334 slots, are 5.52 GB on disk, "
        "5.4x smaller.",
        "That holds for lossy 16-bit codes of planted maps, of whose raw bytes half are zeros that causality "
        "puts there; maps of their model were not stored.",
    )


def _memory(cubes: Cubes) -> Claim:
    def say(of: Evidence) -> str:
        workers = [row for record in of.runs for row in record.get("workers", ()) if row.get("peak_bytes")]
        most = max((float(row["peak_bytes"]) for row in workers), default=0.0)
        return f"{how_many(len(workers), 'worker')}, at most {in_bytes(most)} each" if workers else ""

    return Claim(
        PLAN,
        "Five workers of 8 GB need 40 GB.",
        "confirmed",
        cubes.said(cubes.data, say, "give a cube whose run log is there"),
        "5 x 8 GB = 40 GB: each worker holds a model of its own.",
        "argument",
    )
