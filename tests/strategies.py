"""Hypothesis strategies: grids as researchers write them, and their parts."""

from typing import Any

from hypothesis import strategies as st

from tempocube.dataset.options import Curve, Prune

MODES = ("isolated", "causal", "visible", "single")

# Whatever a cube can hold: no lone surrogates, no NUL, more than white space.
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30
).filter(lambda text: bool(text.strip()))
categories = texts.map(str.strip)
thresholds = st.floats(1e-6, 1.0)
fractions = st.floats(0.0, 1.0)
numbers = st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True)
selections = st.just("all") | numbers
targets = st.builds("L{}H{}".format, st.integers(0, 30), st.integers(0, 30)) | st.builds(
    "L{}.mlp".format, st.integers(0, 30)
)
ablations = st.none() | st.lists(targets, max_size=4, unique=True)


def curves() -> st.SearchStrategy[dict[str, Any]]:
    """Threshold curves in the grid file's syntax."""
    ends = {"start": thresholds, "end": thresholds}
    return st.one_of(
        st.fixed_dictionaries(ends, optional={"curve": st.just("linear")}),
        st.fixed_dictionaries(
            ends | {"curve": st.just("bezier")},
            optional={"points": st.lists(fractions, min_size=2, max_size=2)},
        ),
        st.fixed_dictionaries(
            ends | {"curve": st.just("relu")}, optional={"activation": st.floats(0.0, 1.0, exclude_max=True)}
        ),
    )


def prunes() -> st.SearchStrategy[dict[str, Any]]:
    """Retroactive prunings in the grid file's syntax."""
    return st.fixed_dictionaries(
        {"threshold": fractions},
        optional={
            "relative": st.booleans(),
            "layers": selections,
            "weighting": st.sampled_from(["equal", "rising"]),
        },
    )


def captures() -> st.SearchStrategy[dict[str, Any]]:
    """What is kept, in the grid file's syntax."""
    attention = st.fixed_dictionaries(
        {},
        optional={
            "layers": selections,
            "heads": selections,
            "queries": st.sampled_from(["all", "generated", "last"]),
        },
    )
    return st.fixed_dictionaries(
        {},
        optional={
            "attention": st.booleans() | attention,
            "logits": st.booleans(),
            "keys_values": st.booleans(),
            "residual": st.booleans(),
            "internals": st.just([]) | numbers,
            "neurons": selections,
            "project": st.dictionaries(st.sampled_from(["a", "trait"]), st.just("vectors/a.npy")),
        },
    ).filter(lambda made: made.get("internals") or made.get("neurons", "all") == "all")


def prompts() -> st.SearchStrategy[Any]:
    """Distinct prompts, by category or one mapping each, with categories that may interleave."""
    records = st.lists(
        st.tuples(texts, st.sampled_from(["narrative", "factual", "no"]) | categories),
        min_size=1,
        max_size=3,
        unique_by=lambda record: record[0],
    )
    return st.builds(_written, records, st.sampled_from(["texts", "records", "ids", "categories"]))


def _written(records: list[tuple[str, str]], form: str) -> Any:
    if form == "texts":
        return [text for text, _ in records]
    if form == "categories":
        return {category: [text for text, own in records if own == category] for _, category in records}
    ids = form == "ids"
    return [
        {"prompt": text, "category": category} | ({"id": f"own{i}"} if ids else {})
        for i, (text, category) in enumerate(records)
    ]


def _swept(values: st.SearchStrategy[Any], key: Any = repr) -> st.SearchStrategy[Any]:
    return values | st.lists(values, min_size=1, max_size=2, unique_by=key)


def _same(value: Any) -> Any:
    """What makes two written values one: spelt-out defaults, order and null do not tell them apart."""
    if isinstance(value, dict):
        return (Curve if "end" in value else Prune).model_validate(value)
    return (tuple(sorted(value)) or None) if isinstance(value, list) else value


@st.composite
def grids(draw: st.DrawFn) -> dict[str, Any]:
    """Whole grids in the grid file's syntax, all options, any of them swept."""
    modes = draw(st.lists(st.sampled_from(MODES), min_size=1, max_size=4, unique=True))
    leaders = [None, *(mode for mode in modes if mode != "single")]
    optional = {
        "model": st.sampled_from(["embedded", "mlx-community/Llama-3.2-3B-Instruct-4bit"]),
        "seeds": st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=2, unique=True),
        "max_tokens": _swept(st.integers(1, 500)),
        "max_slots": st.none() | st.integers(1, 1000),
        "threshold": _swept(thresholds | curves(), _same),
        "temperature": _swept(st.floats(0.0, 10.0), float),
        "max_width": _swept(st.integers(1, 64)),
        "readout": _swept(st.sampled_from(["mixture", "top", "last"])),
        "replay": st.sampled_from(leaders),
        "prune": _swept(st.none() | prunes(), _same),
        "ablate": ablations | st.lists(ablations, min_size=1, max_size=2, unique_by=_same),
        "control": st.sampled_from([None, "clone", "repeat", "no_mask"]),
        "stop_at_eos": st.booleans(),
        "capture": captures(),
        "storage": st.fixed_dictionaries({}, optional={"attention": st.sampled_from(["log16", "float32"])}),
    }
    drawn: dict[str, Any] = draw(st.fixed_dictionaries({"prompts": prompts()}, optional=optional))
    return drawn | {"modes": modes}
