"""What is asked for: a `Grid` of experiments, read from a grid file, a preset or a mapping."""

import itertools
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ..errors import BadInput
from . import gridfile, presets
from .cell import Cell
from .fields import Count, Flag, Options, Right, Seed, Slots, Swept, Temperature, distinct, wrong
from .gridfile import Source
from .options import Capture, Curve, Prune, Storage, SweptAblation, Threshold, label, number_label, plain
from .prompts import FILES_SCHEMA, PROMPTS_SCHEMA, Prompt, as_written, collect
from .textfile import did_you_mean

__all__ = ["MODES", "SWEPT", "Cell", "Grid", "Prompt", "json_schema"]


# The options that may be lists, in the order of the cube's dims.
SWEPT = ("threshold", "temperature", "max_width", "readout", "prune", "ablate", "max_tokens")

Mode = Literal["isolated", "causal", "visible", "single"]
MODES: tuple[str, ...] = get_args(Mode)
Leader = Literal["isolated", "causal", "visible", None]
Readout = Literal["mixture", "top", "last"]
Control = Literal["clone", "repeat", "no_mask", None]


def _model(name: str, info: ValidationInfo) -> str:
    """A model given as a path starts at the grid file's folder, as every path in it does."""
    folder = getattr(info.context, "folder", None)
    here = folder is not None and name != "embedded" and Path(folder, name).is_dir()
    if folder is None or not (here or name.startswith(("./", "../", "~", "/"))):
        return name
    full = Path(folder, os.path.expanduser(name))
    if not full.is_dir():
        raise wrong("no such folder")
    return str(full.resolve())


_Model = Annotated[
    str,
    Field(strict=True, pattern=r"\S"),
    Right("embedded, a local path or a hub id"),
    AfterValidator(_model),
]


def _collected(written: Any, info: ValidationInfo) -> tuple[Prompt, ...]:
    try:
        return collect(written, info.context or Source("grid", {}))
    except BadInput as problem:  # one of possibly several things wrong with the file
        raise PydanticCustomError("placed", "{message}", {"message": str(problem)}) from None


class Grid(Options):
    """A grid of experiments: prompt x seed x mode x every swept option. Made by `load` or `from_dict`."""

    model: _Model = Field(default="embedded", description="embedded, a local path or a hub id")
    prompts: Annotated[tuple[Prompt, ...], PlainValidator(_collected), WithJsonSchema(PROMPTS_SCHEMA)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(distinct)] = Field(
        default=(42,),
        description="seeds of the selection noise; without effect at temperature 0",
        examples=[[42, 123]],
    )
    modes: Annotated[tuple[Mode, ...], Field(min_length=1), AfterValidator(distinct)] = Field(
        default=("isolated", "visible"),
        description="which siblings a parallel token sees: isolated, causal, visible; or single tokens only",
        examples=[["isolated", "visible"]],
    )
    max_tokens: Swept[Count] = Field(default=10, description="number of sets")
    max_slots: Slots = Field(default=None, description="end an experiment before a set that would not fit")
    threshold: Swept[Threshold] = Field(
        default=0.1, description="every token at least this probable is taken, the best one if none is"
    )
    temperature: Swept[Temperature] = Field(
        default=0.0,
        description="0: deterministic; above: seeded noise on probabilities before tokens are taken",
    )
    max_width: Swept[Count] = Field(default=16, description="cap on the tokens of a set")
    readout: Swept[Readout] = Field(
        default="mixture", description="which logits choose the next set: mixture, top or last"
    )
    replay: Leader = Field(
        default=None, description="a mode of `modes` along whose sets the others are forced"
    )
    prune: Swept[Prune | None] = Field(default=None, description="retroactive pruning")
    ablate: SweptAblation = Field(
        default=(),
        description="heads and MLPs that are zeroed, such as [L3H5, L7.mlp]",
        examples=[["L3H5", "L7.mlp"]],
    )
    control: Control = Field(
        default=None, description="clone, repeat or no_mask: a run whose answer is known, to test the checks"
    )
    stop_at_eos: Flag = Field(
        default=False, description="end when every surviving token of a set is an end token"
    )
    capture: Capture = Field(default=Capture(), description="what is kept")
    storage: Storage = Field(default=Storage(), description="how it is written")

    @cached_property
    def name(self) -> str:
        """The preset's name or the file's stem; it takes no part in equality."""
        return "grid"

    @classmethod
    def load(cls, grid: str | Path) -> Self:
        """A grid file's or preset's grid; a plain name is a preset if there is one."""
        path = Path(os.path.expanduser(grid))  # unlike Path's own, it leaves an unknown ~user alone
        if isinstance(grid, str) and grid in presets.names():
            path = presets.path(grid)
        elif path.name == str(grid) and not path.suffix and not path.exists():
            hint = did_you_mean(path.name, presets.names())
            listed = ", ".join(presets.names())
            raise BadInput(f"{grid}: no such grid file or preset{hint}; presets: {listed}")
        return cls.from_source(gridfile.read(path), path.stem)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], source: str = "grid", folder: Path | None = None) -> Self:
        """The grid of a mapping in the grid file's syntax; `source` is what refusals call it."""
        if not isinstance(options, Mapping):
            raise BadInput(f"{source}: must be a mapping of options (got {gridfile.shown(options)})")
        return cls.from_source(Source(source, options, folder))

    @classmethod
    def from_source(cls, source: Source, name: str | None = None) -> Self:
        """The grid of options that know where they come from, so that refusals can say it."""
        given = dict(source.options)
        if given.pop("prompts_file", None) is not None:
            given.setdefault("prompts", None)
        try:
            made = cls.model_validate(given, context=source)
        except ValidationError as error:
            raise gridfile.refusal(source, error, cls) from None
        if name is not None:
            made.__dict__["name"] = name
        return made

    @model_validator(mode="after")
    def _leader_is_run(self) -> Self:
        if self.replay is not None and self.replay not in self.modes:
            raise wrong(f"must be one of this grid's modes, {', '.join(self.modes)}, or null", "replay")
        return self

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The options given as a list, with their values; a list of one is an axis too."""
        return {name: self.values(name) for name in SWEPT if self._is_axis(name)}

    def axis_labels(self, name: str) -> tuple[float | int | str, ...]:
        """The coordinate of an axis: numbers, or text where any value is more than a number."""
        labels = tuple(map(label, self.values(name)))
        # A curve among thresholds makes all of them text: a coordinate has one type.
        mixed = any(isinstance(each, str) for each in labels)
        return tuple(each if isinstance(each, str) or not mixed else number_label(each) for each in labels)

    def values(self, name: str) -> tuple[Any, ...]:
        """The values of a swept option, axis or not."""
        value = getattr(self, name)
        return value if self._is_axis(name) else (value,)

    def value(self, name: str) -> Any:
        """The one value of an option that is no axis."""
        if name in SWEPT and self._is_axis(name):
            raise ValueError(f"{name} is an axis: its values are in Grid.axes")
        return getattr(self, name)

    def _is_axis(self, name: str) -> bool:
        value = getattr(self, name)
        # One ablation is itself a tuple, of texts.
        return isinstance(value, tuple) and (name != "ablate" or any(isinstance(v, tuple) for v in value))

    def cells(self) -> tuple[Cell, ...]:
        """Every experiment, in the order of the cube."""
        swept = [self.values(name) for name in SWEPT]
        points = itertools.product(self.prompts, self.seeds, self.modes, *swept)
        return tuple(self._cell(prompt, seed, mode, values) for prompt, seed, mode, *values in points)

    def _cell(self, prompt: Prompt, seed: int, mode: str, values: list[Any]) -> Cell:
        return Cell(
            prompt=prompt.text,
            category=prompt.category,
            seed=seed,
            mode=mode,
            **dict(zip(SWEPT, values, strict=True)),
            max_slots=self.max_slots,
            # The leader runs free, and single (the control) is exempt.
            replay=None if mode in (self.replay, "single") else self.replay,
            control=self.control,
            stop_at_eos=self.stop_at_eos,
        )

    @property
    def prompt_texts(self) -> tuple[str, ...]:
        """The prompts' texts, in order."""
        return tuple(prompt.text for prompt in self.prompts)

    @property
    def max_sets(self) -> int:
        """The most sets any experiment selects."""
        return int(max(self.values("max_tokens")))

    @property
    def generated_slots(self) -> int:
        """The most slots any experiment can need after its prompt."""
        lowest = min(each.lowest if isinstance(each, Curve) else each for each in self.values("threshold"))
        # A set holds at most floor(1 / threshold) tokens; the sliver is for 1 / 0.1 and its like.
        return self.max_sets * int(min(max(self.values("max_width")), 1 / lowest + 1e-9))

    def invariants(self) -> dict[str, Any]:
        """What a cube and an extension of it must agree on: dotted option -> JSON value."""
        options = self.to_dict()
        for name in ("prompts", "seeds", "modes", *self.axes):
            del options[name]
        nested = options.pop("capture"), options.pop("storage")
        flat = _flat("capture", nested[0]) | _flat("storage", nested[1])
        return {**options, **flat, "axes": list(self.axes)}

    def to_dict(self) -> dict[str, Any]:
        """The grid in the grid file's syntax, every option spelled out; `from_dict` gives the same grid."""
        options = {name: plain(getattr(self, name)) for name in type(self).model_fields if name != "prompts"}
        return {"prompts": as_written(self.prompts), **options}


def json_schema() -> dict[str, Any]:
    """JSON schema of the grid file, for editors."""
    schema = Grid.model_json_schema()
    schema["properties"]["prompts_file"] = FILES_SCHEMA
    schema["required"] = []
    return schema | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tempocube grid file",
        "anyOf": [{"required": ["prompts"]}, {"required": ["prompts_file"]}],
    }


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {name: value}
    return {key: each for inner, v in value.items() for key, each in _flat(f"{name}.{inner}", v).items()}
