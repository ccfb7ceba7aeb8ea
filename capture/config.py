"""A checkpoint's config.json, in the words that mlx-lm's architectures read, and held to what it says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BadInput
from . import kinds

Config = dict[str, Any]

# other names of the same key in some architectures
ALIASES = {
    "rope_theta": ("rotary_emb_base", "rope_embedding_base"),
    "partial_rotary_factor": ("rotary_pct",),
    "rope_local_base_freq": ("rope_local_theta", "swa_rope_theta"),
    "n_positions": ("n_ctx",),
}
# keys that shape positions, masks or the softmax, with the values at which they change nothing
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "rope_theta": (),
    "rope_scaling": (),
    "rope_local_base_freq": (),
    "partial_rotary_factor": (1.0,),
    "rotary_dim": (),
    "rope_ratio": (1,),
    "rope_traditional": (False,),
    "rope_interleaved": (False,),
    "no_rope_layers": ([],),
    "no_rope_layer_interval": (),
    "position_embedding_type": ("rope", "rotary", "absolute"),
    "alibi": (False,),
    "use_alibi": (False,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "query_pre_attn_scalar": (),
    "attention_multiplier": (),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "attn_temperature_tuning": (False,),
    "attention_chunk_size": (),
    "use_bidirectional_attention": (False,),
    "use_logn_attn": (False,),
    "use_dynamic_ntk": (False,),
    "clip_qkv": (),
}
_LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")
_IN_ROPE = ("rope_theta", "partial_rotary_factor")
_ROPE_KEYS = (*_IN_ROPE, "rope_scaling", "rope_local_base_freq")  # what `rope_parameters` may say
UNLIMITED = 2**31 - 1


def read(folder: Path) -> Config:
    """config.json of a checkpoint."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{folder.name}: no config.json; a model is a folder in Hugging Face layout") from None
    except OSError as error:
        raise BadInput(f"{folder.name}/config.json cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(f"{folder.name}/config.json is not JSON ({error})") from None
    _check_generation(folder)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise BadInput(f"{folder.name}/config.json names no model_type, such as llama")
    if config.get("model_file") is not None:
        raise BadInput(
            f"{folder.name}: model_file {config['model_file']!r} is code of its own; it is not run"
        )
    kinds.check(config)
    return config


def _check_generation(folder: Path) -> None:
    # mlx-lm goes without one that is no JSON, but takes what it reads for an object
    try:
        found = json.loads((folder / "generation_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return
    if not isinstance(found, dict):
        raise BadInput(f"{folder.name}/generation_config.json is no JSON object")
    kinds.check(found)


def text_part(config: Config) -> Config:
    """The part about the language model: all of it, but for models that also read images."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def translate(config: Config, fields: frozenset[str]) -> Config:
    """The config with transformers 5's `rope_parameters` said as an architecture with `fields` reads them."""
    out = dict(config)
    if isinstance(config.get("text_config"), dict):
        out["text_config"] = translate(config["text_config"], fields)
        return out
    out |= _rope(config)
    if "rope_parameters" in fields:
        out |= _with_own_shares(config)
    _take_short_factors(out)
    if "sliding_window_pattern" in fields and out.get("sliding_window_pattern") is None:
        out |= _pattern(config.get("layer_types"))
    for key, others in ALIASES.items():
        said = {other: out[key] for other in others if other in fields and out.get(key) is not None}
        out |= {other: value for other, value in said.items() if out.get(other) is None}
    return out


def _rope(config: Config) -> Config:
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, dict):
        return _with_both_types(config.get("rope_scaling"), config)
    groups = {key: value for key, value in parameters.items() if isinstance(value, dict)}
    overall = groups.get("full_attention") or next(iter(groups.values()), parameters)
    new = {key: overall[key] for key in _IN_ROPE if overall.get(key) is not None}
    scaling = {key: value for key, value in overall.items() if key not in _IN_ROPE}
    new |= _with_both_types(scaling, config)
    if (local := groups.get("sliding_attention")) is not None:
        if local != overall and local.get("rope_type", "default") != "default":
            raise BadInput(
                f"rope_type {local['rope_type']!r} of the sliding layers: only 'default' works there"
            )
        if "rope_theta" not in local:
            raise BadInput("rope_parameters of the sliding layers name no rope_theta")
        new["rope_local_base_freq"] = local["rope_theta"]
    return new


def _with_own_shares(config: Config) -> Config:
    """`rope_parameters` by kind of layer, each with its own share: else another's may count."""
    said, overall = config.get("rope_parameters"), config.get("partial_rotary_factor")
    if not isinstance(said, dict) or not all(isinstance(each, dict) for each in said.values()):
        return {}
    share = {"partial_rotary_factor": 1.0 if overall is None else overall}
    return {"rope_parameters": {kind: share | own for kind, own in said.items()}}


def _with_both_types(scaling: Any, config: Config) -> Config:
    """`rope_scaling` with its type under both names that are in use; none at all for the default type."""
    if not isinstance(scaling, dict):
        return {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return {"rope_scaling": None}
    scaling = scaling | {"type": kind, "rope_type": kind}
    if kind in ("yarn", "llama3", "longrope", "su"):
        said = (config.get("original_max_position_embeddings"), config.get("max_position_embeddings"))
        original = scaling.get("original_max_position_embeddings") or said[0] or said[1]
        scaling["original_max_position_embeddings"] = original
        return {"rope_scaling": scaling} | (
            {"original_max_position_embeddings": original} if original else {}
        )
    return {"rope_scaling": scaling}


def _take_short_factors(config: Config) -> None:
    # mlx-lm turns every position by the long factors; up to the original length, the short ones are right
    scaling = config.get("rope_scaling")
    if isinstance(scaling, dict) and scaling.get("type") in ("longrope", "su") and "short_factor" in scaling:
        config["rope_scaling"] = scaling | {"long_factor": scaling["short_factor"]}


def _pattern(layer_types: Any) -> Config:
    if not isinstance(layer_types, list):
        return {}
    full = layer_types.index("full_attention") if "full_attention" in layer_types else len(layer_types)
    return {"sliding_window_pattern": full + 1}


def check_honoured(config: Config, read_by: Mapping[str, Any]) -> None:
    """Refuse a key of the translated config that shapes positions or masks and that the architecture ignores.

    `read_by`: every field of the architecture's arguments, with the value it ended with.
    """
    for key, neutral in NEUTRAL.items():
        value = config.get(key)
        if value is None or value in neutral or _harmless(key, value, config):
            continue
        names = [name for name in (key, *ALIASES.get(key, ())) if name in read_by]
        if not names and key in _ROPE_KEYS and _as_parameters(config, read_by):
            continue
        if not names and not (key == "rope_local_base_freq" and value == config.get("rope_theta")):
            raise BadInput(
                f"{key}: {value!r} in config.json has no effect in mlx-lm's {config['model_type']}"
            )
        for name in names:
            if read_by[name] != value:
                ended = f"mlx-lm's {config['model_type']} makes {read_by[name]!r} of it"
                raise BadInput(f"{key}: {value!r} in config.json is not honoured: {ended}")


def _as_parameters(config: Config, read_by: Mapping[str, Any]) -> bool:
    """Whether an architecture reads `rope_parameters` itself; whether rightly, `check_angles` finds out."""
    said = config.get("rope_parameters")
    return bool(said) and read_by.get("rope_parameters") == said


def _harmless(key: str, value: Any, config: Config) -> bool:
    if key == "no_rope_layers":
        return all(value)
    if key == "no_rope_layer_interval":
        return bool(config.get("no_rope_layers"))
    if key == "query_pre_attn_scalar":
        return bool(value == config.get("head_dim"))
    return False


def windows_asked(config: Config, layers: int) -> tuple[int | None, ...]:
    """(layer,): the sliding window that config.json gives each layer."""
    window = config.get("sliding_window")
    if not window or config.get("use_sliding_window") is False:
        return (None,) * layers
    types = config.get("layer_types")
    if isinstance(types, list):
        if len(types) < layers:
            raise BadInput(f"layer_types: {len(types)} in config.json, which has {layers} layers")
        return tuple(window if kind == "sliding_attention" else None for kind in types[:layers])
    pattern = config.get("sliding_window_pattern")
    if isinstance(pattern, int) and pattern > 0:
        return tuple(window if (layer + 1) % pattern else None for layer in range(layers))
    return (window,) * layers


def context(config: Config, applied: tuple[int | None, ...]) -> int:
    """Positions a prompt and its sets may take, given the window (or none) that each layer applies.

    A window that the architecture ignores has no effect on shorter texts, so it becomes a limit.
    """
    limits = [config[key] for key in _LENGTHS if isinstance(config.get(key), int)][:1]
    scaling = config.get("rope_scaling")
    if isinstance(scaling, dict) and scaling.get("type") in ("longrope", "su"):
        limits.append(scaling["original_max_position_embeddings"])
    asked = windows_asked(config, len(applied))
    if any(applied) or config.get("rope_local_base_freq") is not None:
        _check_windows(config, asked, applied)
    else:
        limits += [window for window in asked if window is not None]
    return min(limits, default=UNLIMITED)


def _check_windows(config: Config, asked: tuple[int | None, ...], applied: tuple[int | None, ...]) -> None:
    if not isinstance(config.get("layer_types"), list):
        return  # then the architecture's own pattern is the only one there is
    for layer, (wish, done) in enumerate(zip(asked, applied, strict=True)):
        if wish != done:
            raise BadInput(
                f"layer_types: layer {layer} should have the window {wish}, but mlx-lm's "
                f"{config['model_type']} gives it {done}"
            )
