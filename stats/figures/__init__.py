"""The pictures of a report, each with the table that is drawn, as SVG, PNG, or an element of a page.

>>> for picture in pictures(report("cube.zarr")):
...     Path(f"{picture.name}.svg").write_text(svg(picture))
"""

from typing import TYPE_CHECKING

from . import curve, model, outliers, positions, prompts, readouts, steps
from .basis import basis
from .picture import Picture, inline, png, svg

if TYPE_CHECKING:
    from ..report import Report

__all__ = ["Picture", "inline", "pictures", "png", "svg"]

ALL = (
    prompts.forest,
    curve.curve,
    model.variance,
    outliers.outliers,
    prompts.modes,
    readouts.divergences,
    model.maps,
    steps.course,
    steps.width,
    readouts.probabilities,
    positions.positions,
)


def pictures(report: "Report") -> tuple[Picture, ...]:
    """All that a report has data for, in the order of its answers; none of a control."""
    if report.answers.control is not None:
        return ()
    of = basis(report)
    return tuple(picture for make in ALL if (picture := make(of)) is not None)
