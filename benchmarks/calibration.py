"""How often our answers are right, beside ways that are often seen: docs/calibration.md.

python benchmarks/calibration.py [--frames N] [--model-frames N] [--answer-frames N] [--seed N] [--write PAGE]
"""

import argparse
import json
import math
import platform
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import naive
import numpy as np
import numpy.typing as npt
from calibration_page import TABLES, Rate, missed, page, render

from tempocube.dataset.scenarios import SCENARIOS, Design, Effects, frame, values
from tempocube.stats import closed
from tempocube.stats.answers import answer
from tempocube.stats.calibrated import closed_form
from tempocube.stats.questions_maps import map_tests
from tempocube.stats.routes import contrast, intercept, model
from tempocube.stats.study import PAIR, read

Array = npt.NDArray[np.floating[Any]]
Found = dict[tuple[str, str], bool | None]  # (table, way): covered or rejected; None: refused
Job = Callable[[str, int], Found]

MEAN = -0.5  # the truth: a parallel token gets 0.61 times the attention of a single one
BOUND = 0.1
DESIGN = Design()
EFFECTS = {
    name: replace(effects, mean=MEAN)
    for name, effects in {
        "A0": Effects(),
        **SCENARIOS,
        "A15": replace(SCENARIOS["A"], missing=0.15),
    }.items()
}
FITTED = {"A": 1, "A15": 1, "B": 1, "C": 2, "D": 2, "E": 2, "G": 2, "F": 2}  # 2: to half as many studies
ANSWERED = {"A0": 1, "A": 1, "A15": 1, "B": 1, "D": 1, "E": 1, "G": 1}
HIDDEN = {("mode", "C"), ("equivalence", "C"), ("equivalence", "F"), ("coverage", "F")}  # nothing to be told
FAR_APART = 1_000_003  # seeds of runs, so that no two share a study
MAPS, MAP_SHAPE = ("independent", "shared"), (28, 24)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the page; 1 if a rate of ours is not as it must be."""
    asked = _arguments(words)
    rates = list(measure(asked))
    for table in TABLES:
        print(f"\n{table}\n" + render(table, [rate for rate in rates if rate.table == table]))
    if asked.write:
        _write(asked.write, asked, rates)
    lines = missed(rates)
    print("\n" + ("\n".join(lines) or "every rate of ours is as it must be"))
    return 1 if lines else 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How often the answers are right.")
    parser.add_argument("--frames", type=int, default=20_000, help="studies for closed forms")
    parser.add_argument("--model-frames", type=int, default=500, help="studies that models are fitted to")
    parser.add_argument("--answer-frames", type=int, default=300, help="studies answered from end to end")
    parser.add_argument("--processes", type=int, default=2, help="for models and whole answers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="the page to renew, and beside it its numbers as .json")
    asked = parser.parse_args(words)
    if min(asked.frames, asked.model_frames, asked.answer_frames) < 2 or asked.processes < 1:
        parser.error("--frames, --model-frames and --answer-frames must be at least 2, --processes 1")
    if asked.write and not asked.write.is_file():
        parser.error(f"--write {asked.write}: no such page")
    return asked


def measure(asked: argparse.Namespace) -> Iterator[Rate]:
    """Every rate, from fixed seeds."""
    for name in EFFECTS:
        if name != "A15":
            yield from closed_forms(name, asked.frames, asked.seed)
    yield from odd_prompts(asked.frames, asked.seed)
    yield from of_maps(max(2, asked.frames // 10), asked.seed)
    yield from _each(fitted, FITTED, asked.model_frames, asked)
    yield from _each(answered, ANSWERED, asked.answer_frames, asked)


def closed_forms(name: str, frames: int, seed: int) -> Iterator[Rate]:
    """All that can be computed of thousands of studies at once."""
    effects, codes = EFFECTS[name], DESIGN.category_of
    y, random = values(DESIGN, effects, frames, seed), np.random.default_rng([seed, 1])
    told: dict[str, dict[str, float]] = {table: {} for table in TABLES}
    for way, rate in closed_form(y, codes, mean=MEAN, spread=_spread(name), bound=BOUND).items():
        for table, ways in TABLES.items():
            if way in ways and table not in ("answers", "shifted"):
                told[table][way] = rate
    told["coverage"] |= naive.coverage(y, MEAN, random)
    told["category"] |= naive.category(y, codes, random)
    told["mode"] |= naive.mode(y, random)
    told["equivalence"] |= naive.equivalence(y, BOUND)
    flags = naive.outliers(closed.prompt_means(y))
    told["outliers"] |= {rule: float(np.mean(odd.any(axis=1))) for rule, odd in flags.items()}
    for table, rates in told.items():
        if (table, name) not in HIDDEN:
            yield from (Rate(table, way, name, rate, frames) for way, rate in rates.items())


def _spread(name: str) -> float | None:
    """The true SD of prompt means; None where categories are part of it."""
    effects = EFFECTS[name]
    if effects.category or effects.category_sd:
        return None
    seeds = 1 if effects.same_seeds else DESIGN.seeds
    modes = 1 if effects.same_modes else len(DESIGN.modes)
    return math.sqrt(
        effects.prompt_sd**2
        + effects.prompt_seed_sd**2 / seeds
        + effects.prompt_mode_sd**2 / modes
        + effects.residual_sd**2 / (seeds * modes)
    )


def odd_prompts(frames: int, seed: int) -> Iterator[Rate]:
    """How often one odd prompt is found, its shift counted in SDs of prompt means."""
    effects, spread = EFFECTS["A0"], _spread("A0")
    for shift in (3, 4, 5, 6):
        own = replace(effects, outlier=(3, shift * (spread or 0) / effects.prompt_sd))
        x = closed.prompt_means(values(DESIGN, own, frames, seed))
        flags = naive.outliers(x) | {"any_outlier": closed.studentised(x)[1] < 0.05}
        for rule, odd in flags.items():
            yield Rate("shifted", rule, f"+{shift}", float(np.mean(odd[:, 3])), frames)


def of_maps(frames: int, seed: int) -> Iterator[Rate]:
    """How often any of 672 layers x heads without an effect is found; a tenth for the slow wrong way."""
    for shared, name in enumerate(MAPS):
        random = np.random.default_rng([seed, 2, shared])
        made = [map_tests(_map(random, shared)) for _ in range(frames)]
        for way, key in (("bh", "q"), ("max_t", "p_max_t")):
            yield Rate("maps", way, name, float(np.mean([told[key].min() < 0.05 for told in made])), frames)
        few = max(2, frames // 10)
        wrong = [_of_experiments(random, shared) for _ in range(few)]
        yield Rate("maps", "bh_of_experiments", name, float(np.mean(wrong)), few)


def _map(random: np.random.Generator, shared: int) -> Array:
    """(prompts, layer, head) SD .25 a cell, and as much for each prompt where that is shared."""
    prompts = DESIGN.shape[0]
    return np.asarray(
        0.25 * random.standard_normal((prompts, *MAP_SHAPE))
        + shared * 0.25 * random.standard_normal((prompts, 1, 1))
    )


def _of_experiments(random: np.random.Generator, shared: int) -> bool:
    """The 10 experiments of each prompt as if they were prompts of their own."""
    each = DESIGN.seeds * len(DESIGN.modes)
    x = np.repeat(_map(random, shared).reshape(DESIGN.shape[0], -1), each, axis=0)
    p = np.sort(closed.mean((x + 0.15 * random.standard_normal(x.shape)).T).p)
    return bool(np.any(p <= 0.05 * np.arange(1, len(p) + 1) / len(p)))


def _each(job: Job, parts: Mapping[str, int], frames: int, asked: argparse.Namespace) -> Iterator[Rate]:
    """A job for every study of every scenario."""
    with ExitStack() as stack:
        run: Callable[..., Iterator[Found]] = map
        if asked.processes > 1:
            pool = ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn"))
            run = partial(stack.enter_context(pool).map, chunksize=5)
        for name, part in parts.items():
            seeds = [asked.seed * FAR_APART + i for i in range(max(2, frames // part))]
            yield from _rates(name, list(run(job, [name] * len(seeds), seeds)))
            print(f"{name}: {len(seeds)} studies one by one", file=sys.stderr, flush=True)


def _rates(name: str, found: Sequence[Found]) -> Iterator[Rate]:
    told: dict[tuple[str, str], list[bool | None]] = defaultdict(list)
    for one in found:
        for key, value in one.items():
            told[key].append(value)
    for (table, way), every in told.items():
        if (table, name) in HIDDEN:
            continue
        known = [value for value in every if value is not None]
        yield Rate(table, way, name, sum(known) / len(known) if known else None, len(known) or len(every))


def fitted(name: str, seed: int) -> Found:
    """Statsmodels' mixed model and ours on one study."""
    made = frame(DESIGN, EFFECTS[name], seed)
    study = read(made)
    told = naive.mixed_model(made.rename(columns={"downweighting": "y"}), MEAN)
    found: Found = {(table, "mixedlm"): value for table, value in told.items()}
    of_mean, of_category = model(study, crossed=True), model(study, crossed=True, category=True)
    if isinstance(of_mean, str) or isinstance(of_category, str):
        return found | {(table, "kenward"): None for table in ("coverage", "category", "mode")}
    mean, apart = intercept(of_mean), contrast(of_mean, *PAIR)
    tests = of_category.anova
    p = float(tests[tests["term"] == "category"].iloc[0]["p"])
    return found | {
        ("coverage", "kenward"): bool(mean.low <= MEAN <= mean.high),
        ("category", "kenward"): p < 0.05,
        ("mode", "kenward"): None if apart is None else bool(apart.p < 0.05),
    }


def answered(name: str, seed: int) -> Found:
    """What `answer` tells of one study, from the gate to the interval that is printed."""
    effects = EFFECTS[name]
    told = answer(frame(DESIGN, effects, seed), seed=seed).answers
    new = float(values(DESIGN, replace(effects, missing=0), 2, seed)[1, 0].mean())
    found: Found = {
        ("answers", key): _below(told[key].p) for key in ("category", "modes", "outliers", "seeds")
    }
    for key, truth in (("downweighting", MEAN), ("generalisation", new)):
        ci = told[key].ci
        found["answers", key] = None if ci is None else ci[0] <= truth <= ci[1]
    return found


def _below(p: float | None) -> bool | None:
    return None if p is None else p < 0.05


def _write(path: Path, asked: argparse.Namespace, rates: Sequence[Rate]) -> None:
    names = ("numpy", "scipy", "statsmodels")
    counts = (
        f"--frames {asked.frames} --model-frames {asked.model_frames} --answer-frames {asked.answer_frames}"
    )
    run = {
        "command": f"python benchmarks/calibration.py {counts} --seed {asked.seed} --write docs/{path.name}",
        "seed": asked.seed,
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in names},
    }
    rows = ",\n".join(json.dumps(asdict(rate)) for rate in rates)
    path.with_suffix(".json").write_text(f'{{"run": {json.dumps(run)},\n"rates": [\n{rows}\n]}}\n')
    path.write_text(page(path.read_text(), run, rates))


if __name__ == "__main__":
    sys.exit(main())
