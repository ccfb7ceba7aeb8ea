"""Every variable of a cube, once: template, writer, validator and documentation come from this table."""

from dataclasses import asdict, dataclass
from typing import Any

from .grid import Grid

SCHEMA_VERSION = 1
ROOT = "zarr.json"  # the root document: replacing it is what commits a change
MARK = "tempocube_schema"  # attribute that makes a Zarr group a cube of ours
VOCABULARY = "vocabulary"  # (vocab,): the text of every token, so that a cube can be read without its model
REPLACING = "tempocube_replacing"  # attribute of a root whose cube is being replaced

BLOCK = 64  # query rows, slots or steps in a shard
RANKS = 16  # best tokens kept exactly

PENDING, DONE, FAILED, NOT_ASKED, QUARANTINED = range(5)
STATUS = ("pending", "done", "failed", "not asked", "quarantined")
FAIL, PASS, NOT_APPLICABLE = range(3)

TREATMENT_CHECKS = (
    "rows_sum",
    "isolation",
    "sight",
    "cache",
    "positions",
    "distinct_keys",
    "finite",
    "width",
)
DIFFERENCES = tuple(f"{kind}_{of}" for kind in ("cross", "repeat") for of in ("attention", "logprob", "kl"))
CHECKS = TREATMENT_CHECKS + DIFFERENCES


@dataclass(frozen=True)
class ModelFacts:
    """What a cube must know of its model."""

    id: str
    sha256: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    neurons: int
    vocab: int
    windows: tuple[int | None, ...] = ()  # a layer's sliding window; empty: none has one

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "ModelFacts":
        """As `to_dict` wrote it."""
        return cls(**stored | {"windows": tuple(stored["windows"])})

    def to_dict(self) -> dict[str, Any]:
        """As stored in the cube's attributes."""
        return asdict(self) | {"windows": list(self.windows)}


@dataclass(frozen=True)
class Variable:
    """One variable; `dims` come after the cell dims.

    `codec`: which log16 scale packs it, if any. `content`: part of `digest`.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    fill: Any
    unit: str
    meaning: str
    codec: str | None = None
    content: bool = True


NAN = float("nan")
_SLOT, _STEP = ("slot",), ("step",)

# small arrays, which the driver alone writes
INDEX = (
    Variable(
        "status",
        (),
        "uint8",
        NOT_ASKED,
        "",
        "; ".join(f"{i} {s}" for i, s in enumerate(STATUS)),
        content=False,
    ),
    Variable("error", (), "string", "", "", "why the last try failed", content=False),
    Variable("attempts", (), "int16", 0, "", "tries so far", content=False),
    Variable("length", (), "int32", 0, "slots", "slots used"),
    Variable("text", (), "string", "", "", "rendered text, best token of each set first"),
    Variable("seconds", (), "float32", NAN, "s", "share of the batch's wall time by nodes", content=False),
    Variable("worker", (), "string", "", "", "who computed it", content=False),
    Variable("digest", (), "string", "", "", "hash of the stored values: integrity", content=False),
    Variable(
        "path_digest",
        (),
        "string",
        "",
        "",
        "hash of what the experiment was: distinct captures",
        content=False,
    ),
    Variable("token", _SLOT, "int32", -1, "id", "token fed; no such slot: -1"),
    Variable("logical", _SLOT, "int32", -1, "position", "position applied by RoPE; no such slot: -1"),
    Variable(
        "slot_step", _SLOT, "int32", -2, "step", "step that selected the token; prompt -1, no such slot -2"
    ),
    Variable("probability", _SLOT, "float32", NAN, "", "probability of the token when selected"),
    Variable("prune_score", _SLOT, "float32", NAN, "", "attention received, as pruning weighed it"),
    Variable(
        "pruned_at", _SLOT, "int32", -2, "step", "step from which it is hidden; never -1, no such slot -2"
    ),
    Variable("width", _STEP, "int32", 0, "tokens", "tokens in the set; no such set: 0"),
    Variable("capped", _STEP, "bool", False, "", "more tokens passed the threshold than max_width"),
    Variable("threshold_used", _STEP, "float64", NAN, "", "threshold of the step"),
    Variable("entropy", _STEP, "float32", NAN, "nat", "entropy of the step's readout"),
    Variable("margin_kept", _STEP, "float64", NAN, "", "last kept p' minus the bar it had to pass"),
    Variable("margin_dropped", _STEP, "float64", NAN, "", "the bar minus p' of the first dropped"),
    Variable("margin_order", _STEP, "float64", NAN, "", "smallest gap of p' between neighbours in the set"),
    Variable("top_token", ("step", "rank"), "int32", -1, "id", "best tokens of the readout"),
    Variable("top_logprob", ("step", "rank"), "float32", NAN, "nat", "their log-probabilities, exact"),
    Variable(
        "check_result",
        ("check",),
        "uint8",
        NOT_APPLICABLE,
        "",
        "0 fail, 1 pass, 2 not applicable",
        content=False,
    ),
    Variable("check_value", ("check",), "float64", NAN, "", "the number behind the check", content=False),
)

# dims with a coordinate of their own, besides the cells'
DIMENSIONS = (
    "layer",
    "residual_layer",
    "head",
    "check",
    "trait",
    "neuron",
)
COORDINATES = ("prompt", "prompt_text", "category", "seed", "mode", *DIMENSIONS)

_ATTENTION = ("layer", "head", "query", "key")
_KV = ("layer", "kv_head", "slot", "head_dim")


def _data(name: str, dims: tuple[str, ...], unit: str, meaning: str, codec: str | None = None) -> Variable:
    dtype, fill = ("uint16", 65535) if codec else ("float32", NAN)
    return Variable(name, dims, dtype, fill, unit, meaning, codec)


# big arrays, which the workers write
DATA = {
    "log_attention": _data(
        "log_attention", _ATTENTION, "nat", "log of the softmax weight; -inf hidden", "attention"
    ),
    "attention": _data("attention", _ATTENTION, "", "softmax weight; 0 hidden"),
    "packed_logits": _data("logits", ("step", "vocab"), "nat", "readout log-probabilities", "logits"),
    "logits": _data("logits", ("step", "vocab"), "nat", "readout log-probabilities"),
    "cached_key": _data("cached_key", _KV, "", "key in the cache, after RoPE"),
    "cached_value": _data("cached_value", _KV, "", "value in the cache"),
    "residual": _data(
        "residual", ("residual_layer", "slot", "hidden"), "", "stream into layer l; l+1: out of layer l"
    ),
    "after_attention": _data(
        "after_attention", ("layer", "slot", "hidden"), "", "stream after the attention block"
    ),
    "q": _data("q", ("layer", "slot", "head", "head_dim"), "", "queries, before RoPE"),
    "k": _data("k", ("layer", "slot", "kv_head", "head_dim"), "", "keys, before RoPE"),
    "v": _data("v", ("layer", "slot", "kv_head", "head_dim"), "", "values"),
    "mlp_up": _data("mlp_up", ("layer", "slot", "neuron"), "", "MLP up projection"),
    "mlp_gate": _data("mlp_gate", ("layer", "slot", "neuron"), "", "MLP gate, before its non-linearity"),
    "mlp_act": _data("mlp_act", ("layer", "slot", "neuron"), "", "what goes into the down projection"),
    "mlp_down": _data(
        "mlp_down", ("layer", "slot", "hidden"), "", "what the MLP puts out, before any norm that follows"
    ),
    "projection": _data(
        "projection", ("residual_layer", "slot", "trait"), "", "residual stream on each trait's unit vector"
    ),
}
INTERNALS = ("q", "k", "v", "mlp_up", "mlp_gate", "mlp_act", "mlp_down")


def data_variables(grid: Grid) -> tuple[Variable, ...]:
    """The big arrays a grid asks for."""
    capture, storage = grid.capture, grid.storage
    names: list[str] = []
    if capture.attention:
        names.append("log_attention" if storage.attention == "log16" else "attention")
    if capture.logits:
        names.append("packed_logits" if storage.logits == "log16" else "logits")
    names += ["cached_key", "cached_value"] * capture.keys_values
    names += ["residual", "after_attention"] * capture.residual
    names += INTERNALS if capture.internals else ()
    names += ["projection"] * bool(capture.project)
    return tuple(DATA[name] for name in names)


def captured(grid: Grid, variable: Variable) -> dict[str, list[int]]:
    """Dims of a big array of which a grid asks for a part only, with the part."""
    capture = grid.capture
    asked: dict[str, Any] = {}
    if variable.name in ("attention", "log_attention") and capture.attention:
        asked = {"layer": capture.attention.layers, "head": capture.attention.heads}
    elif variable.name in INTERNALS:
        asked = {"layer": capture.internals}
    return {dim: list(part) for dim, part in asked.items() if part != "all"}


def capacity(grid: Grid, prompt_tokens: int) -> int:
    """Slots that the longest experiment of a grid can need."""
    most = prompt_tokens + grid.generated_slots
    return most if grid.max_slots is None else min(most, grid.max_slots)


def sizes(grid: Grid, facts: ModelFacts, prompt_tokens: int) -> dict[str, int]:
    """Length of every dim of one cell's variables."""
    slots = capacity(grid, prompt_tokens)
    neurons = grid.capture.neurons
    return {
        "slot": slots,
        "query": slots,
        "key": slots,
        "step": grid.max_sets,
        "rank": min(RANKS, facts.vocab),
        "check": len(CHECKS),
        "layer": facts.layers,
        "residual_layer": facts.layers + 1,
        "head": facts.heads,
        "kv_head": facts.kv_heads,
        "head_dim": facts.head_dim,
        "hidden": facts.hidden,
        "neuron": facts.neurons if neurons == "all" else len(neurons),
        "vocab": facts.vocab,
        "trait": len(grid.capture.project),
    }


def table() -> str:
    """The variables as a Markdown table, for the documentation."""
    rows = [
        "| variable | dims after the cell dims | type | fill | unit | what |",
        "|---|---|---|---|---|---|",
    ]
    for variable in (*INDEX, *(DATA[name] for name in DATA if name != "logits")):
        kind = f"{variable.dtype}, log16" if variable.codec else variable.dtype
        cells = (
            variable.name,
            ", ".join(variable.dims),
            kind,
            "" if variable.fill == "" else str(variable.fill),
            variable.unit,
            variable.meaning,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
