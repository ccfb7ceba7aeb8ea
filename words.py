"""Numbers and foreign text as people, and other programs, read them."""

import math
from collections.abc import Mapping


def shown(text: str, encoding: str = "utf-8") -> str:
    """Text for a screen: what it cannot show, or would obey, is spelled."""
    spelled = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    return spelled.encode(encoding, "backslashreplace").decode(encoding)


def in_bytes(size: float) -> str:
    """`1.23 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.2f} TB"


def in_time(seconds: float) -> str:
    """`41 s`, `12 min 3 s` or `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return f"{whole} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def finite(values: Mapping[str, float] | None) -> dict[str, float | None] | None:
    """Numbers for JSON, which has no NaN and no infinity: null instead."""
    if values is None:
        return None
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def how_many(number: int, what: str) -> str:
    """`1 cell`, `1,200 cells`."""
    return f"{number:,} {what}{'s' * (number != 1)}"
