"""The errors a user can meet; each message is one line that says what is wrong and what would be right."""


class TempoError(Exception):
    """Anything tempocube refuses or gives up on; `exit_code` is what a command ends with."""

    exit_code = 2


class BadInput(TempoError):
    """A grid file, an option or a path that cannot be used as it is."""


class CubeError(TempoError):
    """A cube that is not one, is damaged, or cannot take what is asked of it."""


class DamagedError(CubeError):
    """Something stored that is not, or no longer, what was written."""


class NoSpaceError(CubeError):
    """A store that is full: nothing is wrong with what was asked, and nothing is lost."""

    exit_code = 1


class NoLeaderError(TempoError):
    """A cell that follows one which is not done: it waits."""

    exit_code = 1


class LeaseError(TempoError):
    """Another driver holds the cube, or this one has lost it."""


class RunError(TempoError):
    """A run that cannot go on, though nothing is wrong with what was asked."""

    exit_code = 1
