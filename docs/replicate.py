"""python docs/replicate.py: captures the five experiments and their controls, writes docs/replication.md.

All captures are real ones of the model in the box, in a temporary folder; about two minutes on 2 cores.
What was found is kept in docs/replication.json; `--page` writes the page from it, captures nothing.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import tempocube as tc

HERE = Path(__file__).parent
NUMBERS, PAGE = HERE / "replication.json", HERE / "replication.md"
PRESETS = ("exp1", "exp2", "exp3", "exp4", "exp5")
EVERYTHING = {"attention": {"layers": "all", "heads": "all", "queries": "all"}, "logits": True}
EXACT = {"attention": "float32", "logits": "float32"}
TEN = {"prompts": tc.Grid.load("seeds100").to_dict()["prompts"], "seeds": [42], "max_tokens": 10}
FORCED = {**TEN, "replay": "isolated", "threshold": 0.1, "capture": EVERYTHING, "storage": EXACT}
GRIDS: Mapping[str, tuple[Any, Mapping[str, Any], str]] = {
    **{name: (name, {}, f"preset {name}: one prompt") for name in PRESETS},
    "forced": (FORCED, {}, "ten prompts, temperature 0, visible fed along isolated's sets, stored exactly"),
    "no_mask": (FORCED | {"control": "no_mask"}, {}, "the same with the mask left out on purpose"),
    "wide": (
        TEN | {"threshold": 0.01, "max_width": 100, "capture": EVERYTHING},
        {},
        "ten prompts, threshold 0.01",
    ),
    "seeds100": ("seeds100", {}, "preset seeds100: ten prompts, five seeds, temperature 0"),
    "sampled": (
        "seeds100-sampled",
        {"batch_size": 1},
        "preset seeds100-sampled, temperature 0.7, each alone",
    ),
}
SIMULATED = "no model: ten prompts, attention with a sink at key 0 and no effect of being parallel"
TITLES = {
    "seeds/003": "What seeds/003 found",
    "the 40-60": "The 40 to 60 %",
    "seeds/000": "What seeds/000 planned",
}
HEAD = """# What became of the claims

tempocube grew out of five documents: a plan to scale a study up (seeds/000), the design of five experiments
(001), tools (002), findings (003) and a note on speed (004). Here is each claim of theirs about the world,
what we measured, and the verdict: {count}. One entry is our explanation of a finding and is not counted.

Theirs is a model of 3 billion parameters, ours the one in the box with 5.5 million. Each verdict says what it
rests on: an *argument* (arithmetic, their own pages, their code, how a softmax works) settles a claim,
whatever is measured; a *cube* decides by what was measured here; what depends on *their model* is not settled
and says *cannot tell*, with our measurement beside it. Intervals are over prompts, and cut where no value can
lie. Seconds are of a machine that other jobs used as well.

```sh
python docs/replicate.py                                # captures everything, writes this page
tempo-stats report exp1.zarr --experiment exp1          # the same of a cube of yours: exp1 ... exp5
tempo-stats report exp1.zarr --experiment replication   # the claims, held against it
```

This run captured for {capturing} s and took {all} s in all, on {cores} cores."""
WORDS = ("refuted", "cannot tell", "confirmed")
BASIS = {"argument": " (by argument)", "cube": " (by the cubes captured here)"}


def main() -> None:
    """Capture and measure, unless only the page is asked for; then write the page."""
    if "--page" not in sys.argv:
        with tempfile.TemporaryDirectory() as folder:
            NUMBERS.write_text(json.dumps(measured(Path(folder)), indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(render(json.loads(NUMBERS.read_text())))


def measured(folder: Path) -> dict[str, Any]:
    """Every cube captured, every experiment and every claim held against them."""
    from tempocube.stats.replication.claims import claims
    from tempocube.stats.replication.experiments import experiment
    from tempocube.stats.report import report

    began = time.perf_counter()
    cubes = captured(folder)
    took = time.perf_counter() - began
    reports = {name: report(where) for name, where in cubes.items()}
    told(began, "reports are made")
    found = {name: experiment(None, name, reports[name]).to_dict() for name in PRESETS}
    wider = {"exp1": "forced", "exp2": "forced", "exp3": "sampled", "exp4": "sampled", "exp5": "wide"}
    many = {name: experiment(None, name, reports[cube]).outcome for name, cube in wider.items()}
    told(began, "experiments are measured")
    listed = [claim.to_dict() for claim in claims(*reports.values())]
    told(began, "claims are held against them")
    return {
        "cores": os.cpu_count(),
        "seconds": {"capturing": round(took), "all": round(time.perf_counter() - began)},
        "cubes": {name: what for name, (_, _, what) in GRIDS.items()} | {"simulated": SIMULATED},
        "experiments": found,
        "more_prompts": {name: {"cube": wider[name], "outcome": many[name]} for name in many},
        "claims": listed,
    }


def captured(folder: Path) -> dict[str, str]:
    """Where each cube lies; one worker keeps its model for all of them."""
    from dask.distributed import LocalCluster

    began, cubes = time.perf_counter(), {}
    with LocalCluster(n_workers=1, threads_per_worker=1, memory_limit=0, dashboard_address=None) as cluster:
        for name, (grid, options, _) in GRIDS.items():
            asked = tc.Grid.load(grid) if isinstance(grid, str) else tc.Grid.from_dict(grid)
            cubes[name] = str(folder / f"{name}.zarr")
            tc.run(asked, cubes[name], scheduler=cluster.scheduler_address, progress=None, **options)
            told(began, f"{name} is captured")
    sim = tc.dataset.simulated
    none = {
        "prompt_sd": 0,
        "prompt_seed_sd": 0,
        "prompt_mode_sd": 0,
        "residual_sd": 0,
        "recency": 0,
        "sink": 0.5,
    }
    cubes["simulated"] = str(folder / "simulated.zarr")
    sim.cube(sim.Design(seeds=2), sim.Effects(**none), cubes["simulated"], seed=1)
    return cubes


def told(began: float, what: str) -> None:
    """A line, so that one sees it going on."""
    print(f"{time.perf_counter() - began:5.0f} s: {what}", flush=True)


def render(numbers: Mapping[str, Any]) -> str:
    """The page of what was measured."""
    lines = [*_head(numbers), *_claims(numbers["claims"]), "", "## The five experiments"]
    for name, found in numbers["experiments"].items():
        lines += _experiment(found, numbers["more_prompts"][name])
    lines += ["", "## The cubes", "", "| cube | what |", "|---|---|"]
    lines += [f"| `{name}.zarr` | {what} |" for name, what in numbers["cubes"].items()]
    return "\n".join(lines) + "\n"


def _head(numbers: Mapping[str, Any]) -> list[str]:
    claims, took = numbers["claims"], numbers["seconds"]
    theirs = [claim["verdict"] for claim in claims if "our explanation" not in claim["where"]]
    count = {word: theirs.count(word) for word in WORDS}
    return HEAD.format(
        count=", ".join(f"{n} {word}" for word, n in count.items()),
        capturing=took["capturing"],
        all=took["all"],
        cores=numbers["cores"],
    ).splitlines()


def _claims(claims: Sequence[Mapping[str, str]]) -> list[str]:
    lines: list[str] = []
    for title, group in groupby(claims, key=_section):
        lines += ["", f"## {title}"]
        for claim in group:
            by = BASIS[claim["basis"]] if claim["verdict"] != "cannot tell" else ""
            lines += ["", f"**{claim['verdict'].capitalize()}**{by}: {claim['claim']} ({claim['where']})", ""]
            lines += [f"- Measured: {claim['measured']}", f"- Reason: {claim['reason']}"]
    return lines


def _section(claim: Mapping[str, str]) -> str:
    named = (title for start, title in TITLES.items() if claim["where"].startswith(start))
    return next(named, "What seeds/004 says of speed")


def _experiment(found: Mapping[str, Any], more: Mapping[str, str]) -> list[str]:
    lines = [
        "",
        f"### {found['name']}: {found['title']}",
        "",
        f"{found['question']} {found['outcome']}",
        "",
    ]
    lines += [
        f"- *{each['verdict']}*: {each['hypothesis']} {_sentence(each['reason'])}"
        for each in found["hypotheses"]
    ]
    lines += ["", f"Over more prompts (`{more['cube']}.zarr`): {more['outcome']}", ""]
    lines += ["| measure | value | note |", "|---|---|---|"]
    lines += [
        f"| {each['name'].strip()} | {each['text']} | {each['note']} |".replace("||", "\\|\\|")
        for each in found["measures"]
    ]
    for each in found["series"]:
        points = zip(each["labels"], each["values"], strict=True)
        shown = ", ".join(
            f"{label}: {'none' if value is None else f'{value:.3g}'}" for label, value in points
        )
        lines += ["", f"{each['name'].capitalize() if each['name'].islower() else each['name']}: {shown}."]
    if found["listing"]:
        lines += ["", "```", *found["listing"], "```"]
    return lines


def _sentence(text: str) -> str:
    """With a capital and one full stop."""
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


if __name__ == "__main__":
    main()
