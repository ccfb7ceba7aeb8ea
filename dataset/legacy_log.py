"""What the JSON of an experiment's folder must be like: refusals in one line that names file and place."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from . import legacy_names as names
from .fields import Flag, Number, Right, Seed, wrong
from .grid import Leader, Mode
from .gridfile import Source, refusal
from .legacy_arrays import mapping

Kind = TypeVar("Kind", bound=BaseModel)
MOST_TOKENS = 1 << 21  # of a vocabulary: one text is made for each
MOST_HEADS = 1 << 14  # of a model, and as many layers

Text = Annotated[str, Field(strict=True), Right("text")]
Value = Annotated[float | None, Field(strict=True, allow_inf_nan=False), Right("a number or null")]
Chance = Annotated[
    float | None, Field(strict=True, ge=0, le=1 + 1e-6), Right("a probability from 0 to 1, or null")
]
Token = Annotated[
    int, Field(strict=True, ge=0, lt=MOST_TOKENS), Right(f"a token's number from 0 to {MOST_TOKENS - 1}")
]
Known = Annotated[
    int,
    Field(strict=True, ge=-1, lt=MOST_TOKENS),
    Right(f"a token's number from 0 to {MOST_TOKENS - 1}, or -1 (unknown)"),
]
Hidden = Annotated[int, Field(strict=True, ge=-1), Right("a step, or -1 (never)")]
Window = Annotated[int | None, Field(strict=True, ge=1), Right("a whole number of at least 1, or null")]
Sized = Annotated[int, Field(strict=True, ge=0, le=MOST_HEADS), Right(f"a number from 0 to {MOST_HEADS}")]
Vocabulary = Annotated[
    int, Field(strict=True, ge=1, le=MOST_TOKENS), Right(f"a whole number from 1 to {MOST_TOKENS}")
]


class _Told(BaseModel):
    """Part of a file; what is not named here is left alone."""

    model_config = ConfigDict(frozen=True)


class Named(_Told):
    """What is used of a log that was not written here."""

    prompt: Text | None = None


class Config(Named):
    """`config` of the metadata."""

    seed: Seed | None = None
    isolate: Flag | None = None
    mode: Text | None = None


class _Metadata(_Told):
    config: Config = Config()


class ToldSet(_Told):
    """One of `parallel_sets`."""

    step: Number
    tokens: tuple[Token, ...]
    positions: tuple[Number, ...]


class ToldSets(_Told):
    """parallel_sets.json."""

    parallel_sets: tuple[ToldSet, ...] = ()


class _Facts(_Told):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Text
    sha256: Text
    layers: Sized
    heads: Sized
    kv_heads: Sized
    head_dim: Number
    hidden: Number
    neurons: Number
    vocab: Vocabulary
    windows: tuple[Window, ...]


class _Parameters(_Told):
    """The rest of a cell's options is checked where they become a grid."""

    replay: Leader = None


class _Step(_Told):
    tokens: Annotated[tuple[Known, ...], Field(min_length=1)]
    texts: tuple[Text, ...]
    positions: tuple[Number, ...]
    logical: tuple[Number, ...]
    probabilities: tuple[Chance, ...]
    pruned_at: tuple[Hidden, ...]
    prune_scores: tuple[Value, ...]
    best_tokens: tuple[Token, ...]
    best_texts: tuple[Text, ...]
    best_logprobs: tuple[Value, ...]
    entropy: Value
    threshold_used: Value
    margin_kept: Value
    margin_dropped: Value
    margin_order: Value
    capped: Flag

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        own = ("texts", "positions", "logical", "probabilities", "pruned_at", "prune_scores")
        for of, others in (("tokens", own), ("best_tokens", ("best_texts", "best_logprobs"))):
            wanted = len(getattr(self, of))
            for name in others:
                if len(getattr(self, name)) != wanted:
                    raise wrong(f"must have one item for each of {of}, {wanted} in all", name)
        return self


class Log(_Told):
    """generation_log.json as this package writes it."""

    prompt: Text
    prompt_id: Text
    category: Text
    seed: Seed
    mode: Mode
    text: Text
    parameters: _Parameters
    storage: dict[str, Any]
    model: _Facts
    layers: tuple[Number, ...]
    heads: tuple[Number, ...]
    prompt_tokens: tuple[Known, ...]
    prompt_texts: tuple[Text, ...]
    prompt_logical: tuple[Number, ...]
    steps: Annotated[tuple[_Step, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _positions_go_on(self) -> Self:
        """The prompt's count from 0, and every set has the next one: nothing else is ever captured."""
        start = len(self.prompt_tokens)
        if len(self.prompt_texts) != start:
            raise wrong(f"must have one item for each of prompt_tokens, {start} in all", "prompt_texts")
        if self.prompt_logical != tuple(range(start)):
            raise wrong(f"must count the {start} prompt_tokens from 0", "prompt_logical")
        for n, step in enumerate(self.steps):
            if step.logical != (start + n,) * len(step.tokens):
                raise wrong(f"must be {start + n} for each token of this set", "steps", n, "logical")
        return self

    @model_validator(mode="after")
    def _is_the_models(self) -> Self:
        for name, size in (("layers", self.model.layers), ("heads", self.model.heads)):
            numbers = getattr(self, name)
            if list(numbers) != sorted(set(numbers)) or max(numbers, default=-1) >= size:
                raise wrong(f"must be rising numbers below the model's {size}", name)
        every = [self.prompt_tokens, *(step.tokens for step in self.steps)]
        every += [step.best_tokens for step in self.steps]
        if (most := max(max(tokens, default=0) for tokens in every)) >= self.model.vocab:
            raise wrong(f"must be above {most}, a token of this experiment", "model", "vocab")
        return self


def log_of(folder: Path) -> dict[str, Any]:
    """generation_log.json: ours as it must be, another's as far as it is used; empty without the file."""
    path = folder / names.LOG
    log = mapping(path)
    _checked(Log if log.get("format") == names.FORMAT else Named, path, log)
    return log


def config_of(folder: Path) -> dict[str, Any]:
    """`config` of experiment_metadata.json; empty without the file."""
    path = folder / names.METADATA
    return _checked(_Metadata, path, mapping(path)).config.model_dump()


def sets_of(folder: Path) -> Iterable[ToldSet]:
    """The sets of parallel_sets.json; none without the file."""
    path = folder / names.SETS
    return _checked(ToldSets, path, mapping(path)).parallel_sets


def _checked(kind: type[Kind], path: Path, found: Mapping[str, Any]) -> Kind:
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise refusal(Source(str(path), found), error, kind) from None
