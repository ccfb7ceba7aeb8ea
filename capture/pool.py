"""A layer's keys and values of every node that was fed; to mlx-lm's models it is that layer's cache."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

GROWTH = 1024  # nodes by which a pool grows at least


@dataclass(frozen=True, slots=True)
class Window:
    """What a model carries as its mask, from its cache to its attention: how far a layer looks back."""

    size: int | None


class Pool:
    """Keys and values of all nodes in one layer; to the model it is that layer's cache."""

    def __init__(self, layer: int) -> None:
        self.layer, self.nodes = layer, 0
        self.positions = mx.zeros(0, mx.int32)  # of the nodes being fed
        self.keys = self.values = mx.zeros((0, 0, 0))  # (kv head, node, width), with room for more
        self.fed: tuple[mx.array, mx.array] | None = None

    @property
    def offset(self) -> mx.array:
        """(node,): positions as models ask a cache for them."""
        return self.positions

    def make_mask(self, tokens: int, window_size: int | None = None, **_: Any) -> Window:
        """Who sees whom is not the model's to say, but how far a layer looks back is."""
        return Window(window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Take in (node, kv head, 1, head_dim)."""
        self.fed = keys, values
        self.keys = self._with(self.keys, keys)
        self.values = self._with(self.values, values)
        self.nodes += keys.shape[0]
        return keys, values

    def holds(self, keys: mx.array, values: mx.array) -> mx.array:
        """Whether its last nodes are these, bit for bit."""
        new = slice(self.nodes - keys.shape[0], self.nodes)
        same = [
            mx.array_equal(pool[:, new], fed[:, :, 0].swapaxes(0, 1), equal_nan=True)
            for pool, fed in ((self.keys, keys), (self.values, values))
        ]
        return same[0] & same[1]

    def _with(self, pool: mx.array, new: mx.array) -> mx.array:
        count, heads, _, width = new.shape
        if pool.shape[1] < self.nodes + count:
            room = mx.zeros((heads, max(GROWTH, count, self.nodes), width), new.dtype)
            pool = mx.concatenate([pool, room], axis=1) if self.nodes else room
        pool[:, self.nodes : self.nodes + count] = new[:, :, 0].swapaxes(0, 1)
        return pool
