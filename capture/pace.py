"""How fast a run goes and what is left of it, in numbers and in words."""

from ..words import in_bytes, in_time
from .progress import State


class Pace:
    """What the states of a run, one after the other, say about its speed."""

    def __init__(self) -> None:
        self._began: State | None = None  # the first state of this stage
        self._first: State | None = None  # the first with a cell through
        self._last: State | None = None  # the latest that brought one more

    def see(self, state: State) -> bool:
        """Take in a state; whether a stage begins with it."""
        begins = self._began is None or self._began.stage != state.stage
        if begins:
            self._began, self._first, self._last = state, None, None
        if self.through(state) > (self.through(self._last) if self._last else 0):
            self._first, self._last = self._first or state, state
        return begins

    def through(self, state: State) -> int:
        """Cells of this stage that need no more work: done or given up."""
        before = self._began.failed if self._began else 0  # given up in an earlier stage
        return min(state.asked, state.done + state.failed - before)

    def left(self, state: State) -> float | None:
        """Seconds to go; None where nothing that can be believed is known.

        Cells come in by batches, so the speed is that up to the latest one that came in: it does not sink
        while the next is on its way. Before a second batch is in, the stage's start counts too.
        """
        if self._began is None or self._first is None or self._last is None:
            return None
        since = self._first if self._last is not self._first else None
        came = self.through(self._last) - (self.through(since) if since else 0)
        took = self._last.seconds - (since or self._began).seconds
        to_go = state.asked - self.through(state)
        left = to_go * took / came - (state.seconds - self._last.seconds)
        # what ought to be over by now was no good guess
        return left if to_go and took > 0 and left >= 0 else None

    def speed(self, state: State) -> float | None:
        """Slots a second in this stage."""
        if self._began is None or state.tokens <= self._began.tokens or state.seconds <= self._began.seconds:
            return None
        return (state.tokens - self._began.tokens) / (state.seconds - self._began.seconds)


def counted(state: State) -> str:
    """`45 of 100 cells`."""
    return (f"{state.done:,} of " if state.done else "") + f"{state.asked:,} cell{'s' * (state.asked != 1)}"


def details(state: State, pace: Pace) -> str:
    """Everything but how many are done: failed cells, speed, bytes, time left, workers, memory."""
    speed, left = pace.speed(state), pace.left(state)
    told = [
        f"{state.failed:,} given up" if state.failed else "",
        f"{speed:,.0f} slots/s" if speed is not None else "",
        f"{in_bytes(state.stored)} written" if state.stored else "",
        f"about {in_time(left)} left" if left is not None else "",
        f"{state.workers} worker{'s' * (state.workers != 1)}" if state.workers else "",
        f"{state.memory:.0%} of memory in use",
    ]
    return ", ".join(filter(None, told))
