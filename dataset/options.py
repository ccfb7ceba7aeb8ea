"""The grid's options that are more than a number: what they may be, and their short labels on an axis."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    Tag,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from .fields import (
    Axis,
    Flag,
    Fraction,
    Numbers,
    Options,
    Right,
    Selection,
    Share,
    distinct,
    mapped_or_not,
    wrong,
)


class Curve(Options):
    """A threshold that changes from step to step."""

    start: Share = Field(description="threshold of the first set")
    end: Share = Field(description="threshold of the last set")
    curve: Literal["linear", "bezier", "relu"] = Field(
        default="linear", description="the way from start to end"
    )
    points: (
        Annotated[tuple[Fraction, Fraction], Right("two numbers from 0 to 1 such as [0.25, 0.75]")] | None
    ) = Field(default=None, description="bezier: how far on the way its two control points lie (0.25, 0.75)")
    activation: (
        Annotated[float, Field(strict=True, ge=0, lt=1), Right("a number from 0 to below 1")] | None
    ) = Field(default=None, description="relu: the fraction of the steps that stay at start (0.5)")

    @model_validator(mode="before")
    @classmethod
    def _details_of_this_curve(cls, given: Any) -> Any:
        """Fills in this curve's own detail, so that a default spelt out is the same; refuses another's."""
        if not isinstance(given, dict):
            return given
        curve = given.get("curve", "linear")
        for key, (owner, default) in _DETAILS.items():
            if curve == owner and given.get(key) is None:
                given = {**given, key: default}
            elif curve in ("linear", "bezier", "relu") and curve != owner and given.get(key) is not None:
                raise wrong(f"belongs to curve: {owner}, and this one is {curve}", key)
        return given

    def at(self, step: int, steps: int) -> float:
        """The threshold of one step of so many."""
        done = self._shape(step / (steps - 1) if steps > 1 else 0.0)
        value = (1 - done) * self.start + done * self.end
        # Rounding must not carry it past an end: the lowest threshold bounds the width of a set.
        return min(max(value, self.lowest), max(self.start, self.end))

    @property
    def lowest(self) -> float:
        """The lowest threshold it comes to: both ends belong to it, and it never turns back."""
        return min(self.start, self.end)

    def _shape(self, s: float) -> float:
        """The fraction of the way from start to end at a fraction of the steps."""
        if self.points is not None:
            first, second = self.points
            return 3 * (1 - s) ** 2 * s * first + 3 * (1 - s) * s**2 * second + s**3
        if self.activation is not None:
            return max(0.0, (s - self.activation) / (1 - self.activation))
        return s


_DETAILS: dict[str, tuple[str, Any]] = {"points": ("bezier", (0.25, 0.75)), "activation": ("relu", 0.5)}


Threshold = Annotated[
    Annotated[
        Share,
        Right("a number above 0 and at most 1, or a curve such as {start: 0.3, end: 0.1, curve: linear}"),
        Tag("<value>"),
    ]
    | Annotated[Curve, Tag("<mapping>")],
    Discriminator(mapped_or_not),
]


class Prune(Options):
    """Retroactive pruning: tokens that later tokens hardly attend to are hidden from then on."""

    threshold: Fraction = Field(description="attention received below which a token is hidden")
    relative: Flag = Field(
        default=False, description="true: the threshold is a share of the best score of the set"
    )
    layers: Selection = Field(default="all", description="layers whose attention counts: all, or a list")
    weighting: Literal["equal", "rising"] = Field(
        default="equal", description="a layer's weight in the mean; rising: grows linearly with depth"
    )


class AttentionCapture(Options):
    """Which attention weights are kept."""

    layers: Selection = Field(default="all", description="all, or a list of layer numbers")
    heads: Selection = Field(default="all", description="all, or a list of head numbers")
    queries: Literal["all", "generated", "last"] = Field(
        default="all",
        description="all; generated: no prompt rows; last: the best token of each set and of the prompt",
    )


def _in_grid_folder(path: str, info: ValidationInfo) -> str:
    """A path in a grid file starts at that file's folder; without a file it stays as it is."""
    folder = getattr(info.context, "folder", None)
    if folder is None:
        return path
    full = Path(folder, os.path.expanduser(path))
    if not full.is_file():
        raise wrong("no such file")
    return str(full.resolve())


VectorFile = Annotated[
    str,
    Field(strict=True, pattern=r"\.npy$"),
    Right("the path of an .npy file"),
    AfterValidator(_in_grid_folder),
]
TraitName = Annotated[
    str, Field(strict=True, pattern=r"^[^./\s]+$"), Right("a name without dots, slashes or spaces")
]


class _Sorted:
    """A mapping held as sorted pairs, because options are hashable."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda given: dict(given) if isinstance(given, tuple) else given,
            core_schema.no_info_after_validator_function(
                lambda given: tuple(sorted(given.items())),
                handler.generate_schema(dict[TraitName, VectorFile]),
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(dict),
        )


class Capture(Options):
    """What is kept of a run, beside tokens, positions and selection."""

    attention: Annotated[
        Annotated[AttentionCapture, Tag("<mapping>")]
        | Annotated[
            Literal[False],
            BeforeValidator(lambda given: given if given is False else None),
            Right("true, false or a mapping such as {queries: last}"),
            Tag("<value>"),
        ],
        Discriminator(mapped_or_not),
        BeforeValidator(
            lambda given: {} if given is True else given, json_schema_input_type=AttentionCapture | bool
        ),
    ] = Field(default=AttentionCapture(), description="attention weights: true, false, or which")
    logits: Flag = Field(default=True, description="the full-vocabulary log-probabilities of every step")
    keys_values: Flag = Field(default=False, description="the KV cache of every slot")
    residual: Flag = Field(default=False, description="the residual stream of every layer and slot")
    internals: Numbers = Field(
        default=(), description="layers whose q, k, v and MLP activations are kept", examples=[[0, 5]]
    )
    neurons: Selection = Field(default="all", description="MLP neurons that internals keep: all, or a list")
    project: Annotated[tuple[tuple[str, str], ...], _Sorted()] = Field(
        default=(), description="trait name -> .npy vector the residual stream is projected on"
    )

    @model_validator(mode="after")
    def _neurons_of_something(self) -> Self:
        if self.neurons != "all" and not self.internals:
            raise wrong("without internals no neuron is kept; name their layers in internals", "neurons")
        return self


class Storage(Options):
    """How the large arrays are written: log16 takes half the space of float32, within 0.4 %."""

    attention: Literal["log16", "float32"] = Field(
        default="log16", description="attention weights: log16 or float32"
    )
    logits: Literal["log16", "float32"] = Field(
        default="log16", description="log-probabilities: log16 or float32"
    )
    activations: Literal["float32"] = Field(
        default="float32", description="keys, values, residual and internals"
    )


def _in_model_order(targets: tuple[str, ...]) -> tuple[str, ...]:
    def depth(target: str) -> tuple[int, bool, int]:
        layer, *head = map(int, re.findall(r"\d+", target))
        return layer, not head, head[0] if head else 0

    return tuple(sorted(targets, key=depth))


Target = Annotated[
    str,
    Field(strict=True, pattern=r"^L(0|[1-9][0-9]*)(H(0|[1-9][0-9]*)|\.mlp)$"),
    Right("a head such as L3H5, or an MLP such as L7.mlp"),
]
Targets = tuple[Target, ...]
Ablation = Annotated[
    Targets,
    AfterValidator(distinct),
    AfterValidator(_in_model_order),
    BeforeValidator(lambda given: () if given is None else given, json_schema_input_type=Targets | None),
]


def _lists_of_lists(value: Any) -> str:
    """`ablate` is a list already: an axis is a list that holds lists or nulls."""
    several = isinstance(value, (list, tuple)) and any(
        v is None or isinstance(v, (list, tuple)) for v in value
    )
    return "<list>" if several else "<value>"


SweptAblation = Annotated[
    Annotated[Ablation, Tag("<value>")] | Axis[Ablation], Discriminator(_lists_of_lists)
]


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Options):
        return value.model_dump(mode="json", exclude_none=True)
    return [plain(each) for each in value] if isinstance(value, tuple) else value


def threshold_at(value: float | Curve, step: int, steps: int) -> float:
    """The threshold of a step: a number is the same at every step."""
    return value.at(step, steps) if isinstance(value, Curve) else value


def label(value: Any) -> float | int | str:
    """The coordinate of a value on an axis: numbers stay numbers; different values differ."""
    if isinstance(value, Curve):
        return _curve_label(value)
    if isinstance(value, Prune):
        layers = "" if value.layers == "all" else ",".join(f"L{layer}" for layer in value.layers)
        relative = "relative" if value.relative else ""
        rising = "" if value.weighting == "equal" else value.weighting
        return " ".join(filter(None, [number_label(value.threshold), relative, layers, rising]))
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return "+".join(value)
    return value  # type: ignore[no-any-return]


def _curve_label(value: Curve) -> str:
    detail = ""
    if value.points and value.points != _DETAILS["points"][1]:
        detail = " " + ",".join(map(number_label, value.points))
    if value.activation is not None and value.activation != _DETAILS["activation"][1]:
        detail = f" from {number_label(value.activation)}"
    return f"{value.curve} {number_label(value.start)}-{number_label(value.end)}{detail}"


def number_label(value: float) -> str:
    """A number as text, with every digit that tells it from others."""
    return repr(value).removesuffix(".0")
