"""Experiments whose truth is known: the design, the effects planted in it, and frames drawn from them.

All effects are on the log scale. The response of prompt p, seed s and mode m is

    mean + category + mode + prompt_p + seed_s + prompt:seed_ps + prompt:mode_pm + residual_psm
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pandas as pd

from .grid import MODES

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

CATEGORIES = ("narrative", "factual", "technical", "dialogue", "descriptive")
SEEDS = (42, 123, 456, 789, 999)
THRESHOLD = 0.1  # every token of a simulated set is at least this probable
SKEW = 0.833  # a lognormal of this shape has skewness 4

# Which cells: prompt, seed and mode by number, None for all of them.
Pattern = tuple[int | None, int | None, int | None]


@dataclass(frozen=True)
class Design:
    """What is run: how many prompts, seeds and modes, and what one experiment looks like."""

    categories: tuple[int, ...] = (2,) * 5  # prompts in each
    seeds: int = 5
    modes: tuple[str, ...] = ("isolated", "visible")

    # one experiment
    steps: int = 10
    prompt_tokens: int = 4
    wide: float = 0.5  # share of the sets that are parallel; 0: no parallel set anywhere
    max_width: int = 4  # their widths are drawn evenly from 2 to this
    parting: int | None = None  # set from which every mode has its own; None: all follow the leader (replay)

    # the model
    layers: int = 3
    heads: int = 4
    vocab: int = 64

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        if not self.categories or min(self.categories) < 1:
            raise ValueError(f"categories: the number of prompts in each, got {self.categories}")
        if not self.modes or set(self.modes) - set(MODES) or len(set(self.modes)) < len(self.modes):
            raise ValueError(f"modes: different ones of {', '.join(MODES)}, got {self.modes}")
        if min(self.seeds, self.steps, self.prompt_tokens, self.layers, self.heads) < 1:
            raise ValueError("seeds, steps, prompt_tokens, layers and heads must be at least 1")
        if not (0 <= self.wide <= 1 and 2 <= self.max_width <= 8):
            raise ValueError(f"wide: 0 to 1, max_width: 2 to 8, got {self.wide} and {self.max_width}")
        if self.vocab < 2 * self.max_width:
            raise ValueError(f"vocab: at least {2 * self.max_width} tokens, got {self.vocab}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Prompts, seeds, modes."""
        return sum(self.categories), self.seeds, len(self.modes)

    @property
    def category_of(self) -> npt.NDArray[np.intp]:
        """(prompt,): the number of its category."""
        return np.repeat(np.arange(len(self.categories)), self.categories)

    @property
    def labels(self) -> dict[str, list[str] | list[int]]:
        """Coordinates as the cube of this design has them; `category` goes with `prompt`."""
        names = [*CATEGORIES, *(f"category {i + 1}" for i in range(len(CATEGORIES), len(self.categories)))]
        seeds = [*SEEDS, *range(1000, 1000 + self.seeds)]
        return {
            "prompt": [f"p{i}" for i in range(self.shape[0])],
            "category": [names[i] for i in self.category_of],
            "seed": seeds[: self.seeds],
            "mode": list(self.modes),
        }

    @property
    def leader(self) -> str:
        """The mode whose sets the others follow."""
        return next((mode for mode in self.modes if mode != "single"), "single")

    @property
    def wide_sets(self) -> int:
        """Parallel sets in one experiment."""
        return round(self.wide * self.steps)


@dataclass(frozen=True)
class Effects:
    """What is true of the experiments; by default scenario A without its crossed seed effect."""

    # the response, by its parts
    mean: float = 0.0  # log of attention per parallel key over attention per singleton key
    category: tuple[float, ...] = ()  # one a category; empty: none differs
    mode: Mapping[str, float] = field(default_factory=dict)
    category_sd: float = 0.0
    prompt_sd: float = 0.25
    seed_sd: float = 0.0  # crossed: seed 42 means the same in every prompt
    prompt_seed_sd: float = 0.10
    prompt_mode_sd: float = 0.05
    residual_sd: float = 0.10
    skewed: bool = False  # prompts are lognormal with skewness 4, same SD
    outlier: tuple[int, float] | None = None  # a prompt's number, and its shift in prompt SDs

    # copies and gaps
    same_seeds: bool = False  # seeds are copies of the first, bit for bit
    same_modes: bool = False  # modes are copies of the leader: their masks differ, the weights do not
    missing: float = 0.0  # share of cells lost at random
    lost: tuple[Pattern, ...] = ()  # cells lost for sure
    untreated: tuple[Pattern, ...] = ()  # cells whose mask was not applied: a check fails
    control: str | None = None  # clone | repeat | no_mask
    nan_layer: int | None = None  # attention of this layer is NaN, and nothing noticed

    # attention maps
    sink: float = 0.5  # share of every row that key 0 takes; 0: it is a key like others
    recency: float = 0.15  # log attention falls by this per logical position
    cross: float = 0.0  # log of sibling attention over a singleton's at distance 0
    slope: float = 0.0  # change of the response per step of the query; it is as said at the middle step
    by_head: tuple[tuple[float, ...], ...] = ()  # (layer, head): added to the response there
    noise: float = 0.5  # SD of the log of every weight

    # readouts
    logit_sd: float = 0.05  # KL of the leader from any other mode is half its square, at every step

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        if not (0 <= self.sink < 1 and 0 <= self.missing < 1):
            raise ValueError(f"sink and missing: from 0 to below 1, got {self.sink} and {self.missing}")
        if strange := set(self.mode) - set(MODES):
            raise ValueError(f"mode: effects of unknown modes {', '.join(sorted(strange))}")
        if self.control not in (None, "clone", "repeat", "no_mask"):
            raise ValueError(f"control: clone, repeat, no_mask or None, got {self.control!r}")


_A = Effects(seed_sd=0.05)

SCENARIOS: Mapping[str, Effects] = MappingProxyType(
    {
        "A": _A,
        "B": replace(_A, seed_sd=0.15),
        "C": Effects(same_seeds=True, same_modes=True),
        "D": Effects(same_seeds=True),
        "E": Effects(skewed=True),
        "F": replace(_A, category=(0.0, 0.1, -0.1, 0.25, -0.25), mode={"visible": -0.08}),
        "G": Effects(category_sd=0.20, prompt_sd=0.15),
    }
)
"""Named scenarios of calibration studies; a crossed seed effect is in A, B and F only."""

# Every part has its random stream, so that changing one leaves the others as they were.
_STREAMS = (
    *("category", "prompt", "seed", "prompt_seed", "prompt_mode", "residual", "missing"),
    *("text", "path", "attention", "readout"),
)


def stream(name: str, seed: int, *where: int) -> np.random.Generator:
    """The random numbers for one purpose, and one place where it has several."""
    return np.random.default_rng([seed, _STREAMS.index(name), *where])


def values(design: Design, effects: Effects, n: int, seed: int = 0) -> Floats:
    """(n, prompt, seed, mode): the responses of n cubes; NaN where a cell is lost or has no response.

    Cube i does not depend on n.
    """
    prompts, seeds, modes = design.shape
    parts = (
        _fixed(design, effects),
        _draw("category", effects.category_sd, (n, len(design.categories)), seed)[:, design.category_of],
        _prompts(effects, (n, prompts), seed),
        _draw("seed", effects.seed_sd, (n, 1, seeds), seed),
        _draw("prompt_seed", effects.prompt_seed_sd, (n, prompts, seeds), seed),
        _draw("prompt_mode", effects.prompt_mode_sd, (n, prompts, 1, modes), seed),
        _draw("residual", effects.residual_sd, (n, prompts, seeds, modes), seed),
    )
    y = np.zeros((n, prompts, seeds, modes))
    for part in parts:
        y += part.reshape(*part.shape, *(1,) * (4 - part.ndim))
    if effects.same_seeds:
        y[:] = y[:, :, :1]
    if effects.same_modes:
        y[:] = y[..., [design.modes.index(design.leader)]]
    y[..., [mode == "single" or not design.wide_sets for mode in design.modes]] = np.nan
    y[lost(design, effects, n, seed)] = np.nan
    return y


def lost(design: Design, effects: Effects, n: int, seed: int = 0) -> Mask:
    """(n, prompt, seed, mode): cells that are never captured; exactly the missing share of every cube."""
    gone = np.broadcast_to(matching(design, effects.lost), (n, *design.shape)).copy()
    if effects.missing:
        cells = gone[0].size
        order = stream("missing", seed).random((n, cells)).argsort(axis=1)
        chosen = order[:, : round(effects.missing * cells)]
        np.put_along_axis(gone.reshape(n, cells), chosen, True, axis=1)
    return gone


def matching(design: Design, patterns: tuple[Pattern, ...]) -> Mask:
    """(prompt, seed, mode): cells that any of the patterns means."""
    found = np.zeros(design.shape, dtype=bool)
    for pattern in patterns:
        found[tuple(slice(None) if i is None else i for i in pattern)] = True
    return found


def frame(design: Design, effects: Effects, seed: int = 0) -> pd.DataFrame:
    """One row for each cell that is done: prompt, category, seed, mode, path_digest, downweighting.

    The first of `values`; `path_digest` is made up, but equal where experiments are.
    """
    gone = lost(design, effects, 1, seed)[0]
    if effects.control != "no_mask" and design.wide_sets:
        gone |= matching(design, effects.untreated)
    labels = design.labels
    p, s, m = (axis.ravel() for axis in np.indices(design.shape))
    rows = pd.DataFrame(
        {
            "prompt": np.asarray(labels["prompt"], object)[p],
            "category": np.asarray(labels["category"], object)[p],
            "seed": np.asarray(labels["seed"])[s],
            "mode": np.asarray(labels["mode"], object)[m],
            "path_digest": [
                _path_digest(design, effects, seed, *index) for index in np.ndindex(*design.shape)
            ],
            "downweighting": values(design, effects, 1, seed)[0].ravel(),
        }
    )
    done: pd.DataFrame = rows.loc[~gone.ravel()].reset_index(drop=True)
    return done


def _fixed(design: Design, effects: Effects) -> Floats:
    """(1, prompt, 1, mode): mean, category, mode and outlier."""
    if effects.category and len(effects.category) != len(design.categories):
        raise ValueError(
            f"category: {len(effects.category)} effects for {len(design.categories)} categories; one for each"
        )
    category = np.asarray(effects.category or (0.0,) * len(design.categories))
    prompt = category[design.category_of]
    if effects.outlier is not None:
        which, shift = effects.outlier
        prompt[which] += shift * effects.prompt_sd
    mode = np.array([effects.mode.get(name, 0.0) for name in design.modes])
    return np.asarray(effects.mean + prompt[None, :, None, None] + mode)


def _draw(part: str, sd: float, shape: tuple[int, ...], seed: int) -> Floats:
    return sd * stream(part, seed).standard_normal(shape) if sd else np.zeros(shape)


def _prompts(effects: Effects, shape: tuple[int, int], seed: int) -> Floats:
    normal = _draw("prompt", 1.0, shape, seed)
    if not effects.skewed:
        return effects.prompt_sd * normal
    spread = np.exp(SKEW**2)
    standard = (np.exp(SKEW * normal) / np.sqrt(spread) - 1) / np.sqrt(spread - 1)
    return np.asarray(effects.prompt_sd * standard)


def _path_digest(design: Design, effects: Effects, seed: int, p: int, s: int, m: int) -> str:
    mode = design.modes[m] if design.wide_sets else "any"
    if effects.control == "no_mask" and mode == "isolated":
        mode = "visible"
    path = f"{seed}|{p}|{0 if effects.same_seeds else s}|{mode}"
    return hashlib.sha256(path.encode()).hexdigest()
