"""The tables of docs/calibration.md, made from the rates in docs/calibration.json.

python benchmarks/calibration_page.py docs/calibration.md    # after a change of words: measures nothing
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

END = "<!-- end -->"
SCENARIOS = ("A0", "A", "A15", "B", "C", "D", "E", "G", "F")


@dataclass(frozen=True, slots=True)
class Rate:
    """In what share of simulated studies a way covers or rejects; None: it refuses to answer."""

    table: str
    way: str
    scenario: str
    rate: float | None
    of: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What a rate in per cent must be, and in which scenarios."""

    low: float
    high: float
    scenarios: tuple[str, ...]

    def __str__(self) -> str:
        """Words for a table: 94-96 in A0, C, D."""
        reach = f"{self.low:g}-{self.high:g}"
        reach = f"<= {self.high:g}" if self.low == 0 else f">= {self.low:g}" if self.high == 100 else reach
        return f"{reach} in {', '.join(self.scenarios)}"

    def held(self, rate: Rate) -> bool:
        """Whether a rate is within."""
        return rate.rate is not None and self.low <= 100 * rate.rate <= self.high


@dataclass(frozen=True, slots=True)
class Way:
    """A row of a table; ours are those that tempocube answers with."""

    words: str
    mark: Mark | None = None
    ours: bool = True


def _naive(words: str) -> Way:
    return Way(words, ours=False)


_EXACT = ("A0", "C", "D")
_MODES = ("A0", "D")
_FITS = ("A", "A15", "B")
COVERS, REJECTS = Mark(94, 96, _EXACT), Mark(4, 6, _EXACT)
FEW = Mark(0, 6.5, ("A0",))

TABLES: Mapping[str, Mapping[str, Way]] = {
    "coverage": {
        "cells_z": _naive("67,200 cells, z"),
        "one_prompt": _naive("one prompt, four steps, 1.96 s / 2"),
        "experiments_t": _naive("100 experiments, t"),
        "mixedlm": _naive("statsmodels MixedLM (1\\|prompt), Wald z"),
        "bootstrap": _naive("cluster bootstrap, percentiles"),
        "mean_t": Way("prompt means, t, df 9", COVERS),
        "mean_these_categories": Way("prompt means, these categories, df 5", COVERS),
        "mean_new_categories": Way("category means, t, df 4", COVERS),
        "kenward": Way("REML, Kenward-Roger", Mark(93, 97, _FITS)),
        "prediction": Way("prediction interval (of a new prompt)", COVERS),
        "d": Way("Cohen's d (of the true d)", COVERS),
        "spread": Way("SD between prompts (of the true SD)", COVERS),
    },
    "category": {
        "cells_anova": _naive("ANOVA of 67,200 cells"),
        "experiments_anova": _naive("ANOVA of 100 experiments"),
        "mixedlm": _naive("statsmodels MixedLM (1\\|prompt), Wald chi-square"),
        "kruskal": _naive("Kruskal-Wallis on prompt means"),
        "category_f": Way("prompt means, F(4, 5)", REJECTS),
        "category_permutation": Way("prompt means, all 945 arrangements", REJECTS),
        "kenward": Way("REML, Kenward-Roger F", Mark(3, 7, _FITS)),
    },
    "mode": {
        "cells_t": _naive("t-test of 67,200 cells"),
        "experiments_unpaired_t": _naive("unpaired t-test of 100 experiments"),
        "mixedlm": _naive("statsmodels MixedLM (1\\|prompt), Wald z"),
        "mode_t": Way("paired t-test of prompt means, df 9", Mark(4, 6, _MODES)),
        "mode_sign_flip": Way("prompt means, all 1,024 sign flips", Mark(4, 6, _MODES)),
        "kenward": Way("REML, Kenward-Roger", Mark(3, 7, _FITS)),
    },
    "equivalence": {
        "tost_of_seeds_at_the_bound": _naive("prompt x seed, modes apart by the bound"),
        "tost_at_the_bound": Way("prompts, modes apart by the bound", Mark(4, 6, ("A0",))),
        "tost_of_seeds_at_no_difference": _naive("prompt x seed, no difference (power)"),
        "tost_at_no_difference": Way("prompts, no difference (power)"),
    },
    "outliers": {
        "mad_rule": _naive("MAD-median rule"),
        "boxplot": _naive("boxplot"),
        "beyond_two_sd": _naive("beyond two SD"),
        "any_outlier": Way("studentised, Bonferroni", FEW),
    },
    "shifted": {
        "mad_rule": _naive("MAD-median rule"),
        "boxplot": _naive("boxplot"),
        "beyond_two_sd": _naive("beyond two SD"),
        "any_outlier": Way("studentised, Bonferroni"),
    },
    "maps": {
        "bh_of_experiments": _naive("BH over 100 experiments"),
        "bh": Way("BH over 10 prompts", Mark(0, 6.5, ("independent", "shared"))),
        "max_t": Way("max-T over 10 prompts", Mark(0, 6.5, ("independent", "shared"))),
    },
    "answers": {
        "downweighting": Way("the mean: its interval holds the truth"),
        "generalisation": Way("the prediction interval holds a new prompt"),
        "category": Way("categories are found to differ"),
        "modes": Way("modes are found to differ"),
        "outliers": Way("some prompt is called odd"),
        "seeds": Way("seeds are found to act alike in all prompts"),
    },
}
SHIFTED = {"+3": None, "+4": Mark(50, 100, ("+4",)), "+5": None, "+6": Mark(85, 100, ("+6",))}
"""Odd prompts have marks in single columns, so they stand beside TABLES."""


def marks() -> list[tuple[str, str, Mark]]:
    """Every mark, with its table and way."""
    own = [(table, key, way.mark) for table, ways in TABLES.items() for key, way in ways.items() if way.mark]
    return own + [("shifted", "any_outlier", mark) for mark in SHIFTED.values() if mark]


def missed(rates: Iterable[Rate]) -> list[str]:
    """What is not as it must be, a line each."""
    found = {(rate.table, rate.way, rate.scenario): rate for rate in rates}
    told = []
    for table, way, mark in marks():
        for scenario in mark.scenarios:
            rate = found.get((table, way, scenario))
            if rate is None or not mark.held(rate):
                told.append(f"{table}, {way}, {scenario}: {_shown(rate) or 'not there'}, must be {mark}")
    return told


def stored(path: Path) -> tuple[dict[str, Any], list[Rate]]:
    """The run behind a page, and its rates."""
    told = json.loads(path.with_suffix(".json").read_text())
    return told["run"], [Rate(**row) for row in told["rates"]]


def page(text: str, run: Mapping[str, Any], rates: Sequence[Rate]) -> str:
    """The page with its tables, and the line that says how they were made, renewed."""
    text = _with_part(text, "run", _run(run))
    for table in TABLES:
        text = _with_part(text, table, render(table, [rate for rate in rates if rate.table == table]))
    return text


def render(table: str, rates: Sequence[Rate]) -> str:
    """One table: a row a way, a column a scenario, per cent."""
    there = {rate.scenario for rate in rates}
    columns = [name for name in SCENARIOS if name in there]
    columns += [name for name in dict.fromkeys(rate.scenario for rate in rates) if name not in columns]
    head = ["%", *columns, "studies", "MC SE", "must be"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for key, way in TABLES[table].items():
        own = {rate.scenario: rate for rate in rates if rate.way == key}
        if own:
            lines.append(f"| {' | '.join(_row(table, key, way, own, columns))} |")
    return "\n".join(lines)


def _row(table: str, key: str, way: Way, own: Mapping[str, Rate], columns: Sequence[str]) -> list[str]:
    words = f"**{way.words}**" if way.ours else way.words
    values = [_shown(own.get(name)) for name in columns]
    fewest = min(rate.of for rate in own.values())
    must = "; ".join(str(mark) for place, row, mark in marks() if (place, row) == (table, key))
    return [words, *values, f"{fewest:,}", f"{100 * math.sqrt(0.05 * 0.95 / fewest):.2f}", must]


def _shown(rate: Rate | None) -> str:
    if rate is None:
        return ""
    return "refused" if rate.rate is None else f"{100 * rate.rate:.1f}"


def _run(run: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"    {run['command']}\n\nMade with {versions}; seed {run['seed']}."


def _with_part(text: str, name: str, part: str) -> str:
    begin = f"<!-- calibration: {name} -->"
    before, mark, rest = text.partition(begin)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"the page lacks {begin} or its {END}")
    return f"{before}{begin}\n\n{part}\n\n{END}{after}"


if __name__ == "__main__":
    where = Path(sys.argv[1])
    where.write_text(page(where.read_text(), *stored(where)))
