"""mlx-lm's architectures: which of them can be observed, and one built from its config without weights."""

import ast
import importlib
import io
import sys
from contextlib import redirect_stdout
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from . import blas

blas.prepare()

import mlx.core as mx  # noqa: E402  (the BLAS has to be there first)
import mlx.nn as nn  # noqa: E402
import mlx_lm.models  # noqa: E402
from mlx_lm.models.base import BaseModelArgs  # noqa: E402
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache  # noqa: E402
from mlx_lm.utils import MODEL_ARCHITECTURE_REMAPPING, MODEL_REMAPPING  # noqa: E402

from ..errors import BadInput  # noqa: E402
from .config import Config  # noqa: E402

ATTENTION = "scaled_dot_product_attention"

# what an architecture's source says when its attention is more than a softmax over cached keys
MISFITS = {
    "ArraysCache": "carries a recurrent state besides keys and values",
    "CacheList": "keeps several caches a layer",
    "ChunkedKVCache": "attends in chunks",
    "ConcatenateKVCache": "shares keys and values between layers",
    "num_kv_shared_layers": "shares keys and values between layers",
    "kv_lora_rank": "caches a latent instead of keys and values",
    "blocksparse": "has block-sparse layers",
    "sinks": "has attention sinks",
    "sink_bias": "has attention sinks",
    "mx.fast.scaled_dot_product_attention": "calls the fused attention directly",
    "np.arange(cache[0].offset": "takes one position for all sequences of a batch",
    "window_size=self.window_size + 1": "looks back one position more than its cache keeps",
    "loop_window_size": "goes through its layers more than once",
    "attention_other_setting": "has another number of heads in some layers",
    "n_heads_in_group": "has another number of heads in some layers",
    "num_query_heads": "has another number of heads in each layer",
}
ONLY_METAL = "bitlinear_layers"  # its kernels are written for nothing else
# what the constructor of an architecture raises at a config it cannot take
UNBUILDABLE = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    ZeroDivisionError,
    RuntimeError,
)


def one_line(error: BaseException, most: int = 200) -> str:
    """An error's message as one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[:most]} ..."


def _folder() -> Path:
    return Path(next(iter(mlx_lm.models.__path__)))


@cache
def misfit(name: str) -> str | None:
    """Why an architecture of mlx-lm cannot be observed; None if nothing in its source speaks against it."""
    path = _folder() / f"{name}.py"
    if not path.is_file():
        return "is not an architecture of mlx-lm"
    source = path.read_text("utf-8")
    tree = ast.parse(source)
    if not {"Model", "ModelArgs"} <= {node.name for node in tree.body if isinstance(node, ast.ClassDef)}:
        return "is not an architecture of mlx-lm"
    if "class ModelArgs:" in source:
        return "says its shape in words of its own"
    for word, reason in MISFITS.items():
        if word in source:
            return reason
    if ONLY_METAL in source and not (mx.metal.is_available() and mx.default_device() == mx.gpu):
        return "computes on Metal GPUs only"
    if any(isinstance(node, ast.Call) and _is_attention(node.func) for node in ast.walk(tree)):
        changed = "changes keys or values after they went into the cache"
        return changed if _changes_what_it_cached(tree) else None
    return _borrowed(tree, source)


def _is_attention(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id == ATTENTION


def _changes_what_it_cached(tree: ast.Module) -> bool:
    """Whether a function of a module gives another value to what it has from its cache, further down."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return any(_assigns_again(function.body) for function in functions)


def _assigns_again(body: list[ast.stmt]) -> bool:
    cached: set[str] = set()
    for statement in body:
        assignments = [node for node in ast.walk(statement) if isinstance(node, ast.Assign)]
        if cached & {name for each in assignments for name in _targets(each)}:
            return True
        cached |= {name for each in assignments if _is_update(each.value) for name in _targets(each)}
    return False


def _targets(assignment: ast.Assign) -> set[str]:
    names = [node for target in assignment.targets for node in ast.walk(target)]
    return {node.id for node in names if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _is_update(value: ast.expr) -> bool:
    function = value.func if isinstance(value, ast.Call) else None
    return isinstance(function, ast.Attribute) and function.attr == "update_and_fetch"


def _borrowed(tree: ast.Module, source: str) -> str | None:
    """What is wrong with those an architecture takes its layers from, if it calls no attention itself."""
    relative = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level]
    names = [name for node in relative for name in ([node.module] if node.module else _imported(node))]
    reasons = [misfit(name) for name in names]
    if None in reasons:
        return None
    if "softmax(" in source:
        return "computes its own softmax"
    known = [reason for reason in reasons if reason and "not an architecture" not in reason]
    return known[0] if known else "has no attention of mlx-lm's"


def _imported(node: ast.ImportFrom) -> list[str]:
    return [alias.name for alias in node.names]


@cache
def working() -> tuple[str, ...]:
    """Names of mlx-lm's architectures that nothing speaks against, and of those that are the same as one."""
    names = {path.stem for path in _folder().glob("*.py") if misfit(path.stem) is None}
    return tuple(sorted(names | {name for name, same in MODEL_REMAPPING.items() if same in names}))


def refused(name: str, reason: str) -> BadInput:
    """The refusal of an architecture by name, with those that work."""
    return BadInput(f"{name} {reason}; these work: {', '.join(working())}")


def python_module(config: Config) -> ModuleType:
    """The module of mlx-lm that a config's architecture is in; refused if it does not fit."""
    name = config["model_type"]
    pairs = [(name, architecture) for architecture in config.get("architectures") or ()]
    remapped = [MODEL_ARCHITECTURE_REMAPPING[pair] for pair in pairs if pair in MODEL_ARCHITECTURE_REMAPPING]
    stem = remapped[0] if remapped else MODEL_REMAPPING.get(name, name)
    if reason := misfit(stem):
        raise refused(name, reason)
    return importlib.import_module(f"mlx_lm.models.{stem}")


def argument_names(module: ModuleType) -> frozenset[str]:
    """Every key that an architecture, or one it takes its layers from, reads from config.json."""
    values = [*vars(module).values()]
    values += [v for inner in values if isinstance(inner, ModuleType) for v in vars(inner).values()]
    classes = [
        v for v in values if isinstance(v, type) and issubclass(v, BaseModelArgs) and v is not BaseModelArgs
    ]
    return frozenset(field.name for found in classes for field in fields(found))


def build(config: Config) -> nn.Module:
    """The architecture with random weights, which MLX does not compute before someone asks for them."""
    module = python_module(config)
    said = io.StringIO()
    try:
        with redirect_stdout(said):  # phi3 prints a warning about a key it drops; `check_honoured` refuses
            net: nn.Module = module.Model(module.ModelArgs.from_dict(config))
    except UNBUILDABLE as error:
        raise BadInput(f"config.json is not one of a {config['model_type']}: {one_line(error)}") from None
    check_fit(net, config["model_type"])
    return net


def arguments(net: nn.Module) -> dict[str, Any]:
    """What the architecture made of config.json; the innermost model's word counts."""
    found: dict[str, Any] = {}
    for module in reversed([m for _, m in net.named_modules()]):
        for value in vars(module).values():
            if isinstance(value, BaseModelArgs):
                found = vars(value) | found
    return found


def attention_classes(net: nn.Module) -> list[type]:
    """(layer,): for every module of a net that attends, the class that calls mlx-lm's attention."""
    calls = [_calling(module.__class__) for _, module in net.named_modules()]
    return [found for found in calls if found is not None]


def _calling(kind: type) -> type | None:
    for ancestor in kind.__mro__:
        function = vars(ancestor).get("__call__")
        if ancestor is nn.Module or ancestor.__module__.startswith("mlx.nn"):
            return None
        if function is not None and ATTENTION in function.__code__.co_names:
            return ancestor
    return None


def attention_modules(net: nn.Module) -> list[ModuleType]:
    """The python modules whose name `scaled_dot_product_attention` must be replaced to observe a net."""
    names = dict.fromkeys(kind.__module__ for kind in attention_classes(net))
    return [sys.modules[name] for name in names if ATTENTION in vars(sys.modules[name])]


def check_fit(net: nn.Module, name: str) -> None:
    """Refuse a net whose layers do not each attend once, over keys and values that are cached plainly."""
    layers, caches = len(net.layers), make_prompt_cache(net)
    odd = sorted({type(found).__name__ for found in caches} - {KVCache.__name__, RotatingKVCache.__name__})
    if odd:
        raise refused(name, f"keeps a {odd[0]}, not plain keys and values")
    if len(caches) != layers:
        raise refused(name, "shares keys and values between layers")
    if len(attention_classes(net)) != layers:
        reason = f"attends {len(attention_classes(net))} times through mlx-lm in {layers} layers"
        raise refused(name, reason)


def windows(net: nn.Module) -> tuple[int | None, ...]:
    """(layer,): the sliding window that each layer of a net applies."""
    caches = make_prompt_cache(net)
    return tuple(found.max_size if isinstance(found, RotatingKVCache) else None for found in caches)


def cached_heads(net: nn.Module, name: str) -> tuple[int, int]:
    """How many heads keys have, and how many numbers a head; refused if layers differ. Computes nothing."""
    caches: list[Any] = make_prompt_cache(net)
    try:
        net(mx.array([[0]]), cache=caches)
    except UNBUILDABLE as error:
        raise BadInput(f"config.json is not one of a working {name}: {one_line(error)}") from None
    shapes = {(found.keys.shape[1], found.keys.shape[3]) for found in caches}
    each = arguments(net).get("num_attention_heads_per_layer") or ()
    if len(shapes) > 1 or len(set(each)) > 1:
        raise refused(name, "has here another number of heads in some layers")
    return shapes.pop()


def module_of(net: nn.Module) -> ModuleType:
    """The python module that a net's class is in."""
    return sys.modules[type(net).__module__]
