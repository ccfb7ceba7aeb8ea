"""The kinds of value a grid file is made of, each with the words that say what would be right."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Tag
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

T = TypeVar("T")


@dataclass(frozen=True)
class Right:
    """Says what would be right, in place of Pydantic's words for whatever is wrong."""

    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        words = f"must be {self.words}"
        return core_schema.custom_error_schema(handler(source), "expected", custom_error_message=words)


class Options(BaseModel):
    """A mapping in the grid file: unknown keys are errors, and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def wrong(problem: str, *at: str | int) -> PydanticCustomError:
    """A refusal of what stands at a key or item inside the value being checked."""
    # The text goes in as a value: as a template, braces in it would be taken for fields.
    return PydanticCustomError("wrong", "{problem}", {"problem": problem, "at": at})


def distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    """Refuses a value that is listed twice."""
    first: dict[T, int] = {}
    for i, value in enumerate(values):
        if first.setdefault(value, i) < i:
            raise wrong(f"is the same as item [{first[value]}]", i)
    return values


def listed_or_not(value: Any) -> str:
    """Tells a list of values (an axis) from one value."""
    return "<list>" if isinstance(value, (list, tuple)) else "<value>"


def mapped_or_not(value: Any) -> str:
    """Tells a mapping from a plain value."""
    return "<mapping>" if isinstance(value, (dict, Options)) else "<value>"


Axis = Annotated[tuple[T, ...], Field(min_length=1), AfterValidator(distinct), Tag("<list>")]

Swept = Annotated[Annotated[T, Tag("<value>")] | Axis[T], Discriminator(listed_or_not)]

Share = Annotated[
    float,
    Field(strict=True, gt=0, le=1, allow_inf_nan=False),
    Right("a number above 0 and at most 1"),
]
Fraction = Annotated[
    float,
    Field(strict=True, ge=0, le=1, allow_inf_nan=False),
    AfterValidator(lambda x: x + 0.0),  # -0.0 and 0.0 are one value, and must have one key and one label
    Right("a number from 0 to 1"),
]
Number = Annotated[int, Field(strict=True, ge=0), Right("a whole number of at least 0")]
Numbers = Annotated[tuple[Number, ...], AfterValidator(distinct), AfterValidator(lambda v: tuple(sorted(v)))]
Selection = Annotated[
    Annotated[Literal["all"], Right("all, or a list of numbers such as [0, 5]"), Tag("<value>")]
    | Annotated[Numbers, Field(min_length=1), Tag("<list>")],
    Discriminator(listed_or_not),
]
Flag = Annotated[bool, Field(strict=True), Right("true or false")]
Temperature = Annotated[
    float,
    Field(strict=True, ge=0, allow_inf_nan=False),
    AfterValidator(lambda x: x + 0.0),  # -0.0 is 0.0
    Right("a number of at least 0"),
]
Count = Annotated[int, Field(strict=True, ge=1), Right("a whole number of at least 1")]
Slots = Annotated[Count | None, Right("a whole number of at least 1, or null")]
Seed = Annotated[
    int, Field(strict=True, ge=0, le=2**63 - 1), Right("a whole number of at least 0 and below 2**63")
]
