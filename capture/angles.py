"""Whether a net's RoPE turns by the angles that config.json asks for, computed here a second time."""

import math
import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ..errors import BadInput
from .config import Config

Floats = npt.NDArray[np.float64]

POSITION = 300  # far enough out to tell the bases, near enough for float32 angles
TOLERANCE = 2e-3


def check_angles(net: nn.Module, config: Config, head_dim: int, windows: tuple[int | None, ...]) -> None:
    """Refuse a net one of whose layers rotates by other angles than the translated config says."""
    if config.get("rope_theta") is None:
        return  # then the architecture's own default is the only word there is
    skipped = config.get("no_rope_layers") or [1] * len(windows)
    for name, module in net.named_modules():
        found = re.search(r"layers\.(\d+)\..*(rope|rotary_emb)$", name)
        if found is None:
            continue
        layer = int(found[1])
        with np.errstate(all="ignore"):  # what is no number is no angle either, and refused below
            want = _rotated(head_dim, *_frequencies(config, head_dim, windows[layer] is not None))
        if not skipped[layer]:
            want = np.ones(head_dim)
        probe = module(mx.ones((1, 1, 1, head_dim)), offset=POSITION)
        if not np.allclose(np.sort(np.array(probe).ravel()), np.sort(want), atol=TOLERANCE):
            asked = f"rope_theta {config['rope_theta']}, rope_scaling {config.get('rope_scaling')}"
            done = f"mlx-lm's {config['model_type']} turns layer {layer} by other angles"
            raise BadInput(f"{asked} in config.json are not honoured: {done}")


def _rotated(head_dim: int, frequencies: Floats, factor: float) -> Floats:
    """(head_dim,): a vector of ones after rotation, in no particular order."""
    angle = POSITION * frequencies
    turned = np.concatenate([np.cos(angle) - np.sin(angle), np.cos(angle) + np.sin(angle)]) * factor
    return np.concatenate([turned, np.ones(head_dim - turned.size)])


def _frequencies(config: Config, head_dim: int, slides: bool) -> tuple[Floats, float]:
    """(pair,): radians a position, and the factor on queries and keys."""
    config = config | _own_parameters(config, slides)
    share = config.get("partial_rotary_factor") or config.get("rotary_pct") or 1.0
    dims = config.get("rotary_dim") or int(head_dim * share)
    if dims % 2 or not 0 < dims <= head_dim:
        raise BadInput(f"{dims} of the {head_dim} numbers of a head cannot be turned: RoPE turns pairs")
    exponents = np.arange(0, dims, 2) / dims
    local = config.get("rope_local_base_freq")
    if slides and local is not None:
        return local**-exponents, 1.0
    plain = config["rope_theta"] ** -exponents
    scaling = config.get("rope_scaling") or {"type": "default"}
    if scaling["type"] not in SCALINGS:
        raise BadInput(f"rope_type {scaling['type']!r} is not one that works: {', '.join(SCALINGS)}")
    return SCALINGS[scaling["type"]](plain, scaling, config)


def _own_parameters(config: Config, slides: bool) -> Config:
    """What `rope_parameters` says of sliding layers alone; of the others, the translation has it already."""
    local = (config.get("rope_parameters") or {}).get("sliding_attention") if slides else None
    if not isinstance(local, dict):
        return {}
    return {"partial_rotary_factor": local.get("partial_rotary_factor")}


def _default(plain: Floats, scaling: Any, config: Config) -> tuple[Floats, float]:
    return plain, 1.0


def _linear(plain: Floats, scaling: Any, config: Config) -> tuple[Floats, float]:
    return plain / scaling["factor"], 1.0


def _dynamic(plain: Floats, scaling: Any, config: Config) -> tuple[Floats, float]:
    if "alpha" not in scaling:
        raise BadInput("rope_type 'dynamic' of config.json works only with a fixed alpha")
    last = max(plain.size - 1, 1)  # the base times alpha ** (dims / (dims - 2))
    return plain * float(scaling["alpha"]) ** (-np.arange(plain.size) / last), 1.0


def _llama3(plain: Floats, scaling: Any, config: Config) -> tuple[Floats, float]:
    # wavelengths below the short limit stay, above the long one are stretched, between them blended
    turns = scaling["original_max_position_embeddings"] * plain / (2 * np.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return kept * plain + (1 - kept) * plain / scaling["factor"], 1.0


def _longrope(plain: Floats, scaling: Any, config: Config) -> tuple[Floats, float]:
    original = scaling["original_max_position_embeddings"]
    longer = scaling.get("factor") or config["max_position_embeddings"] / original
    default = 1.0 if longer <= 1 else math.sqrt(1 + math.log(longer) / math.log(original))
    return plain / np.asarray(scaling["short_factor"]), scaling.get("attention_factor") or default


def _yarn(plain: Floats, scaling: Any, config: Config) -> tuple[Floats, float]:
    stretch, original = scaling["factor"], scaling["original_max_position_embeddings"]
    pairs, base = plain.size, config["rope_theta"]

    def pair_with(turns: float) -> float:
        return pairs * math.log(original / (turns * 2 * math.pi)) / math.log(base)

    low, high = pair_with(scaling.get("beta_fast") or 32), pair_with(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    stretched = np.clip((np.arange(pairs) - low) / max(high - low, 1e-3), 0, 1)
    return stretched * plain / stretch + (1 - stretched) * plain, _yarn_factor(scaling, stretch)


def _yarn_factor(scaling: Any, stretch: float) -> float:
    def gain(weight: float) -> float:
        return 0.1 * weight * math.log(stretch) + 1 if stretch > 1 else 1.0

    if (given := scaling.get("attention_factor")) is not None:
        return float(given)
    of, over = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return gain(of) / gain(over) if of and over else gain(1)


SCALINGS: dict[str, Callable[[Floats, Any, Config], tuple[Floats, float]]] = {
    "default": _default,
    "mrope": _default,  # text alone has the same position on all three axes
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "longrope": _longrope,
    "su": _longrope,
    "yarn": _yarn,
}
