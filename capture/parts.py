"""Where in a layer things are: its attention, its MLP, and an MLP's projections, by how mlx-lm names them."""

import re

from .model import Model  # first: it prepares the BLAS before MLX is there  # isort: skip

import mlx.nn as nn

from ..errors import BadInput

# How mlx-lm's models call the parts of an MLP, tried in this order.
PARTS = {
    "down": r"down|4h_to_h|c_proj|w2|fc2|fc_out|out_proj",
    "both": r"gate_up",
    "gate": r"gate|w1|c_fc_0",
    "up": r"up|h_to_4h|c_fc|w3|fc1|fc_in",
}
ROPE = r"rope|rotary"


def inner_model(net: nn.Module) -> nn.Module | None:
    """The part of a model before its output head."""
    net = net.get("language_model", net)
    return next((net[name] for name in ("model", "transformer", "backbone") if name in net), None)


def ropes(attention: nn.Module) -> list[nn.Module]:
    """What turns an attention's queries and keys, where that is a module."""
    named = attention.named_modules()
    return [module for name, module in named if re.search(ROPE, name.rpartition(".")[2])]


def attention_and_mlp(layer: nn.Module, model: Model, number: int) -> tuple[nn.Module, nn.Module]:
    """A layer's attention and its MLP: the two children that hold more than vectors."""
    heavy = {
        name: child
        for name, child in layer.children().items()
        if isinstance(child, nn.Module) and child.children()
    }
    attention = [child for name, child in heavy.items() if "attn" in name or "attention" in name]
    others = [child for child in heavy.values() if child not in attention]
    if len(attention) != 1 or len(others) != 1:
        raise BadInput(
            f"{model.name}: layer {number} is made of {', '.join(heavy)}; what goes on inside can be "
            "watched or ablated where that is one attention and one MLP"
        )
    return _called_part(attention[0]), _called_part(others[0])


def _called_part(module: nn.Module) -> nn.Module:
    """The module itself, or what it holds where it only wraps that and is never called."""
    inside = [child for child in module.children().values() if isinstance(child, nn.Module)]
    return module if callable(module) or len(inside) != 1 else _called_part(inside[0])


def mlp_parts(mlp: nn.Module, model: Model, number: int) -> dict[str, nn.Module]:
    """An MLP's projections: down, and up, gate, or both in one."""
    found: dict[str, nn.Module] = {}
    twice = False
    for name, child in mlp.children().items():
        part = next((part for part, pattern in PARTS.items() if re.search(pattern, name)), None)
        if part is not None and isinstance(child, nn.Module):
            twice = twice or part in found
            found[part] = child
    if twice or "down" not in found or not {"up", "both"} & set(found):
        raise BadInput(
            f"{model.name}: capture.internals: layer {number}'s MLP is made of {', '.join(mlp.children())}; "
            "what it does can be kept where it has one up and one down projection"
        )
    return found
