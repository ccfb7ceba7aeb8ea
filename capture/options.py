"""How a run is to be made; nothing of it changes what is captured."""

from dataclasses import dataclass

from ..dataset.grid import Grid
from ..errors import BadInput
from . import cluster

MOST_PATIENCE = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is told beside its grid and its cube."""

    workers: int | str
    batch_size: int | str
    scheduler: str | None
    limit: int | None
    cross_check: float
    fail_fast: bool
    patience: float

    def check(self, grid: Grid) -> None:
        """Refuse what cannot be, before anything is made."""
        if self.limit is not None and (isinstance(self.limit, bool) or self.limit < 0):
            raise BadInput(f"limit: a number of cells from 0 on, got {self.limit!r}")
        if not 0 <= self.cross_check <= 1:
            raise BadInput(f"cross_check: a share of the cells from 0 to 1, got {self.cross_check!r}")
        if not 0 < self.patience <= MOST_PATIENCE:
            raise BadInput(f"patience: seconds, more than 0 and at most a week, got {self.patience!r}")
        if self.scheduler is None:
            cluster.threads(1)
        if self.cross_check and not grid.capture.attention and not grid.capture.logits:
            raise BadInput("cross_check: compares attention and logits, and this grid captures neither")
