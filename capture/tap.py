"""The tap: for the time of a run a model's attention is computed here, over pools of nodes.

mlx-lm's models serve many sequences in one batch: positions come from their cache's `offset`, one a sequence,
keys and values go through the cache, and attention is one function that each module calls by name. So a node
is fed as a sequence of one token, a layer's cache is a `Pool` of all nodes, and the function is ours.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType, TracebackType
from typing import Any

from .model import Model  # first: it prepares the BLAS before MLX is there  # isort: skip

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from . import fastexp
from .forest import Block, Feed
from .pool import Pool, Window
from .probes import Probes
from .wanted import Wanted

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int32]
ATTENTION = "scaled_dot_product_attention"


class Unfit(ValueError):
    """What a model does with its attention that the tap cannot follow."""


@dataclass(slots=True)
class Layer:
    """What one layer's attention did in a pass; arrays by block."""

    window: int | None = None
    nodes: int = 0
    offsets: list[Any] = field(default_factory=list)
    attention: list[mx.array] = field(default_factory=list)  # (kv head, growth, group, row, slot)
    total: list[mx.array] = field(default_factory=list)  # (growth, row, slot): sum of weights over heads
    off: list[mx.array] = field(default_factory=list)  # (growth, row): how far from 1 a row's sum is at most
    reached: list[mx.array] = field(default_factory=list)  # (growth, row): keys that are not masked
    held: list[mx.array] = field(default_factory=list)  # whether the pool has what was fed, once


@dataclass(frozen=True, slots=True)
class Watched:
    """What the attention of one block was.

    attention (growth, layer, head, row, slot), of what is kept; total (growth, row, slot) by window: weights
    summed over the layers that have it and their heads; reached (growth, row) by window: keys that no mask
    took from a row, the fewest in any layer; layer_total (growth, layer, row, slot), where asked for; off
    (growth, row): how far from 1 any layer's and head's row adds up.
    """

    attention: Floats | None
    total: dict[int | None, Floats]
    reached: dict[int | None, Counts]
    layer_total: Floats | None
    off: Floats


@dataclass(frozen=True, slots=True)
class Passed:
    """What a forward pass gave.

    logits (node read, vocab); nodes: name -> (layer, node, ...); position (node,), as RoPE applied them if
    the model has RoPE; shifted (node,): by how much any layer's were others; first_keys (node, ...): as layer
    0's pool holds them; pooled: every layer's pool and attention took in every node, as it was fed.
    """

    logits: Floats
    blocks: tuple[Watched, ...]
    nodes: dict[str, Floats]
    position: npt.NDArray[np.int32]
    rotated: bool
    shifted: npt.NDArray[np.int32]
    first_keys: Floats
    pooled: bool


class Tap:
    """A context manager; `forward` works inside it, and after it the model is as it was."""

    def __init__(
        self, model: Model, wanted: Wanted, *, ablations: frozenset[str] = frozenset(), by_layer: bool = False
    ) -> None:
        self.model, self.wanted, self._by_layer = model, wanted, by_layer
        self.pools = [Pool(layer) for layer in range(model.facts.layers)]
        self.passes = self.nodes = 0
        self._undo: list[Callable[[], None]] = []
        self._probes = Probes(model, wanted, ablations)

    def __enter__(self) -> "Tap":
        try:
            for module in self.model.attention_modules:
                self._replace(module, ATTENTION, self._attend)
            if fastexp.worthwhile():
                self._replace(nn, "gelu_approx", fastexp.gelu_approx)
                for module in {sys.modules[type(each).__module__] for each in self.model.net.modules()}:
                    if "swiglu" in vars(module):
                        self._replace(module, "swiglu", fastexp.swiglu)
            rope = mx.fast.rope
            self._replace(mx.fast, "rope", lambda x, *args, **kwargs: self._rotate(rope, x, *args, **kwargs))
            self._probes.__enter__()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._probes.__exit__()
        while self._undo:
            self._undo.pop()()
        self.pools.clear()  # they know the tap: in a circle they would outlive the run by many others

    def _replace(self, module: ModuleType, name: str, ours: Callable[..., Any]) -> None:
        self._undo.append(partial(setattr, module, name, getattr(module, name)))
        setattr(module, name, ours)

    def forward(self, feed: Feed, read: Sequence[int]) -> Passed:
        """Feed a pass; `read` are the nodes of it whose logits are wanted."""
        rows = np.asarray(read if len(read) else [0], np.int32)  # nothing works on no rows at all
        positions = mx.array(feed.logical)
        for pool in self.pools:
            pool.positions = positions
        self._blocks = [_Block.of(block) for block in feed.blocks]
        self._place = mx.array(_places(feed))
        self._layers = [Layer() for _ in self.pools]
        self._offsets: list[Any] = []
        targets = [growth.branch.ablate for growth in feed.growths for _ in range(growth.count)]
        self._probes.begin(targets, rows)
        logits = self.model.net(mx.array(feed.token)[:, None], cache=self.pools)[:, 0].astype(mx.float32)
        if not self._probes.reads_rows:
            logits = mx.take(logits, mx.array(rows), axis=0)
        mx.eval(logits, *self._probes.arrays(), *self._arrays())
        self.passes, self.nodes = self.passes + 1, self.nodes + feed.token.size
        return self._passed(feed, np.asarray(logits)[: len(read)])

    def _arrays(self) -> Iterator[mx.array]:
        for pool, layer in zip(self.pools, self._layers, strict=True):
            yield from (
                pool.keys,
                pool.values,
                *layer.attention,
                *layer.total,
                *layer.off,
                *layer.reached,
                *layer.held,
            )

    def _rotate(self, rope: Callable[..., mx.array], x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        """RoPE itself; what it was given is remembered until the layer's attention says whose it was."""
        self._offsets.append(kwargs["offset"] if "offset" in kwargs else args[-1])
        self._probes.unrotated.append(x)
        return rope(x, *args, **kwargs)

    def _attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        cache: Any = None,
        scale: float = 1.0,
        mask: Any = None,
        sinks: Any = None,
    ) -> mx.array:
        """Attention of every node over what its branch sees: (node, head, 1, head_dim)."""
        pool = self._pool_of(cache, keys, values, mask, sinks)
        layer = self._layers[pool.layer]
        layer.window = mask.size if isinstance(mask, Window) else None
        layer.nodes, layer.offsets, self._offsets = layer.nodes + queries.shape[0], self._offsets, []
        layer.held.append(pool.holds(keys, values))
        self._probes.projected(pool.layer, queries, keys, values)
        mixed = [self._attend_block(layer, pool, block, queries[:, :, 0] * scale) for block in self._blocks]
        out = mx.concatenate(mixed) if len(mixed) > 1 else mixed[0]
        out = mx.take(out, self._place, axis=0).astype(queries.dtype)
        return self._probes.without_heads(pool.layer, out)[:, :, None]

    def _pool_of(self, cache: Any, keys: mx.array, values: mx.array, mask: Any, sinks: Any) -> Pool:
        if not isinstance(cache, Pool) or cache.fed is None:
            raise Unfit("attends without a cache of its own layer")
        if sinks is not None:
            raise Unfit("has attention sinks")
        if keys is not cache.fed[0] or values is not cache.fed[1]:
            raise Unfit("changes keys or values after they went into the cache")
        if not (mask is None or isinstance(mask, Window)):
            raise Unfit("makes attention masks of its own")
        window = mask.size if isinstance(mask, Window) else None
        told = self.model.facts.windows[cache.layer] if self.model.facts.windows else None
        if window != told:
            raise Unfit(f"looks back {window or 'all'} positions in layer {cache.layer}, not {told or 'all'}")
        return cache

    def _attend_block(self, layer: Layer, pool: Pool, block: "_Block", queries: mx.array) -> mx.array:
        """(places of the block, head, value width): padded places included."""
        growths, rows = block.query.shape
        kv, width = pool.keys.shape[0], queries.shape[-1]
        group = queries.shape[1] // kv
        q = mx.take(queries, block.query.reshape(-1), axis=0).reshape(growths, rows, kv, group, width)
        q = q.transpose(2, 0, 3, 1, 4).reshape(kv, growths, group * rows, width)
        k, v = pool.keys[:, block.key], pool.values[:, block.key]  # much faster than mx.take on a CPU
        score = (q @ k.swapaxes(-1, -2)).astype(mx.float32).reshape(kv, growths, group, rows, -1)
        score = mx.where(block.see[layer.window], score, -mx.inf)
        weight, log_weight = fastexp.log_softmax_parts(score)
        mixed = weight.astype(v.dtype).reshape(kv, growths, group * rows, -1) @ v
        layer.total.append(weight.sum(axis=(0, 2)))
        layer.reached.append((log_weight[0, :, 0] != -mx.inf).sum(axis=-1))
        layer.off.append(mx.abs(weight.sum(axis=-1) - 1).max(axis=(0, 2)))
        if pool.layer in self.wanted.layers:
            layer.attention.append(log_weight if self.wanted.logs else weight)
        mixed = mixed.reshape(kv, growths, group, rows, -1).transpose(1, 3, 0, 2, 4)
        return mixed.reshape(growths * rows, kv * group, -1)

    def _passed(self, feed: Feed, logits: Floats) -> Passed:
        new = slice(self.nodes - feed.token.size, self.nodes)
        nodes = self._probes.nodes()
        for name, pools in (
            ("cached_key", [p.keys for p in self.pools]),
            ("cached_value", [p.values for p in self.pools]),
        ):
            if name in self.wanted.nodes:
                nodes[name] = np.stack([_on_host(pool[:, new]).swapaxes(0, 1) for pool in pools])
        first = _on_host(self.pools[0].keys[:, new]).swapaxes(0, 1).reshape(feed.token.size, -1)
        given = {id(offset): offset for layer in self._layers for offset in layer.offsets}
        applied = [np.broadcast_to(np.asarray(offset), feed.logical.shape) for offset in given.values()]
        return Passed(
            logits=logits,
            blocks=tuple(self._watched(i, len(block.growths)) for i, block in enumerate(feed.blocks)),
            nodes=nodes,
            position=applied[0] if applied else feed.logical,
            rotated=bool(applied),
            shifted=np.max([abs(each - feed.logical) for each in applied] or [feed.logical * 0], axis=0),
            first_keys=first,
            pooled=all(pool.nodes == self.nodes for pool in self.pools)
            and all(layer.nodes == feed.token.size and all(map(bool, layer.held)) for layer in self._layers),
        )

    def _watched(self, number: int, growths: int) -> Watched:
        """What the attention of one block was, over all layers."""
        tapped = [layer for layer in self._layers if len(layer.total) > number]
        totals: dict[int | None, Floats] = {}
        reached: dict[int | None, Counts] = {}
        for layer in tapped:
            seen, keys = np.asarray(layer.total[number]), np.asarray(layer.reached[number])
            if layer.window in totals:
                seen, keys = totals[layer.window] + seen, np.minimum(reached[layer.window], keys)
            totals[layer.window], reached[layer.window] = seen, keys
        kept = [
            _by_head(np.asarray(layer.attention[number]), self.wanted.heads)
            for layer in tapped
            if layer.attention
        ]
        return Watched(
            attention=np.stack(kept, axis=1) if kept else None,
            total=totals,
            layer_total=np.stack([np.asarray(layer.total[number]) for layer in tapped], axis=1)
            if self._by_layer
            else None,
            reached=reached,
            off=np.max([np.asarray(layer.off[number]) for layer in tapped], axis=0),
        )


@dataclass(frozen=True, slots=True)
class _Block:
    """A block on the device."""

    query: mx.array
    key: mx.array
    see: dict[int | None, mx.array]

    @classmethod
    def of(cls, block: Block) -> "_Block":
        see = {window: mx.array(mask[None, :, None]) for window, mask in block.see.items()}
        return cls(mx.array(block.query), mx.array(block.key), see)


def _places(feed: Feed) -> npt.NDArray[np.int32]:
    """(node,): where its row comes out of the blocks, whose padded rows stand one after the other."""
    place, start = np.empty(feed.token.size, np.int32), 0
    for block in feed.blocks:
        rows = block.query.shape[1]
        for i, growth in enumerate(block.growths):
            place[growth.nodes] = start + i * rows + np.arange(growth.count)
        start += block.query.size
    return place


def _by_head(attention: Floats, heads: tuple[int, ...]) -> Floats:
    """(growth, head, row, slot) from (kv head, growth, group, row, slot)."""
    kv, growths, group, *pairs = attention.shape
    ordered = attention.swapaxes(0, 1).reshape(growths, kv * group, *pairs)
    return ordered if len(heads) == kv * group else ordered[:, list(heads)]


def _on_host(values: mx.array) -> Floats:
    return np.asarray(values.astype(mx.float32))
