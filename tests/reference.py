"""An oracle that shares no code with the engine: TEMPO written again in numpy, without cache, in float64.

Every step recomputes the whole sequence under an explicit mask with explicit positions. Where mlx-lm and
Hugging Face differ it does what mlx-lm does, because that is what the engine runs: gpt_neox always has the
tanh form of GELU, gemma3's embedding scale is rounded to bfloat16, and windows are as in `windows`.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int_]
Mask = npt.NDArray[np.bool_]
Config = dict[str, Any]
Rows = dict[str, Array]  # what one layer leaves behind, under the names of Pass

GATED = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "olmo2", "smollm3")
SUPPORTED = (*GATED, "gpt_neox", "gpt2")

# Every checkpoint is read into the names of llama, which most architectures use.
RENAMED = [
    (r"^((model|transformer|gpt_neox)\.)+", ""),
    (r"^h\.", "layers."),
    (r"^(wte|embed_in)\.", "embed_tokens."),
    (r"^(ln_f|final_layer_norm)\.", "norm."),
    (r"^embed_out\.", "lm_head."),
    (r"\.ln_1\.", ".input_layernorm."),
    (r"\.ln_2\.", ".post_attention_layernorm."),
    (r"\.(attn\.c_attn|attention\.query_key_value)\.", ".self_attn.qkv_proj."),
    (r"\.(attn\.c_proj|attention\.dense)\.", ".self_attn.o_proj."),
    (r"\.mlp\.(c_fc|dense_h_to_4h)\.", ".mlp.up_proj."),
    (r"\.mlp\.(c_proj|dense_4h_to_h)\.", ".mlp.down_proj."),
]

# The norms before attention, on what it puts out, before the MLP, and on what that puts out.
NORMS: dict[str, tuple[str | None, str | None, str | None, str | None]] = {
    "gemma3_text": (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ),
    "olmo2": (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
}
USUAL_NORMS = ("input_layernorm", None, "post_attention_layernorm", None)
THETA = {"qwen2": 1e6, "gemma3_text": 1e6}  # mlx-lm's, where the config names none; elsewhere 10,000
WHOLE_MLP = -1  # stands among the numbers of removed heads


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass over n tokens; layers lead everywhere but in logits."""

    logits: Array  # (n, vocab)
    attention: Array  # (layers, heads, n, n); exactly 0 where hidden
    residual: Array  # (layers + 1, n, hidden): into each layer, and out of the last, before the last norm
    after_attention: Array  # (layers, n, hidden)
    keys: Array  # (layers, kv_heads, n, head_dim), after RoPE
    values: Array  # (layers, kv_heads, n, head_dim)
    q: Array  # (layers, n, heads, head_dim), before RoPE, after any norm
    k: Array  # (layers, n, kv_heads, head_dim), likewise
    v: Array  # (layers, n, kv_heads, head_dim)
    mlp_gate: Array  # (layers, n, neurons) before the activation; 0 neurons where the MLP has no gate
    mlp_up: Array  # (layers, n, neurons); where there is no gate, this is before the activation
    mlp_act: Array  # (layers, n, neurons): what goes into the down projection
    mlp_down: Array  # (layers, n, hidden): what the MLP puts out, before any norm; 0 where ablated


class Reference:
    """A float checkpoint in Hugging Face layout."""

    def __init__(self, folder: Path | str) -> None:
        config: Config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
        self.config, self.kind = config, str(config["model_type"])
        if self.kind not in SUPPORTED:
            raise ValueError(f"no reference for {self.kind}; there is one for {', '.join(SUPPORTED)}")
        self.weights = load_weights(Path(folder))
        self.layers: int = config.get("num_hidden_layers") or config["n_layer"]
        self.heads: int = config.get("num_attention_heads") or config["n_head"]
        self.kv_heads: int = config.get("num_key_value_heads") or self.heads
        hidden = self.weights["embed_tokens.weight"].shape[1]
        self.head_dim: int = config.get("head_dim") or hidden // self.heads

    def forward(
        self, tokens: Sequence[int], positions: Sequence[int], mask: Mask, ablate: Collection[str] = ()
    ) -> Pass:
        """All of one pass; mask ([layers or 1,] n, n) is True where a query may see a key."""
        masks = np.broadcast_to(mask, (self.layers, len(tokens), len(tokens)))
        if not masks.any(-1).all():
            raise ValueError("a query that sees no key has no attention")
        removed, where = self._removed(ablate), np.asarray(positions)
        residual, done = [self._embed(np.asarray(tokens), where)], []
        for layer in range(self.layers):
            rows = self._layer(layer, residual[-1], where, masks[layer], removed[layer])
            residual.append(rows.pop("stream"))
            done.append(rows)
        stacked = {name: np.stack([rows[name] for rows in done]) for name in done[0]}
        return Pass(logits=self._head(residual[-1]), residual=np.stack(residual), **stacked)

    def _removed(self, ablate: Collection[str]) -> list[set[int]]:
        """The heads to remove from each layer, with WHOLE_MLP among them where the MLP goes."""
        removed: list[set[int]] = [set() for _ in range(self.layers)]
        for name in ablate:
            found = re.fullmatch(r"L(\d+)(?:H(\d+)|\.mlp)", name)
            head = int(found[2]) if found and found[2] else WHOLE_MLP
            if not found or int(found[1]) >= self.layers or head >= self.heads:
                raise ValueError(f"{name}: not a head (L0H0) or MLP (L0.mlp) of this model")
            removed[int(found[1])].add(head)
        return removed

    def _embed(self, tokens: Ints, positions: Ints) -> Array:
        stream = self.weights["embed_tokens.weight"][tokens]
        if self.kind == "gpt2":
            return stream + self.weights["wpe.weight"][positions]
        return stream * _bfloat16(math.sqrt(stream.shape[1])) if self.kind == "gemma3_text" else stream

    def _head(self, stream: Array) -> Array:
        own = "lm_head.weight" in self.weights
        # In these two mlx-lm goes by the weights alone; elsewhere a matrix of its own may be there unused.
        by_weights = self.kind in ("gemma3_text", "gpt_neox")
        tied = not own or (not by_weights and self.config.get("tie_word_embeddings", self.kind != "phi3"))
        matrix = self.weights["embed_tokens.weight" if tied else "lm_head.weight"]
        return np.asarray(self._norm("norm", stream) @ matrix.T)

    def _layer(self, layer: int, stream: Array, positions: Ints, mask: Mask, removed: set[int]) -> Rows:
        into, out, into_mlp, out_mlp = NORMS.get(self.kind, USUAL_NORMS)
        at = f"layers.{layer}."
        rows = self._attend(layer, self._norm_at(at, into, stream), positions, mask, removed - {WHOLE_MLP})
        attended = stream + self._norm_at(at, out, rows.pop("output"))
        parallel = self.kind == "gpt_neox" and self.config.get("use_parallel_residual", True)
        rows |= self._mlp(at + "mlp.", self._norm_at(at, into_mlp, stream if parallel else attended))
        if WHOLE_MLP in removed:
            rows["mlp_down"] = np.zeros_like(stream)
        rows["after_attention"] = attended
        rows["stream"] = attended + self._norm_at(at, out_mlp, rows["mlp_down"])
        return rows

    def _attend(self, layer: int, x: Array, positions: Ints, mask: Mask, removed: set[int]) -> Rows:
        at = f"layers.{layer}.self_attn."
        q, k, v = self._project(at, x)
        angles = positions[:, None] * frequencies(self.config, layer, self.head_dim)
        queries, keys, values = (part.swapaxes(0, 1) for part in (_rotate(q, angles), _rotate(k, angles), v))
        scale = self.config.get("query_pre_attn_scalar", 256) if self.kind == "gemma3_text" else self.head_dim
        weights, mixed = [], []
        for head in range(self.heads):
            shared = head * self.kv_heads // self.heads
            weights.append(_softmax(queries[head] @ keys[shared].T / math.sqrt(scale), mask))
            mixed.append(weights[-1] @ values[shared] * (head not in removed))
        output = self._linear(at + "o_proj", np.concatenate(mixed, axis=1))
        rows = {"q": q, "k": k, "v": v, "keys": keys, "values": values}
        return rows | {"attention": np.stack(weights), "output": output}

    def _project(self, at: str, x: Array) -> tuple[Array, Array, Array]:
        """Queries, keys and values (n, heads, head_dim), however the checkpoint fuses them."""
        n, d = len(x), self.head_dim
        if self.kind == "gpt_neox":  # q, k and v of each head lie side by side
            fused = self._linear(at + "qkv_proj", x).reshape(n, self.heads, 3, d)
            return fused[:, :, 0], fused[:, :, 1], fused[:, :, 2]
        if at + "qkv_proj.weight" in self.weights:
            cuts = [self.heads * d, (self.heads + self.kv_heads) * d]
            q, k, v = np.split(self._linear(at + "qkv_proj", x), cuts, axis=1)
        else:
            q, k, v = (self._linear(f"{at}{name}_proj", x) for name in "qkv")
        if self.kind == "olmo2":  # over the whole projection, before it is cut into heads
            q, k = self._norm(at + "q_norm", q), self._norm(at + "k_norm", k)
        q, k, v = (part.reshape(n, -1, d) for part in (q, k, v))
        if self.kind in ("qwen3", "gemma3_text"):
            q, k = self._norm(at + "q_norm", q), self._norm(at + "k_norm", k)
        return q, k, v

    def _mlp(self, at: str, x: Array) -> Rows:
        if self.kind == "phi3":
            gate, up = np.split(self._linear(at + "gate_up_proj", x), 2, axis=1)
        else:
            up = self._linear(at + "up_proj", x)
            gate = self._linear(at + "gate_proj", x) if self.kind in GATED else up[:, :0]
        if self.kind not in GATED:
            act = _gelu(up)
        else:
            act = (_gelu(gate) if self.kind == "gemma3_text" else gate / (1 + np.exp(-gate))) * up
        down = self._linear(at + "down_proj", act)
        return {"mlp_gate": gate, "mlp_up": up, "mlp_act": act, "mlp_down": down}

    def _linear(self, name: str, x: Array) -> Array:
        projected: Array = x @ self.weights[name + ".weight"].T
        return projected + self.weights[name + ".bias"] if name + ".bias" in self.weights else projected

    def _norm_at(self, at: str, name: str | None, x: Array) -> Array:
        return x if name is None else self._norm(at + name, x)

    def _norm(self, name: str, x: Array) -> Array:
        weight = self.weights[name + ".weight"] + (self.kind == "gemma3_text")
        if self.kind in GATED:
            scale = np.sqrt((x**2).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
            return np.asarray(x / scale * weight)
        eps = self.config["layer_norm_epsilon" if self.kind == "gpt2" else "layer_norm_eps"]
        centred = x - x.mean(-1, keepdims=True)
        scaled: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return scaled * weight + self.weights[name + ".bias"]


def load_weights(folder: Path) -> Rows:
    """All tensors of a checkpoint in float64, under llama's names, as (out, in)."""
    weights: Rows = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, value in load_file(file).items():
            for pattern, better in RENAMED:
                name = re.sub(pattern, better, name)
            weights[name] = value.astype(np.float64)
    if not weights or any(name.endswith(".scales") for name in weights):
        raise ValueError(f"{folder.name}: the reference needs *.safetensors of floats, not quantised")
    fused = weights.get("layers.0.self_attn.qkv_proj.weight")
    if "wpe.weight" in weights and fused is not None and fused.shape[0] < fused.shape[1]:
        # GPT-2 as published has Conv1D weights (in, out); mlx-lm stores them the usual way round.
        turned = re.compile(r"layers\.\d+\..*_proj\.weight")
        return {name: value.T if turned.fullmatch(name) else value for name, value in weights.items()}
    return weights


def frequencies(config: Config, layer: int, head_dim: int) -> Array:
    """Radians per position of each rotated pair (pairs,); none in a layer without RoPE."""
    if not _rotates(config, layer):
        return np.zeros(0)
    sliding = config["model_type"] == "gemma3_text" and windows(config)[layer] is not None
    rope: Config = config.get("rope_parameters") or {}
    rope = rope.get("sliding_attention" if sliding else "full_attention", rope)
    scaling: Config = rope or (not sliding and config.get("rope_scaling")) or {}
    usual = 1e4 if sliding else THETA.get(config["model_type"], 1e4)
    old = "rope_local_base_freq" if sliding else "rope_theta"
    theta: float = rope.get("rope_theta") or config.get(old) or config.get("rotary_emb_base") or usual
    part: float = config.get("partial_rotary_factor") or config.get("rotary_pct") or 1.0
    dims = int(head_dim * rope.get("partial_rotary_factor", part))
    return _scaled(theta ** (-np.arange(0, dims, 2) / dims), scaling)


def _rotates(config: Config, layer: int) -> bool:
    if config["model_type"] != "smollm3":
        return bool(config["model_type"] != "gpt2")
    listed = config.get("no_rope_layers")  # 1 stands for a layer WITH RoPE, whatever the name says
    return bool(listed[layer] if listed else (layer + 1) % config.get("no_rope_layer_interval", 4))


def _scaled(plain: Array, scaling: Config) -> Array:
    """Frequencies after the config's rope scaling (pairs,)."""
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return plain
    if kind == "linear":
        return np.asarray(plain / scaling["factor"])
    if kind != "llama3":
        raise ValueError(f"no reference for rope scaling of type {kind}; there is one for llama3 and linear")
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)  # slow pairs are stretched, fast ones are not
    return np.asarray(plain * (kept + (1 - kept) / scaling["factor"]))


def windows(config: Config) -> list[int | None]:
    """The sliding window of each layer as mlx-lm applies it; None: the layer sees everything."""
    count = config.get("num_hidden_layers") or config["n_layer"]
    kind, types = config["model_type"], config.get("layer_types")
    if kind == "gemma3_text" and not types:
        every = config.get("sliding_window_pattern", 6)
        types = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(count)]
    if kind not in ("llama", "mistral", "smollm3", "gemma3_text") or not types:
        return [None] * count
    return [config.get("sliding_window", 512) if name == "sliding_attention" else None for name in types]


def _rotate(x: Array, angles: Array) -> Array:
    """Pairs (i, i + pairs) of x (n, heads, head_dim) turned by angles (n, pairs); the rest as it was."""
    pairs = angles.shape[1]
    first, second, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def _softmax(scores: Array, mask: Mask) -> Array:
    shown = np.where(mask, scores, -np.inf)
    weights = np.exp(shown - shown.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def _gelu(x: Array) -> Array:
    return np.asarray(x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _bfloat16(value: float) -> float:
    """The nearest bfloat16, ties to even."""
    bits = int(np.float32(value).view(np.uint32))
    bits += 0x7FFF + ((bits >> 16) & 1)
    return float(np.uint32(bits & 0xFFFF0000).view(np.float32))


def visible(
    mode: str,
    steps: Sequence[int],
    positions: Sequence[int],
    pruned_at: Sequence[int],
    window: int | None = None,
) -> Mask:
    """Who sees whom (n, n): True where the query (row) may see the key (column)."""
    n = len(steps)
    sight = np.zeros((n, n), dtype=bool)
    for query in range(n):
        for key in range(n):
            pruned = 0 <= pruned_at[key] <= steps[query]
            near = window is None or positions[query] - positions[key] < window
            sight[query, key] = _may_see(mode, query, key, steps) and near and not pruned
    return sight


def _may_see(mode: str, query: int, key: int, steps: Sequence[int]) -> bool:
    if steps[query] != steps[key]:
        return steps[key] < steps[query]
    if steps[query] == -1 or mode == "causal":
        return key <= query
    return {"isolated": key == query, "visible": True, "single": key == query}[mode]


@dataclass(slots=True)
class Slots:
    """Everything fed so far, one entry a token."""

    tokens: list[int]
    steps: list[int]  # the set it belongs to; the prompt's is -1
    positions: list[int]
    pruned_at: list[int]
    chances: list[float]  # p = exp(l) when it was chosen, not the noisy p' that chose it


@dataclass(frozen=True, slots=True)
class Generated:
    """A finished experiment: its sets, and a pass over the prompt and all of them."""

    sets: list[list[int]]
    probabilities: list[list[float]]
    readouts: Array  # (sets, vocab): the log-softmax l that chose each set
    gaps: list[float]  # how little change of p' would change each set; inf where it was replayed
    slots: Slots
    capture: Pass


Prune = Callable[[Pass, Slots, int], Iterable[int]]


def generate(
    reference: Reference,
    prompt: Sequence[int],
    mode: str,
    threshold: float | Sequence[float],
    max_tokens: int,
    max_width: int = 16,
    readout: str = "mixture",
    temperature: float = 0.0,
    seed: int = 0,
    prompt_text: str = "",
    *,
    ablate: Collection[str] = (),
    clone: bool = False,
    end_tokens: Collection[int] = (),
    prune: Prune | None = None,
    replay: Generated | None = None,
) -> Generated:
    """TEMPO in the plainest way: all is recomputed each step; `prune` names slots to hide from then on."""
    start = len(prompt)
    slots = Slots(list(prompt), [-1] * start, list(range(start)), [-1] * start, [1.0] * start)
    readouts, gaps = [], []
    for step in range(len(replay.sets) if replay else max_tokens):
        state = _recompute(reference, slots, mode, ablate)
        _hide(state, slots, step, prune)
        logprob = _read(readout, state, slots, step)
        bar = threshold if isinstance(threshold, int | float) else threshold[step]
        noise = gumbel(seed, step, prompt_text, len(logprob)) if temperature else np.zeros(len(logprob))
        chosen, gap = select(logprob + temperature * noise, bar, max_width, mode == "single")
        if replay:
            chosen, gap = replay.sets[step], math.inf
        elif clone:
            chosen = chosen[:1] * len(chosen)
        ended = all(token in end_tokens for token in chosen)
        _feed(slots, chosen, step, logprob, hidden=() if ended else end_tokens)
        if replay:
            slots.pruned_at = replay.slots.pruned_at[: len(slots.tokens)]
        readouts.append(logprob)
        gaps.append(gap)
        if ended and not replay:
            break
    capture = _recompute(reference, slots, mode, ablate)
    _hide(capture, slots, len(gaps), prune)
    sets = [[slots.tokens[i] for i in _members(slots, step)] for step in range(len(gaps))]
    chances = [[slots.chances[i] for i in _members(slots, step)] for step in range(len(gaps))]
    return Generated(sets, chances, np.asarray(readouts), gaps, slots, capture)


def _feed(slots: Slots, chosen: list[int], step: int, logprob: Array, hidden: Collection[int]) -> None:
    position = slots.positions[-1] + 1
    for token in chosen:
        slots.tokens.append(token)
        slots.steps.append(step)
        slots.positions.append(position)
        slots.pruned_at.append(step + 1 if token in hidden else -1)
        slots.chances.append(float(np.exp(logprob[token])))


def _members(slots: Slots, step: int) -> list[int]:
    return [i for i, at in enumerate(slots.steps) if at == step]


def _recompute(reference: Reference, slots: Slots, mode: str, ablate: Collection[str]) -> Pass:
    sight = [
        visible(mode, slots.steps, slots.positions, slots.pruned_at, window)
        for window in windows(reference.config)
    ]
    return reference.forward(slots.tokens, slots.positions, np.asarray(sight), ablate)


def _hide(state: Pass, slots: Slots, step: int, prune: Prune | None) -> None:
    """After the rows of set step - 1: what `prune` names is hidden from this step on."""
    for slot in prune(state, slots, step - 1) if prune and step else ():
        slots.pruned_at[slot] = step


def _read(readout: str, state: Pass, slots: Slots, step: int) -> Array:
    """The log-probabilities (vocab,) that choose set `step`, from the survivors of the last one."""
    last = [i for i in _members(slots, step - 1) if not 0 <= slots.pruned_at[i] <= step]
    last = last if step else last[-1:]
    own = log_softmax(state.logits[last])
    weights = np.asarray([slots.chances[i] for i in last])
    if readout == "mixture":
        return np.asarray(np.logaddexp.reduce(np.log(weights / weights.sum())[:, None] + own, axis=0))
    return np.asarray(own[{"top": 0, "last": -1}[readout]])


def log_softmax(logits: Array) -> Array:
    """Of each row (n, vocab)."""
    low = logits - logits.max(-1, keepdims=True)
    return np.asarray(low - np.log(np.exp(low).sum(-1, keepdims=True)))


def gumbel(seed: int, step: int, prompt_text: str, vocab: int) -> Array:
    """The noise of one step (vocab,); it depends on nothing else, so modes and batch mates share it."""
    digest = hashlib.sha256(f"{seed}|{step}|{prompt_text}".encode()).digest()
    key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
    raw = np.random.Philox(key=np.asarray(key, dtype=np.uint64)).random_raw(vocab)
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(-np.log(-np.log(uniform)))


def select(noisy: Array, threshold: float, max_width: int, single: bool) -> tuple[list[int], float]:
    """The set that l + t G (vocab,) gives, best first, and the smallest change of p' that would change it."""
    chance = np.exp(log_softmax(noisy[None])[0])
    order = np.argsort(-chance, kind="stable")
    ranked = chance[order]
    passing = int((ranked >= threshold).sum())
    width = 1 if single else max(1, min(passing, max_width))
    decisive = [*(ranked[: width - 1] - ranked[1:width])]
    if width == passing and not single:
        decisive += [ranked[width - 1] - threshold, *(threshold - ranked[width : width + 1])]
    else:
        decisive += [*(ranked[width - 1] - ranked[width : width + 1])]
    return [int(token) for token in order[:width]], float(min(decisive, default=math.inf))
