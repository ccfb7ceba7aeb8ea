"""The one folder of a user where things are kept that can be made again."""

import os
from pathlib import Path


def user_folder() -> Path:
    """TEMPOCUBE_CACHE, or `tempocube` in the user's cache: XDG_CACHE_HOME, else ~/.cache."""
    own, users = os.environ.get("TEMPOCUBE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(users or os.path.expanduser("~/.cache"), "tempocube")
