"""What the page tells in each of its parts, ready to be arranged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...dataset.schema import TREATMENT_CHECKS
from ...words import how_many
from ..axes import Row
from ..gate import Check, Status
from ..questions import Answer
from ..study import LOGS
from ..titles import title
from .cells import Table, chance, exact, interval, mark, number, table
from .limits import would_change
from .questions import facts, tables
from .used import used

if TYPE_CHECKING:
    from ..report import Report

__all__ = [
    *(
        "Listed",
        "Section",
        "Told",
        "categories",
        "checks",
        "effective",
        "experiments",
        "gate_line",
        "gate_table",
    ),
    *("checks_frame", "headline", "is_logs", "sections", "summary", "swept", "worst"),
]

WORDS: Mapping[Status, str] = {"pass": "holds", "suspect": "look", "fail": "FAILED"}
UNITS = {"downweighting": "log of a ratio", "width": "tokens a set", "entropy": "nat"}
MEANINGS = {
    "rows_sum": "each row of attention sums to 1",
    "isolation": "pairs that visibility hides have a weight of exactly 0",
    "sight": "siblings that may be seen are given weight",
    "cache": "the cache holds what the sets say, no more and no less",
    "positions": "tokens of a set share one position, sets follow each other",
    "distinct_keys": "siblings of different tokens have different keys",
    "finite": "no number is infinite or missing",
    "width": "mode single takes one token a step",
}


@dataclass(frozen=True, slots=True)
class Told:
    """A line of the summary: keys of the answers it is about, their names, and what is said of them."""

    keys: tuple[str, ...]
    names: tuple[str, ...]
    sentence: str
    tested: bool


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """One answer in full."""

    key: str
    title: str
    question: str
    sentence: str
    tested: bool
    facts: Sequence[tuple[str, str]]
    tables: Sequence[Table]
    method: str
    family: str
    change: str
    pictures: Sequence[Any]
    controls: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """One of the five experiments of the seeds."""

    name: str
    title: str
    question: str
    outcome: str
    tables: Sequence[Table]
    not_measured: Sequence[str]
    listing: Sequence[str]


def is_logs(report: "Report") -> bool:
    """Whether the response is the log of a ratio."""
    return report.source["response"] in LOGS


def headline(report: "Report") -> str:
    """What was run, in a line."""
    of = report.answers.design
    parts = (
        f"{of['done']:,} of {how_many(of['cells'], 'experiment')}",
        how_many(of["distinct_captures"], "distinct capture"),
        f"{how_many(of['prompts'], 'prompt')} in {categories(of['categories'])}",
        how_many(of["seeds"], "seed"),
        f"mode{'s' * (len(of['modes']) != 1)} {', '.join(of['modes'])}",
        *(f"at {axis} = {value}" for axis, value in report.at.items()),
    )
    return " · ".join(parts)


def categories(count: int) -> str:
    """`1 category`, `5 categories`."""
    return f"{count:,} categor{'y' if count == 1 else 'ies'}"


def gate_line(report: "Report") -> str:
    """How many checks hold, and which do not."""
    found = report.answers.gate
    told = f"{sum(check.status == 'pass' for check in found)} of {how_many(len(found), 'check')} hold"
    for status, word in (("fail", "FAILED"), ("suspect", "to look at")):
        names = [check.check for check in found if check.status == status]
        told += f"; {word}: {', '.join(names)}" if names else ""
    return told


def worst(found: Sequence[Check]) -> Status:
    """The worst status of all checks."""
    there = {check.status for check in found}
    return "fail" if "fail" in there else "suspect" if "suspect" in there else "pass"


def summary(report: "Report") -> list[Told]:
    """A line an answer, then those without one by the reason why."""
    reasons: dict[str, list[str]] = {}
    told = []
    for key, found in report.answers.answers.items():
        if found.not_tested is None:
            said = " ".join((found.sentence, *(f"Control: {each}" for each in controls(found))))
            told.append(Told((key,), (title(key, report.source["response"])[0],), said, True))
        else:
            reasons.setdefault(found.not_tested, []).append(key)
    for reason, keys in reasons.items():
        names = tuple(title(key, report.source["response"])[0] for key in keys)
        told.append(Told(tuple(keys), names, f"Not tested: {reason}.", False))
    return told


def controls(found: Answer) -> list[str]:
    """What must be known beside an answer, in sentences."""
    beside = (found.details.get(name) or {} for name in ("placebo", "single_baseline"))
    return [each["sentence"].removeprefix("Control: ") for each in beside if each.get("sentence")]


def sections(report: "Report", pictures: Sequence[Any]) -> list[Section]:
    """Every answer with its figures, tables, method, and what would change it."""
    logs = is_logs(report)
    made = []
    for key, found in report.answers.answers.items():
        name, question = title(key, report.source["response"])
        tested = found.not_tested is None
        made.append(
            Section(
                key,
                name,
                question,
                found.sentence,
                tested,
                facts(key, found, logs),
                tables(key, found, logs),
                found.method,
                str(found.details.get("family", "")),
                would_change(key, report.answers, logs),
                [picture for picture in pictures if picture.answer == key],
                controls(found),
            )
        )
    return made


def gate_table(report: "Report") -> Table | None:
    """Each check with its status in words."""
    rows = [
        [check.check, mark(check.status, WORDS[check.status]), check.detail] for check in report.answers.gate
    ]
    return table("Checks before any test", ("check", "status", "what was seen"), rows)


def checks(report: "Report") -> Table | None:
    """How often each treatment check held, on the tensors that the model used."""
    attrs = report.part.frame.attrs
    told: Mapping[str, Mapping[str, int]] = attrs.get("checks") or {}
    rows = []
    for name in [*(name for name in TREATMENT_CHECKS if name in told), *(set(told) - set(TREATMENT_CHECKS))]:
        held, failed = told[name].get("pass", 0), told[name].get("fail", 0)
        status: Status | None = "fail" if failed else "pass" if held else None
        word = "FAILED" if failed else "holds" if held else "does not apply"
        rows.append([name, mark(status, word), exact(held), exact(failed), MEANINGS.get(name, "")])
    return table(
        "Treatment checks, made on the model's own tensors while it ran: in all captured experiments of the "
        "cube, at every value of swept options",
        ("check", "status", "holds in", "fails in", "what it asks"),
        rows,
    )


def checks_frame(report: "Report") -> pd.DataFrame | None:
    """How often each treatment check held, for other programs."""
    told: Mapping[str, Mapping[str, int]] = report.part.frame.attrs.get("checks") or {}
    rows = [
        {"check": name, "holds": told[name].get("pass", 0), "fails": told[name].get("fail", 0)}
        for name in told
    ]
    return pd.DataFrame(rows) if rows else None


def effective(report: "Report") -> list[str]:
    """How much the experiments are worth, when they are not independent."""
    of, found = used(report), report.answers.answers
    n = of.prompts
    told = [
        f"The unit is the prompt: of {how_many(of.done, 'experiment')} done, {of.count:,} are used, and they "
        f"are {how_many(n, 'prompt')} to every test. Layers, heads, steps and seeds of one prompt are "
        "averaged and never count as independent.",
        *(f"{left[0].upper()}{left[1:]}." for left in of.left),
    ]
    variance = found.get("prompt_variance")
    icc = variance.details.get("icc") if variance else None
    if isinstance(icc, str):
        return [*told, f"Intraclass correlation of seeds {icc}."]
    if icc is None:
        return told
    seeds = len(of.study.seeds)
    effect = 1 + (seeds - 1) * max(float(icc), 0.0)
    pairs = n * seeds
    said = (
        f"Seeds of a prompt agree with an intraclass correlation of {number(icc).text}, so the design effect "
        f"of {seeds} seeds is {number(effect).text}: {pairs:,} pairs of prompt and seed are worth "
        f"{number(pairs / effect).text} independent ones."
    )
    none = " Seeds of one prompt are no more alike than those of different prompts." if icc <= 0 else ""
    return [*told, said + none]


def swept(axis: str, at: Any, rows: Sequence[Row]) -> Table | None:
    """Every measure at every value of an axis, and its difference to the value of the answers."""
    made = [
        [
            *(
                _with_unit(row.measure),
                str(row.value),
                exact(row.n) if row.n else "",
                number(row.mean),
                interval(row.ci),
            ),
            *(exact(row.pairs) if row.pairs else "", number(row.difference), interval(row.difference_ci)),
            *(chance(row.p_holm), row.not_tested or ""),
        ]
        for row in rows
    ]
    head = (
        "measure",
        axis,
        "n",
        "mean",
        "95 % CI",
        "pairs",
        f"minus {at}",
        "95 % CI",
        "p (Holm)",
        "not tested",
    )
    kept = range(len(head) if any(row.not_tested for row in rows) else len(head) - 1)
    return table(
        f"{axis}: paired by prompt, differences to {at} over the prompts that have both",
        [head[i] for i in kept],
        [[row[i] for i in kept] for row in made],
    )


def _with_unit(measure: str) -> str:
    unit = next((unit for name, unit in UNITS.items() if measure.startswith(name)), "")
    return f"{measure} ({unit})" if unit else measure


def experiments(report: "Report") -> list[Listed]:
    """The experiments that were asked for: hypotheses, measures, and numbers over layers or steps."""
    verdicts: Mapping[str, Status] = {"supported": "pass", "confirmed": "pass", "cannot tell": "suspect"}
    made = []
    for of in report.experiments:
        claims = ("What was claimed", ("claim", "verdict", "because"))
        heading = (
            claims
            if of.name == "replication"
            else ("What was expected", ("hypothesis", "verdict", "because"))
        )
        expected = [
            [each.hypothesis, mark(verdicts.get(each.verdict, "fail"), each.verdict), each.reason]
            for each in of.hypotheses
        ]
        measured = [
            [each.name, each.text, exact(each.n) if each.n else "", each.note] for each in of.measures
        ]
        found = [
            table(*heading, expected),
            table("What was measured", ("measure", "value", "prompts", "note"), measured),
        ]
        for each in of.series:
            head = (each.over, f"{each.name}{f' ({each.unit})' if each.unit else ''}")
            values = [
                [exact(label), number(value)] for label, value in zip(each.labels, each.values, strict=True)
            ]
            found.append(table(each.name, head, values))
        kept = [each for each in found if each is not None]
        made.append(Listed(of.name, of.title, of.question, of.outcome, kept, of.not_measured, of.listing))
    return made
