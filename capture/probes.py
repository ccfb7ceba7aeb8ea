"""What goes on inside a layer: residual stream, projections, MLP; and what is taken out of it by ablation.

Modules are watched from outside: for the time of a run the `__call__` of their classes looks whether the
instance is one of those to watch.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from .model import Model  # first: it prepares the BLAS before MLX is there  # isort: skip

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ..errors import BadInput
from .forest import Ints
from .wanted import Wanted

Around = Callable[..., Any]  # (the call itself, its first argument, ...) -> what the call gives
Floats = npt.NDArray[np.float32]

# How mlx-lm's models call the parts of an MLP, tried in this order.
PARTS = {
    "down": r"down|4h_to_h|c_proj|w2|fc2|fc_out|out_proj",
    "both": r"gate_up",
    "gate": r"gate|w1",
    "up": r"up|h_to_4h|c_fc|w3|fc1|fc_in",
}


class Probes:
    """Watches the layers of a model for what is wanted of them; the tap drives it, pass by pass."""

    def __init__(self, model: Model, wanted: Wanted, ablations: frozenset[str]) -> None:
        self.model, self.wanted = model, wanted
        self.unrotated: list[mx.array] = []  # what RoPE was given since the last attention
        self._off = {target: _place(target, model) for target in sorted(ablations)}
        self._layers: list[nn.Module] = model.net.layers
        self._around: dict[int, Around] = {}
        self._undo: list[Callable[[], None]] = []
        self.begin([])

    def __enter__(self) -> "Probes":
        inner = inner_model(self.model.net)
        self.reads_rows = inner is not None
        if inner is not None:
            self._around[id(inner)] = self._read_rows
        mlps_off = {layer for layer, head in self._off.values() if head is None}
        for number, layer in enumerate(self._layers):
            if self.wanted.residual:
                self._watch_stream(number, layer)
            if number in mlps_off or number in self.wanted.internals:
                self._watch_mlp(number, _parts(layer, self.model.name, number)[1])
        kinds = {type(module) for module in self.model.net.modules() if id(module) in self._around}
        for kind in kinds:
            self._patch(kind)
        return self

    def __exit__(self, *_: object) -> None:
        while self._undo:
            self._undo.pop()()
        self._around.clear()

    def _patch(self, kind: type[nn.Module]) -> None:
        call, around = kind.__call__, self._around

        def watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            mine = around.get(id(module))
            if mine is None:
                return call(module, *args, **kwargs)
            return mine(partial(call, module), *args, **kwargs)

        inherited = "__call__" not in vars(kind)
        undo = partial(delattr, kind, "__call__") if inherited else partial(setattr, kind, "__call__", call)
        self._undo.append(undo)
        setattr(kind, "__call__", watched)  # noqa: B010 (mypy refuses to assign to a method)

    def begin(self, targets: Sequence[tuple[str, ...]], read: Ints | None = None) -> None:
        """Get ready for a pass; `targets` are each node's ablations, `read` the nodes the head works on."""
        self._kept: dict[str, dict[int, mx.array]] = {name: {} for name in self.wanted.nodes}
        self._read = None if read is None else mx.array(read)
        self.unrotated = []
        self._stream: mx.array | None = None
        self._heads: dict[int, mx.array] = {}
        self._mlps: dict[int, mx.array] = {}
        hit = {target for each in set(targets) for target in each}
        for target in hit:
            layer, head = self._off[target]
            off = mx.array([target in each for each in targets])
            if head is None:
                self._mlps[layer] = off[:, None, None]
            else:
                own = off[:, None] & (mx.arange(self.model.facts.heads) == head)
                self._heads[layer] = self._heads[layer] | own if layer in self._heads else own

    def arrays(self) -> Iterator[mx.array]:
        """What a pass has to evaluate."""
        for layers in self._kept.values():
            yield from layers.values()

    def nodes(self) -> dict[str, Floats]:
        """What was kept: name -> (layer, node, ...)."""
        return {
            name: np.stack([np.asarray(layers[layer]) for layer in sorted(layers)])
            for name, layers in self._kept.items()
            if layers
        }

    def without_heads(self, layer: int, mixed: mx.array) -> mx.array:
        """(node, head, width) with ablated heads' part taken out."""
        off = self._heads.get(layer)
        return mixed if off is None else mx.where(off[:, :, None], mx.zeros_like(mixed), mixed)

    def projected(self, layer: int, queries: mx.array, keys: mx.array, values: mx.array) -> None:
        """Keep a layer's queries and keys as they were before RoPE, and values: (node, head, 1, width)."""
        before, self.unrotated = self.unrotated, []
        if layer in self.wanted.internals:
            q, k = before if len(before) == 2 else (queries, keys)
            for name, value in (("q", q), ("k", k), ("v", values)):
                self._keep(name, layer, value[:, :, 0])

    def _keep(self, name: str, layer: int, value: mx.array) -> None:
        if name in self._kept:
            self._kept[name][layer] = value.astype(mx.float32)

    def _read_rows(self, call: Callable[..., mx.array], *args: Any, **kwargs: Any) -> mx.array:
        """The head works on the rows that are read, which are few."""
        out = call(*args, **kwargs)
        return out if self._read is None else mx.take(out, self._read, axis=0)

    def _watch_stream(self, number: int, layer: nn.Module) -> None:
        attention = _parts(layer, self.model.name, number)[0]
        calls: list[tuple[mx.array, mx.array]] = []
        mixed: list[int] = []  # where among the calls attention was

        def child(call: Callable[..., mx.array], x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
            out = call(x, *args, **kwargs)
            calls.append((x, out))
            return out

        def attend(call: Callable[..., mx.array], x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
            mixed.append(len(calls))
            return child(call, x, *args, **kwargs)

        def through(call: Callable[..., mx.array], x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
            if self._stream is not None and x is not self._stream:
                raise BadInput(f"{self.model.name}: capture.residual: its layers do not hand one stream on")
            calls.clear()
            mixed.clear()
            self._stream = out = call(x, *args, **kwargs)
            self._keep_stream(number, x)
            self._keep("after_attention", number, _after_attention(x, calls, mixed[0])[:, 0])
            if number == len(self._layers) - 1:
                self._keep_stream(number + 1, out)
            return out

        for module in _children(layer):
            self._around[id(module)] = attend if module is attention else self._around.get(id(module), child)
        self._around[id(layer)] = through

    def _keep_stream(self, layer: int, stream: mx.array) -> None:
        self._keep("residual", layer, stream[:, 0])
        if self.wanted.vectors is not None:
            vectors = mx.array(self.wanted.vectors[layer])
            self._keep("projection", layer, stream[:, 0].astype(mx.float32) @ vectors.T)

    def _watch_mlp(self, number: int, mlp: nn.Module) -> None:
        outside: Around = self._around.get(id(mlp), _called)

        def whole(call: Callable[..., mx.array], *args: Any, **kwargs: Any) -> mx.array:
            out: mx.array = outside(partial(self._mlp, call, number), *args, **kwargs)
            return out

        self._around[id(mlp)] = whole
        if number in self.wanted.internals:
            for name, module in mlp_parts(mlp, self.model.name, number).items():
                self._around[id(module)] = partial(self._inside, name, number)

    def _mlp(self, call: Callable[..., mx.array], number: int, *args: Any, **kwargs: Any) -> mx.array:
        out = call(*args, **kwargs)
        if number in self._mlps:
            out = mx.where(self._mlps[number], mx.zeros_like(out), out)
        if number in self.wanted.internals:
            self._keep("mlp_down", number, out[:, 0])
            nothing = mx.full((out.shape[0], self._neurons), mx.nan)
            self._kept["mlp_gate"].setdefault(number, nothing)  # an MLP without a gate
        return out

    @property
    def _neurons(self) -> int:
        neurons = self.wanted.neurons
        return self.model.facts.neurons if neurons is None else len(neurons)

    def _inside(
        self, name: str, number: int, call: Callable[..., mx.array], x: mx.array, *args: Any, **kwargs: Any
    ) -> mx.array:
        out = call(x, *args, **kwargs)
        if name == "down":
            self._keep_neurons("mlp_act", number, x)
        elif name == "both":
            gate, up = mx.split(out, 2, axis=-1)
            self._keep_neurons("mlp_gate", number, gate)
            self._keep_neurons("mlp_up", number, up)
        else:
            self._keep_neurons(f"mlp_{name}", number, out)
        return out

    def _keep_neurons(self, name: str, number: int, values: mx.array) -> None:
        chosen = self.wanted.neurons
        self._keep(name, number, values[:, 0] if chosen is None else values[:, 0][:, mx.array(chosen)])


def _called(call: Callable[..., mx.array], *args: Any, **kwargs: Any) -> mx.array:
    return call(*args, **kwargs)


def inner_model(net: nn.Module) -> nn.Module | None:
    """The part of a model before its output head."""
    net = net.get("language_model", net)
    return next((net[name] for name in ("model", "transformer", "backbone") if name in net), None)


def _place(target: str, model: Model) -> tuple[int, int | None]:
    """Layer and head of an ablation's target; None: the layer's MLP."""
    layer, *head = map(int, re.findall(r"\d+", target))
    if layer >= model.facts.layers or (head and head[0] >= model.facts.heads):
        raise BadInput(
            f"ablate: {target}: {model.name} has layers 0 to {model.facts.layers - 1} and heads 0 to "
            f"{model.facts.heads - 1}"
        )
    return layer, head[0] if head else None


def _children(layer: nn.Module) -> list[nn.Module]:
    return [child for child in layer.children().values() if isinstance(child, nn.Module)]


def _parts(layer: nn.Module, model: str, number: int) -> tuple[nn.Module, nn.Module]:
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
            f"{model}: layer {number} is made of {', '.join(heavy)}; what goes on inside can be "
            "watched or ablated where that is one attention and one MLP"
        )
    return attention[0], others[0]


def mlp_parts(mlp: nn.Module, model: str, number: int) -> dict[str, nn.Module]:
    """An MLP's projections: down, and up, gate, or both in one."""
    found: dict[str, nn.Module] = {}
    for name, child in mlp.children().items():
        part = next((part for part, pattern in PARTS.items() if re.search(pattern, name)), None)
        if part is not None and isinstance(child, nn.Module):
            found[part] = child
    if "down" not in found or not {"up", "both"} & set(found):
        raise BadInput(
            f"{model}: capture.internals: layer {number}'s MLP is made of {', '.join(mlp.children())}; "
            "what it does can be kept where it has an up and a down projection"
        )
    return found


def _after_attention(x: mx.array, calls: list[tuple[mx.array, mx.array]], mixed: int) -> mx.array:
    """The stream once attention is added: what the next module is given that is no module's output, nor x.

    Where there is none, attention and MLP run side by side, and it is x and what attention gave.
    """
    put_out = [out for _, out in calls]
    for given, _ in calls[mixed + 1 :]:
        if given is not x and not any(given is out for out in put_out):
            return given
    return x + calls[mixed][1]
