"""Answers as text that fits a terminal: first what was found, then what it rests on."""

import math
from collections.abc import Iterable, Iterator, Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ..words import how_many

if TYPE_CHECKING:
    from ..stats.axes import Row
    from ..stats.report import Report

WIDTH = 100
INDENT = 19
UNITS = {"downweighting": "log of a ratio", "width": "tokens a set", "entropy": "nat", "log(1 + KL)": "nat"}
SAID = {
    "downweighting_per_set": "the attention of a whole set over that of a single token",
    "legacy_ratio": "the formula of earlier code, which an attention sink alone brings to 0.35",
}


def lines(report: "Report") -> list[str]:
    """The summary: design, gate, a sentence per answer, the verdict, a table per axis."""
    found = report.answers
    told = [*_design(report), *_gate(report), ""]
    if found.control:
        told += entry("control", found.control["sentence"])
    for key, value in found.answers.items():
        if value.not_tested is None:
            told += entry(_title(key, report), value.sentence)
            told += _beside(value.details) if key == "downweighting" else []
    told += _untested(report)
    told += [
        "",
        *entry("scenario", found.scenario.sentence),
        *entry("default mode", found.scenario.recommendation),
    ]
    for axis, rows in report.axes.items():
        told += ["", *_axis(axis, report.at[axis], rows)]
    return told


def _title(key: str, report: "Report") -> str:
    from ..stats.titles import TITLES, title

    name = title(key, report.source["response"])[0]
    return name.lower() if name == TITLES[key] else name


def _beside(details: Mapping[str, Any]) -> list[str]:
    """What must be known beside the headline: each mode by itself, the controls, the formula of before."""
    logs = details.get("scale") == "log"
    modes = {name: of for name, of in (details.get("by_mode") or {}).items() if of}
    told = [f"{name} {_estimate(of, logs)}" for name, of in modes.items() if len(modes) > 1]
    lines = entry("  by mode", "; ".join(told)) if told else []
    for name in ("single_baseline", "placebo"):
        if name in details:
            lines += entry("  control", details[name]["sentence"].removeprefix("Control: "))
    for name, title in (("downweighting_per_set", "  by set"), ("legacy_ratio", "  legacy")):
        if name in details:
            lines += entry(title, f"{_estimate(details[name], name != 'legacy_ratio')}: {SAID[name]}")
    return lines


def _estimate(of: Mapping[str, Any], logs: bool) -> str:
    """A mean and its interval over prompts, as a ratio where it is the log of one."""
    from ..stats.questions import between, number, ratio

    ends = (of["estimate"], of["low"], of["high"])
    mean, low, high = map(math.exp, ends) if logs else ends
    return f"{ratio(mean) if logs else number(mean)} ({between(low, high)})"


def _untested(report: "Report") -> list[str]:
    """What has no answer, by the reason why."""
    reasons: dict[str, list[str]] = {}
    for key, value in report.answers.answers.items():
        if value.not_tested is not None:
            reasons.setdefault(value.not_tested, []).append(_title(key, report))
    told = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return [line for text in told for line in entry("not tested", text)]


def _design(report: "Report") -> list[str]:
    of = report.answers.design
    parts = (
        how_many(of["prompts"], "prompt"),
        f"{of['categories']} categor{'y' if of['categories'] == 1 else 'ies'}",
        how_many(of["seeds"], "seed"),
        f"mode{'s' * (len(of['modes']) != 1)} {', '.join(of['modes'])}",
    )
    told = f"{of['done']} of {how_many(of['cells'], 'experiment')}: {', '.join(parts)}"
    at = ", ".join(f"{axis} = {value}" for axis, value in report.at.items())
    return [
        *entry(report.source["name"], f"{told}; {how_many(of['distinct_captures'], 'distinct capture')}"),
        *(entry("answers at", at) if at else ()),
    ]


def _gate(report: "Report") -> list[str]:
    """One line, and one for each check that does not simply hold."""
    checks = report.answers.gate
    count = {
        status: sum(check.status == status for check in checks) for status in ("pass", "fail", "suspect")
    }
    told = [f"{count['pass']} of {how_many(len(checks), 'check')} hold"]
    told += [
        f"{count[status]} {word}"
        for status, word in (("fail", "FAILED"), ("suspect", "to look at"))
        if count[status]
    ]
    shown = entry("gate", ", ".join(told))
    for check in checks:
        if check.status != "pass":
            word = {"fail": "FAILED", "suspect": "look"}[check.status]
            shown += entry(f"  {word}", f"{check.check}: {check.detail}")
    details = {check.detail for check in checks}
    own = [warning for warning in report.answers.warnings if warning not in details]
    return shown + [line for warning in own for line in entry("  note", warning)]


def entry(title: str, text: str) -> list[str]:
    """A title in the margin and its text beside it; a long title has a line of its own."""
    body = wrap(text, WIDTH - INDENT, break_long_words=False) or [""]
    if len(title) >= INDENT:
        return [title, *(" " * INDENT + line for line in body)]
    first, *rest = body
    return [f"{title:{INDENT}}{first}", *(" " * INDENT + line for line in rest)]


def _axis(axis: str, at: Any, rows: Iterable["Row"]) -> Iterator[str]:
    """One table: every measure at every value, and its difference to the value of the answers."""
    yield f"{axis}, paired by prompt; differences are to {at}, over the prompts that have both"
    head = f"{'pairs':>6}  {'difference':>10}  {'95 % CI':>18}  p (Holm)"
    yield f"{'':16}{'n':>4}  {'mean':>9}  {'95 % CI':>18} {head}"
    measure = None
    for row in rows:
        if row.measure != measure:
            unit = next((unit for name, unit in UNITS.items() if row.measure.startswith(name)), "")
            yield f"  {row.measure}{unit and f', {unit}'}"
            measure = row.measure
        cells = f"{row.n:>4}  {_number(row.mean):>9}  {_interval(row.ci):>18}"
        pairs = row.pairs or ""
        apart = (
            f"{pairs:>6}  {_number(row.difference):>10}  {_interval(row.difference_ci):>18}  {_p(row.p_holm)}"
        )
        yield f"    {row.value!s:12.12}{cells} {apart}".rstrip()
        if row.not_tested:
            yield from (" " * 6 + line for line in wrap(f"not tested: {row.not_tested}", WIDTH - 6))


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3g}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"[{_number(ends[0])}, {_number(ends[1])}]"


def _p(p: float | None) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
