"""What goes on inside a layer: residual stream, projections, MLP; and what is taken out of it by ablation.

Modules are watched from outside: for the time of a run the `__call__` of their classes looks whether the
instance is one of those to watch.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .model import Model  # first: it prepares the BLAS before MLX is there  # isort: skip

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ..errors import BadInput
from .forest import Ints
from .parts import attention_and_mlp, inner_model, mlp_parts, ropes
from .wanted import Wanted

Around = Callable[..., Any]  # (the call itself, its first argument, ...) -> what the call gives
Floats = npt.NDArray[np.float32]


@dataclass(slots=True)
class _Added:
    """What a layer's attention and its MLP gave, so that it can be gone through again without the MLP."""

    attention: list[Any] = field(default_factory=list)
    mlp: list[Any] = field(default_factory=list)
    again: bool = False

    @property
    def once_each(self) -> bool:
        """Whether both were called once, as a layer without its MLP presumes."""
        return len(self.attention) == len(self.mlp) == 1 and isinstance(self.mlp[0], mx.array)

    def attend(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Attention, which takes keys in and so must not be called twice."""
        if not self.again:
            self.attention.append(call(*args, **kwargs))
        return self.attention[-1]

    def think(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The MLP, or nothing in its place."""
        if self.again:
            return mx.zeros_like(self.mlp[0])
        self.mlp.append(call(*args, **kwargs))
        return self.mlp[-1]


class Probes:
    """Watches the layers of a model for what is wanted of them; the tap drives it, pass by pass."""

    def __init__(self, model: Model, wanted: Wanted, ablations: frozenset[str]) -> None:
        self.model, self.wanted = model, wanted
        self.unrotated: list[mx.array] = []  # what mx.fast.rope was given since the last attention
        self._turned: list[tuple[mx.array, mx.array]] = []  # what RoPE modules were given, and what they gave
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
                attention, mlp = attention_and_mlp(layer, self.model, number)
                self._watch_mlp(number, mlp)
                if number in self.wanted.internals:
                    self._around |= {id(rope): self._turn for rope in ropes(attention)}
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
        self.unrotated, self._turned = [], []
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
        for name in {"residual", "projection"} & self._kept.keys():
            if len(self._kept[name]) != len(self._layers) + 1:
                raise self._no_stream()
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
        turned, self._turned = self._turned, []
        unrotated, self.unrotated = self.unrotated, []
        if layer not in self.wanted.internals:
            return
        if turned and turned[0][1] is keys:  # some models turn their keys first
            turned.reverse()
        told = not turned or queries.shape != keys.shape or any(out is keys for _, out in turned)
        # a RoPE module may scale before it turns, so what it was given comes first
        given = [x for x, _ in turned] or unrotated or [queries, keys]
        if not told or [x.shape for x in given] != [queries.shape, keys.shape]:
            raise BadInput(
                f"{self.model.name}: capture.internals: layer {layer} turns parts of its queries and keys; q "
                "and k before RoPE can be kept where whole heads are turned at once"
            )
        for name, value in zip("qkv", (*given, values), strict=True):
            self._keep(name, layer, value[:, :, 0])

    def _keep(self, name: str, layer: int, value: mx.array) -> None:
        if name in self._kept:
            self._kept[name][layer] = value.astype(mx.float32)

    def _read_rows(self, call: Callable[..., mx.array], *args: Any, **kwargs: Any) -> mx.array:
        """The head works on the rows that are read, which are few."""
        out = call(*args, **kwargs)
        return out if self._read is None else mx.take(out, self._read, axis=0)

    def _watch_stream(self, number: int, layer: nn.Module) -> None:
        added = _Added()

        def through(call: Callable[..., mx.array], *args: Any, **kwargs: Any) -> mx.array:
            x = _first_array(args, kwargs)
            if x is None or (self._stream is not None and x is not self._stream):
                raise self._no_stream()
            out = call(*args, **kwargs)
            if not isinstance(out, mx.array):
                raise self._no_stream()
            self._stream = out
            self._keep_stream(number, x)
            if "after_attention" in self._kept:
                self._keep("after_attention", number, self._without_mlp(number, added, call, args, kwargs))
            if number == len(self._layers) - 1:
                self._keep_stream(number + 1, out)
            return out

        if "after_attention" in self._kept:
            attention, mlp = attention_and_mlp(layer, self.model, number)
            self._around |= {id(attention): added.attend, id(mlp): added.think}
        self._around[id(layer)] = through

    def _without_mlp(
        self, number: int, added: _Added, call: Callable[..., mx.array], args: Any, kwargs: Any
    ) -> mx.array:
        """(node, hidden): what the layer hands on where its MLP gives nothing, whatever it is made of.

        Only what stands between its parts is computed again, and of that only what the result depends on.
        """
        if not added.once_each:
            raise BadInput(
                f"{self.model.name}: capture.residual: layer {number} does not call its attention and its "
                "MLP once each; capture.project does without the stream between them"
            )
        added.again = True
        after = call(*args, **kwargs)
        added.attention.clear()
        added.mlp.clear()
        added.again = False
        return after[:, 0]

    def _no_stream(self) -> BadInput:
        return BadInput(
            f"{self.model.name}: capture.residual, capture.project: its layers do not hand one stream on"
        )

    def _keep_stream(self, layer: int, stream: mx.array) -> None:
        self._keep("residual", layer, stream[:, 0])
        if self.wanted.vectors is not None:
            vectors = mx.array(self.wanted.vectors[layer])
            self._keep("projection", layer, stream[:, 0].astype(mx.float32) @ vectors.T)

    def _turn(self, call: Callable[..., mx.array], x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        out = call(x, *args, **kwargs)
        self._turned.append((x, out))
        return out

    def _watch_mlp(self, number: int, mlp: nn.Module) -> None:
        outside: Around = self._around.get(id(mlp), _called)

        def whole(call: Callable[..., mx.array], *args: Any, **kwargs: Any) -> mx.array:
            out: mx.array = outside(partial(self._mlp, call, number), *args, **kwargs)
            return out

        self._around[id(mlp)] = whole
        if number in self.wanted.internals:
            for name, module in mlp_parts(mlp, self.model, number).items():
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


def _place(target: str, model: Model) -> tuple[int, int | None]:
    """Layer and head of an ablation's target; None: the layer's MLP."""
    layer, *head = map(int, re.findall(r"\d+", target))
    if layer >= model.facts.layers or (head and head[0] >= model.facts.heads):
        raise BadInput(
            f"ablate: {target}: {model.name} has layers 0 to {model.facts.layers - 1} and heads 0 to "
            f"{model.facts.heads - 1}"
        )
    return layer, head[0] if head else None


def _first_array(args: tuple[Any, ...], kwargs: dict[str, Any]) -> mx.array | None:
    return next((each for each in (*args, *kwargs.values()) if isinstance(each, mx.array)), None)
