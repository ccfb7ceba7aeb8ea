"""What a mixed model's formula means in a frame: the fixed design and the random terms.

Formulas name columns and nothing else: no name of the caller is looked up, nothing is evaluated.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import patsy

from ..errors import BadInput

__all__ = ["Coding", "Fixed", "Random", "columns", "fixed", "random_terms", "response_and_terms"]

Array = npt.NDArray[np.floating[Any]]
Data = Mapping[str, npt.NDArray[Any]]
Coding = Literal["sum", "treatment"]

CONTRASTS = {"sum": patsy.Sum, "treatment": patsy.Treatment}
INTERCEPT = "Intercept"
RESERVED = (INTERCEPT, "Residual")  # what tables call the constant and the last variance


@dataclass(frozen=True, slots=True)
class Random:
    """Effects that vary between the levels of a grouping: `1|prompt:mode`, `1+Days|Subject`."""

    group: tuple[str, ...]
    effects: tuple[str, ...]

    @property
    def label(self) -> str:
        """The grouping's name: prompt:mode."""
        return ":".join(self.group)

    @property
    def text(self) -> str:
        """The term as lme4 writes it: 1 + Days | Subject."""
        own = [name for name in self.effects if name != INTERCEPT]
        return f"{' + '.join(['1' if len(own) < len(self.effects) else '0', *own])} | {self.label}"

    def component(self, first: str, second: str) -> str:
        """The key of a variance (first is second) or covariance: Subject|Days, Subject|Intercept,Days."""
        if first == second:
            return self.label if first == INTERCEPT else f"{self.label}|{first}"
        return f"{self.label}|{first},{second}"

    def levels(self, frame: pd.DataFrame) -> npt.NDArray[np.int64]:
        """(n,) which level each row belongs to, counted from 0."""
        codes = frame.groupby(list(self.group), sort=False, observed=True).ngroup()
        return np.asarray(codes, dtype=np.int64)

    def values(self, frame: pd.DataFrame) -> Array:
        """(n, effects) what each effect is multiplied with in each row."""
        parts = [np.ones(len(frame)) if name == INTERCEPT else frame[name] for name in self.effects]
        return np.column_stack([np.asarray(part, dtype=np.float64) for part in parts])


@dataclass(frozen=True, slots=True)
class Fixed:
    """x (n, p), its columns' names, each term's slice of them, levels of categories, means of covariates.

    Terms are in the formula's order, main effects first, as in R; order (p,) takes patsy's columns there.
    """

    x: Array
    names: tuple[str, ...]
    terms: dict[str, slice]
    levels: dict[str, tuple[Any, ...]]
    means: dict[str, float]
    info: Any
    order: npt.NDArray[np.int64]

    def rows(self, data: Data, count: int) -> Array:
        """(count, p) the design of other data under the same coding."""
        return _matrix(self.info, data, count)[:, self.order]


def response_and_terms(formula: str) -> tuple[str, list[tuple[str, ...]]]:
    """The response's column and the columns of every fixed term; the intercept is the term of none."""
    try:
        parsed = patsy.ModelDesc.from_formula(formula)
    except patsy.PatsyError as error:
        problem = str(error).splitlines()[0]
        raise BadInput(f"formula {formula!r}: {problem}; write it like 'y ~ category + mode'") from None
    left = [tuple(factor.name() for factor in term.factors) for term in parsed.lhs_termlist]
    if len(left) != 1 or len(left[0]) != 1:
        raise BadInput(f"formula {formula!r} needs exactly one response: write it like 'y ~ category + mode'")
    right = [tuple(factor.name() for factor in term.factors) for term in parsed.rhs_termlist]
    if not right:
        raise BadInput(
            f"formula {formula!r} has no fixed effect: write '{left[0][0]} ~ 1' for the mean alone"
        )
    return left[0][0], right


def random_terms(texts: Sequence[str]) -> list[Random]:
    """Random terms from lme4's words: 1|prompt, 1|a:b, 1|a/b, Days|Subject, 0+Days|Subject."""
    if isinstance(texts, str) or not texts:
        raise BadInput(f"random={texts!r}: give a list of terms such as ['1|prompt', '1|prompt:mode']")
    found = [term for text in texts for term in _random(text)]
    seen: set[str] = set()
    for term in found:
        keys = {term.component(name, name) for name in term.effects}
        if keys & seen:
            raise BadInput(
                f"random={list(texts)!r}: {term.text!r} repeats {min(keys & seen)!r}; name it once"
            )
        seen |= keys
    return found


def _random(text: str) -> Iterator[Random]:
    """One written term; a/b stands for two of them."""
    match = re.fullmatch(r"\(?([^|()]+)\|([^|()]+)\)?", text.strip())
    words = [word.strip() for word in match[1].split("+")] if match else []
    groups = [part.strip() for part in match[2].split("/")] if match else []
    names = [name.strip() for part in groups for name in part.split(":")]
    effects = ([] if "0" in words else [INTERCEPT]) + [word for word in words if word not in ("0", "1")]
    if (
        not names
        or not effects
        or INTERCEPT in words
        or not all(re.fullmatch(r"[^\W\d][\w.]*", word) for word in [*effects, *names])
    ):
        raise BadInput(
            f"random term {text!r} cannot be read: write 1|group, 1|a:b, 1|a/b, x|group or 0+x|group"
        )
    for depth in range(1, len(groups) + 1):
        group = [name.strip() for part in groups[:depth] for name in part.split(":")]
        yield Random(tuple(group), tuple(effects))


def columns(response: str, terms: Sequence[Sequence[str]], random: Sequence[Random]) -> list[str]:
    """Every column the model reads, once, in the order of mention."""
    if response in {name for term in terms for name in term}:
        raise BadInput(f"{response!r} is the response and explains itself: take it out of the right side")
    if any(response in (*term.group, *term.effects) for term in random):
        raise BadInput(f"{response!r} is the response and cannot be a random effect: leave it out of random")
    grouping = [name for term in random for name in (*term.group, *term.effects) if name != INTERCEPT]
    explaining = [*(name for term in terms for name in term), *grouping]
    for name in RESERVED:
        if name in explaining:
            raise BadInput(f"a column called {name!r} would be taken for the model's own: rename it")
    return list(dict.fromkeys([response, *explaining]))


def must_have(frame: pd.DataFrame, names: Iterable[str]) -> None:
    """Refuse a name that is no column, with the nearest that is one."""
    there = [str(name) for name in frame.columns]
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(there)}"
            raise BadInput(
                f"{name!r} is no column of the frame: {hint} (functions in formulas are not evaluated)"
            )
        if there.count(name) > 1:
            raise BadInput(
                f"{there.count(name)} columns of the frame are called {name!r}: rename all but one"
            )


def is_number(column: "pd.Series[Any]") -> bool:
    """Whether a column enters the model as a number rather than as a category."""
    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column))


def level_order(column: "pd.Series[Any]") -> tuple[Any, ...]:
    """The levels of a category: in its own order if it has one, else as they first appear."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return tuple(column.cat.remove_unused_categories().cat.categories.tolist())
    return tuple(column.unique().tolist())  # Python's own True, not numpy's, becomes a coefficient's name


def fixed(terms: Sequence[tuple[str, ...]], frame: pd.DataFrame, coding: Coding) -> Fixed:
    """The design matrix of the fixed terms; redundant columns are left out as R leaves them out."""
    names = list(dict.fromkeys(name for term in terms for name in term))
    levels = {name: level_order(frame[name]) for name in names if not is_number(frame[name])}
    for name, found in levels.items():
        if len(found) < 2:
            raise BadInput(f"{name!r} has one level only, {found[0]!r}: leave it out of the formula")
        alike = [level for level in found if [str(other) for other in found].count(str(level)) > 1]
        if alike:
            raise BadInput(
                f"{name!r} has levels {alike[0]!r} and {alike[1]!r}: make all of them numbers or text"
            )
    described = [patsy.Term([_factor(name, levels.get(name), coding) for name in term]) for term in terms]
    data = {name: np.asarray(frame[name], dtype=object if name in levels else np.float64) for name in names}
    nothing = patsy.EvalEnvironment([])
    info = patsy.build.design_matrix_builders([described], lambda: iter([data]), nothing)[0]
    order, slices = _in_formula_order(info, described)
    x = _matrix(info, data, len(frame))[:, order]
    means = {name: float(frame[name].mean()) for name in names if name not in levels}
    return Fixed(x, tuple(info.column_names[i] for i in order), slices, levels, means, info, order)


def _in_formula_order(info: Any, terms: list[Any]) -> tuple[npt.NDArray[np.int64], dict[str, slice]]:
    """(p,) the columns, and the slice of every term; patsy itself puts terms without covariates first."""
    ordered = sorted(info.terms, key=lambda term: (len(term.factors), terms.index(term)))
    places = [np.arange(len(info.column_names))[info.term_slices[term]] for term in ordered]
    ends = np.cumsum([len(own) for own in places]).tolist()
    slices = {
        term.name(): slice(end - len(own), end) for term, own, end in zip(ordered, places, ends, strict=True)
    }
    return np.concatenate(places), slices


def _factor(name: str, levels: tuple[Any, ...] | None, coding: Coding) -> Any:
    """A column as patsy takes it without evaluating anything."""
    if levels is None:
        return patsy.LookupFactor(name)
    return patsy.LookupFactor(name, force_categorical=True, contrast=CONTRASTS[coding], levels=levels)


def _matrix(info: Any, data: Data, rows: int) -> Array:
    """(rows, p) the design of the data."""
    if not info.factor_infos:  # patsy cannot know how many rows an intercept alone has
        return np.ones((rows, 1))
    return np.asarray(patsy.build_design_matrices([info], dict(data))[0], dtype=np.float64)
