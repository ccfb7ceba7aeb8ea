"""Where a cube lives: a local folder or an object store, through one set of calls (obstore)."""

import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import LocalStore, from_url
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import ObjectStore as ZarrStore
from zarr.storage import WrapperStore

from ..errors import BadInput, CubeError, NoSpaceError

T = TypeVar("T")
R = TypeVar("R")

REQUESTS = 16  # at a time, where each one costs a way over the network
_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class Stored:
    """One object as a listing shows it."""

    key: str
    size: int
    modified: float


@dataclass(frozen=True)
class Place:
    """A folder or a prefix of a bucket; pickles as its address."""

    url: str

    @classmethod
    def at(cls, where: "str | os.PathLike[str] | Place") -> "Place":
        """A place by path or URL; `file://` is a path too."""
        if isinstance(where, Place):
            return where
        text = os.fspath(where)
        if not text.strip():
            raise BadInput("a cube needs a path or a URL, got nothing")
        if text.startswith("file://"):
            text = unquote(urlsplit(text).path)
        if scheme := _URL.match(text):
            return cls(scheme[0].lower() + text[scheme.end() :].rstrip("/"))
        if re.match(r"[a-z0-9]{2,}:/", text, re.IGNORECASE):
            raise BadInput(f"{text}: a URL has two slashes after the colon")
        # what a link stands for is what is replaced, renamed and locked
        return cls(os.path.realpath(os.path.expanduser(text)))

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    @cached_property
    def path(self) -> Path | None:
        """The local folder, if it is one."""
        return None if _URL.match(self.url) else Path(self.url)

    @cached_property
    def objects(self) -> Any:
        """The store behind it; made on first use, in whichever process asks."""
        if _forked:
            raise CubeError("this process was forked from one that had a cube open; start it with spawn")
        _open.add(self.url)
        if self.path is not None:
            return LocalStore(self.path, mkdir=True)
        if self.url.startswith("memory:"):
            raise CubeError(f"{self.url}: memory is not shared between processes; give a folder or a bucket")
        said = (os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ALLOW_HTTP"))
        plain = any(value.startswith("http://") or value.lower() in ("1", "true") for value in said)
        patience: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}
        try:
            store: Any = from_url(self.url, client_options={"allow_http": plain}, retry_config=patience)
        except (BaseError, ValueError) as error:
            raise CubeError(f"{self.url} cannot be opened: {_first_line(error)}") from error
        return store

    @property
    def _absent(self) -> bool:
        """No folder yet: looking into it would create it."""
        if self.path is None or os.path.isdir(self.url):
            return False
        if self.path.exists():
            raise CubeError(f"{self.url} is a file; a cube is a folder, give the name of one")
        return True

    def exists(self) -> bool:
        """Whether anything lies there (asking creates nothing)."""
        return next(self._listed(""), None) is not None

    def _listed(self, prefix: str) -> Iterator[Any]:
        """Every object under a prefix, a request at a time."""
        if self._absent:
            return
        try:
            for batch in obstore.list(self.objects, prefix, chunk_size=1000):
                yield from batch
        except FileNotFoundError:  # the folder was removed in between
            return
        except (BaseError, OSError) as error:
            raise _refused(self, "listing it", error) from error

    def get(self, key: str) -> bytes | None:
        """An object's bytes, None where there is none."""
        if self._absent:
            return None
        try:
            return bytes(obstore.get(self.objects, key).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise _refused(self, f"reading {key}", error) from error

    def size(self, key: str) -> int | None:
        """An object's size in bytes, None where there is none."""
        try:
            return int(obstore.head(self.objects, key)["size"])
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise _refused(self, f"looking at {key}", error) from error

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole: a reader sees the old one or the new one."""
        try:
            obstore.put(self.objects, key, data)
        except (BaseError, OSError) as error:
            raise _refused(self, f"writing {key}", error) from error

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless it exists; False if it does. Of several at once one succeeds."""
        try:
            obstore.put(self.objects, key, data, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        except NotImplementedError:  # no conditional put: the last look is the best there is
            if self.get(key) is not None:
                return False
            self.put(key, data)
        except (BaseError, OSError) as error:
            raise _refused(self, f"writing {key}", error) from error
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is gone already is fine."""
        each: list[Any] = list(keys)
        for some in each if self.path is not None else [each] if each else []:  # a server takes them in bulk
            try:
                obstore.delete(self.objects, some)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise _refused(self, f"removing {some}", error) from error

    def each(self, do: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Do something with every item: one after the other on a disk, many at once over a network."""
        if self.path is not None:
            return [do(item) for item in items]
        with ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(do, items))

    def list(self, prefix: str = "") -> list[Stored]:
        """Every object under a prefix, in order of key."""
        found = (
            Stored(meta["path"], meta["size"], meta["last_modified"].timestamp())
            for meta in self._listed(prefix)
        )
        return sorted(found, key=lambda stored: stored.key)

    def zarr(self, read_only: bool = True) -> Store:
        """The same place as a Zarr store; a disk or a server that refuses is told of in one line."""
        store: Store = ZarrStore(self.objects, read_only=read_only)
        return store if read_only else _Telling(store, self)


class _Telling(WrapperStore[Store]):
    """A Zarr store for the small arrays."""

    def __init__(self, store: Store, place: Place) -> None:
        super().__init__(store)
        self._place = place

    def _with_store(self, store: Store) -> "_Telling":
        return _Telling(store, self._place)

    async def set(self, key: str, value: Buffer) -> None:
        try:
            await self._store.set(key, value)
        except (BaseError, OSError) as error:
            raise _refused(self._place, f"writing {key}", error) from error


_open: set[str] = set()  # what this process has opened: the threads behind it do not survive a fork
_forked: list[str] = []
os.register_at_fork(after_in_child=lambda: _forked.extend(_open))


def checksum(data: bytes | memoryview) -> int:
    """CRC-32 of an object, as receipts record it."""
    return zlib.crc32(data)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    told = re.search(r"<Message>(.*?)</Message>", text)  # what an S3 server says of it
    return told[1] if told else (text.splitlines() or [type(error).__name__])[0]


def _refused(place: Place, doing: str, error: BaseException) -> CubeError:
    """The one line for what a disk or a server refused."""
    text = str(error)
    causes = {
        "os error 28": "no space left; make room and run the same command again",
        "os error 122": "disk quota exceeded; make room and run the same command again",
        "os error 13": "permission denied",
        "os error 30": "the file system is read-only",
    }
    cause = next((told for sign, told in causes.items() if sign in text), _first_line(error))
    kind = NoSpaceError if "make room" in cause else CubeError
    return kind(f"{place}: {doing} failed: {cause}")
