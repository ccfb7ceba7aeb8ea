"""What kind of value config.json may give a key; keys that are not here are left to the architecture."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import BadInput

INNER = ("text_config", "rope_parameters", "rope_scaling", "full_attention", "sliding_attention")


def check(config: Mapping[str, Any]) -> None:
    """Refuse a value of another kind than its key can have, in a config and the parts of it."""
    for key, (fits, wanted) in KINDS.items():
        value = config.get(key)
        if value is not None and not fits(value):
            raise BadInput(f"{key}: {_short(value)} in config.json is not {wanted}")
    for key in INNER:
        if key in config and isinstance(config[key], dict):
            check(config[key])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return _whole(value) and value >= 1


def _window(value: Any) -> bool:
    return _whole(value) and value >= 0


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _tokens(value: Any) -> bool:
    return all(map(_whole, value)) if isinstance(value, list) else _whole(value)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


Kind = tuple[Callable[[Any], bool], str]
_COUNT: Kind = (_count, "a whole number of at least 1")
_POSITIVE: Kind = (_positive, "a number above 0")
KINDS: dict[str, Kind] = {
    "architectures": (_names, "a list of names"),
    "eos_token_id": (_tokens, "a token id or a list of them"),
    "head_dim": _COUNT,
    "layer_types": (_names, "a list of names"),
    "max_position_embeddings": _COUNT,
    "n_positions": _COUNT,
    "num_attention_heads": _COUNT,
    "num_hidden_layers": _COUNT,
    "num_key_value_heads": _COUNT,
    "original_max_position_embeddings": _COUNT,
    "factor": _POSITIVE,
    "partial_rotary_factor": _POSITIVE,
    "rope_local_base_freq": _POSITIVE,
    "rope_theta": _POSITIVE,
    "rotary_dim": _COUNT,
    "rope_parameters": (_object, "an object"),
    "rope_scaling": (_object, "an object"),
    "sliding_window": (_window, "a whole number"),
    "text_config": (_object, "an object"),
}
