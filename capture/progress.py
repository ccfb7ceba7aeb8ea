"""How far a run is: what it tells about once a second to whoever watches."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class State:
    """A run at one moment."""

    stage: str  # what it is at: starting workers, running, cross-checking
    asked: int  # cells that it has to do at this stage
    done: int
    failed: int  # cells given up in this run, failed or quarantined
    tokens: int  # slots captured so far
    stored: int  # bytes put into the cube so far
    workers: int  # alive now
    seconds: float  # since the run began
    dashboard: str  # address, empty where there is none
    memory: float  # share of this machine's memory in use, by all processes
    news: str = ""  # something worth a line of its own: a worker died, a cell was given up


Watch = Callable[[State], None]
