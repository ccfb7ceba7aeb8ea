"""Experiments 1 to 5 of the seeds, or their claims, as text that fits a terminal."""

from collections.abc import Sequence
from itertools import takewhile
from textwrap import wrap
from typing import TYPE_CHECKING

from ..words import how_many
from . import answers
from .answers import WIDTH, entry

if TYPE_CHECKING:
    from ..stats.replication.result import Experiment, Hypothesis, Measure, Series
    from ..stats.report import Report

NAME = 46
NOTE = 8


def told(report: "Report") -> list[str]:
    """The experiments that were asked for, under what the summary begins with: cube, at, and the gate."""
    found = [*takewhile(bool, answers.lines(report))]
    for each in report.experiments:
        found += ["", *lines(each)]
    return found


def lines(experiment: "Experiment") -> list[str]:
    """The outcome first, then hypotheses with their verdicts, then every measure."""
    told = [f"{experiment.name}: {experiment.title}", *entry("question", experiment.question)]
    told += [*entry("outcome", experiment.outcome), ""]
    for each in experiment.hypotheses:
        told += _hypothesis(each)
    told += [""] * bool(experiment.measures)
    told += _measures(experiment.measures)
    told += [line for each in experiment.series for line in _series(each)]
    told += ["", *experiment.listing] if experiment.listing else []
    for reason in experiment.not_measured:
        told += entry("not measured", reason)
    return [line.rstrip() for line in told]


def _hypothesis(each: "Hypothesis") -> list[str]:
    return [*entry(each.verdict, each.hypothesis), *entry("", each.reason)]


def _measures(measures: Sequence["Measure"]) -> list[str]:
    """Each with its note under it, which is said once where the next one has the same."""
    notes = [measure.note for measure in measures]
    told: list[str] = []
    for measure, after in zip(measures, [*notes[1:], ""], strict=False):
        told += _measure(measure)
        told += _indented(measure.note) if measure.note and measure.note != after else []
    return told


def _measure(measure: "Measure") -> list[str]:
    """Name and value, on one line where they fit."""
    prompts = f"  [{how_many(measure.n, 'prompt')}]" if measure.n else ""
    value = f"{measure.text}{prompts}"
    head = f"{measure.name:{NAME}} {value}"
    fits = len(head) <= WIDTH and len(measure.name) <= NAME
    return [head] if fits else [measure.name, *_indented(value)]


def _series(each: "Series") -> list[str]:
    """The numbers in a row: 0: 0.00, 1: 0.995 ..."""
    points = [
        f"{label}: {'-' if value is None else f'{value:.3g}'}"
        for label, value in zip(each.labels, each.values, strict=True)
    ]
    unit = f", {each.unit}" if each.unit else ""
    return [f"{each.name}{unit}", *_indented(", ".join(points))]


def _indented(text: str) -> list[str]:
    return [" " * NOTE + line for line in wrap(text, WIDTH - NOTE)]
