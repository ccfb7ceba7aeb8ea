"""What would change an answer, and what the design could have seen."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..answers import Answers
from ..questions import Answer, between, beyond, number, percent, ratio
from ..titles import title
from .cells import Table, table

__all__ = ["could_have_seen", "would_change"]


def would_change(key: str, answers: Answers, logs: bool) -> str:
    """One or two sentences on what this answer hangs by."""
    found = answers.answers[key]
    if found.not_tested is not None:
        return ""
    return CHANGES[key](found, answers, logs) if key in CHANGES else ""


def _shown(x: float, logs: bool) -> str:
    return ratio(math.exp(x)) if logs else number(x)


def _ends(low: float, high: float, logs: bool) -> str:
    return f"{between(math.exp(low), math.exp(high))}x" if logs else between(low, high)


def _downweighting(found: Answer, answers: Answers, logs: bool) -> str:
    size = answers.answers.get("effect_size")
    left = (size.details.get("consistency") or {}).get("leave_one_out") if size else None
    told = f"Leaving out any one prompt keeps it within {_ends(left[0], left[1], logs)}. " if left else ""
    whole = found.details.get("downweighting_per_set")
    if whole:
        told += (
            "It is about one key: a whole set of siblings together receives "
            f"{_shown(whole['estimate'], True)} the attention of a single token, which is another question."
        )
    return told.strip()


def _prompt_variance(found: Answer, answers: Answers, logs: bool) -> str:
    wide = f"the upper end is {number(found.ci[1] / found.ci[0])} times the lower one" if found.ci else ""
    return (
        f"More prompts: an SD takes many ({wide}). The interval leans on normal prompts; outliers widen it."
    )


def _outliers(found: Answer, answers: Answers, logs: bool) -> str:
    rows = found.details["prompts"]
    most = max(rows, key=lambda row: abs(row["t"]))
    return (
        f"The prompt most unlike the others is {most['prompt']}; without it the mean is "
        f"{_shown(most['mean_without'], logs)}."
    )


def _effect_size(found: Answer, answers: Answers, logs: bool) -> str:
    return (
        "More alike prompts, or more seeds in each, make d larger at the same ratio: read it beside the "
        "ratio, "
        "never in its place."
    )


def _category(found: Answer, answers: Answers, logs: bool) -> str:
    needs = found.details.get("prompts_per_category_for") or {}
    told = ", ".join(f"{count} prompts a category for f = {f}" for f, count in needs.items() if count)
    return f"A power of 80 % takes {told}." if told else ""


def _seeds(found: Answer, answers: Answers, logs: bool) -> str:
    return (
        "A higher temperature makes seeds count for more. More seeds make each prompt's mean sharper, and "
        "add "
        "nothing to the number of prompts."
    )


def _generalisation(found: Answer, answers: Answers, logs: bool) -> str:
    left = found.details.get("leave_one_category_out")
    own = f" Predicting each category from the others errs by {number(left['rmse'])}" if left else ""
    scale = f"{' on the log scale' * logs} (RMSE)." if left else ""
    return (
        "More prompts hardly narrow it: new prompts scatter as those seen here do, if they are of their "
        f"kind.{own}{scale}"
    )


def _modes(found: Answer, answers: Answers, logs: bool) -> str:
    ends = max(abs(end) for end in found.details["tost"]["ci90"])
    bound = f"a ratio of {ratio(math.exp(ends))}" if logs else f"+-{number(ends)}"
    return (
        f"The bound decides about equivalence: only one wider than {bound} would have called the modes "
        "equivalent, and a bound is chosen before the data. With replay both modes follow the same sets, "
        "which usually takes fewer prompts."
    )


def _cross_parallel(found: Answer, answers: Answers, logs: bool) -> str:
    plain = found.details.get("plain")
    if plain is None:
        return ""
    return (
        "The yardstick: over keys at distance 1, instead of the row's line at distance 0, it is "
        f"{_shown(plain, True)}."
    )


def _logits(found: Answer, answers: Answers, logs: bool) -> str:
    details = found.details
    return (
        f"The bound of {number(details['bound'])} nat: any above {number(details['upper'])} would have been "
        "called "
        f"less, any below {number(max(details['lower'], 0.0))} more."
    )


def _maps(found: Answer, answers: Answers, logs: bool) -> str:
    own = found.details["deviating"]
    return (
        f"Asked of each cell against its own prompt's median instead of against 1x, {own['found']} are found "
        "and "
        f"{own['shown']} shown. Which heads are called is sharper with more prompts, not with more seeds."
    )


def _over_steps(found: Answer, answers: Answers, logs: bool) -> str:
    return "Longer texts: a slope needs steps on both ends, and its error falls fast with their number."


CHANGES: Mapping[str, Callable[[Answer, Answers, bool], str]] = {
    "downweighting": _downweighting,
    "prompt_variance": _prompt_variance,
    "outliers": _outliers,
    "effect_size": _effect_size,
    "category": _category,
    "seeds": _seeds,
    "generalisation": _generalisation,
    "modes": _modes,
    "cross_parallel": _cross_parallel,
    "logits": _logits,
    "maps": _maps,
    "over_steps": _over_steps,
}


def could_have_seen(answers: Answers, response: str, logs: bool) -> Table | None:
    """A row for each answer that says what its design could see."""
    rows = []
    for key, found in answers.answers.items():
        if found.not_tested is None and (seen := _seen(key, found.details, logs)):
            rows.append([title(key, response)[0], seen])
    return table("With a power of 80 % (unless another is named)", ("answer", "could have been seen"), rows)


def _seen(key: str, details: Mapping[str, Any], logs: bool) -> str:
    """What an answer's details say of its power."""
    least = details.get("detectable")
    if key == "outliers":
        finds = (f"{percent(power)} at {shift} SD" for shift, power in details["power"].items())
        return f"one odd prompt, with a power of {', '.join(finds)}"
    if key == "logits":
        return (
            f"that modes agree within {number(details['bound'])} nat, with a power of "
            f"{percent(details['power'])}"
        )
    if least is None:
        return ""
    if key == "category":
        return f"categories apart by f = {number(least)} or more"
    if key == "seeds":
        return f"a seed that moves all prompts alike, with an SD of {number(least)} or more"
    if key == "cross_parallel":
        return f"a ratio of {ratio(math.exp(least))} or more"
    if key == "modes":
        size = (
            f"a ratio of {beyond(least)}" if logs else f"a difference of {number(least)} or more, either way"
        )
        return f"{size}{_equivalence(details)}"
    return f"a ratio of {beyond(least)}{' a step' * (key == 'over_steps')}"


def _equivalence(details: Mapping[str, Any]) -> str:
    power = details.get("power_of_equivalence")
    return (
        "" if power is None else f"; equivalence, if there is no difference, with a power of {percent(power)}"
    )
