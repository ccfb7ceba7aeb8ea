"""One driver at a time: a numbered lease with a heartbeat, which workers look at before every put.

Lease n is one object; taking the cube means creating number n + 1, which of several drivers one manages
on any store. Whoever holds the highest number holds the cube; nobody else's number ever comes back.
"""

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from ..errors import CubeError, LeaseError
from .place import Place

FOLDER = "status/run/lease"  # inside an array's folder, where no Zarr reader lists
Record = Mapping[str, Any]

BEAT = 2.0  # seconds between heartbeats
STALE = 30.0  # without a heartbeat for so long, a driver elsewhere counts as dead
SIGHT = 10.0  # workers write only while they saw a heartbeat within so long


@dataclass
class Lease:
    """The right to write the index of one cube; a context manager that gives it back."""

    place: Place
    number: int
    token: str  # numbers begin anew when a folder is removed, this never comes back
    dead: Record | None = None  # the one before, if it ended without giving back: its workers may be about
    beat: float = BEAT
    _stop: threading.Event = field(default_factory=threading.Event)
    _lost: str = ""

    def __post_init__(self) -> None:
        self._beats, self._lock, self._since = 0, threading.Lock(), time.time()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @property
    def taken_over(self) -> bool:
        """Whether workers of a dead run may still be about."""
        return self.dead is not None

    def check(self) -> None:
        """Raise unless this is still the newest lease."""
        record = None if self._lost else _newest(self.place)[1]
        if record is None or record["token"] != self.token:
            raise LeaseError(
                self._lost or f"{self.place}: another run has taken the cube over; this one stops"
            )

    def release(self, *, clean: bool = True) -> None:
        """Give the cube back: the next driver need not wait; if not `clean` it looks what is left to do."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            _LET_GO.add(self.token)
            with suppress(CubeError):  # a full disk keeps the old record; its process is known to be gone
                if clean and not self._lost:
                    self.place.put(_key(self.number), self._record(released=True))

    def copy(self, place: Place) -> None:
        """The same lease on what is going to stand in the cube's place."""
        place.put(_key(self.number), self._record())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No heartbeat while the folder under it is swapped."""
        with self._lock:
            yield

    def _keep(self) -> None:
        while not self._stop.wait(self.beat):
            try:
                with self._lock:
                    self.check()
                    self._beats += 1
                    self.place.put(_key(self.number), self._record())
            except LeaseError as error:
                self._lost = str(error)
                return
            except CubeError:
                continue  # a full disk or a slow server: the next beat may pass, or the lease expires

    def _record(self, released: bool = False) -> bytes:
        return _record(self.token, self._beats, released, self._since, self.taken_over)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.release()


def take(place: Place, *, beat: float = BEAT, stale: float = STALE) -> Lease:
    """Hold a cube, or say at once who does."""
    number, record = _newest(place)
    free = record is None or record["released"] or _gone(record)
    if record is not None and not free:
        if abs(time.time() - record["time"]) < stale:
            raise LeaseError(_held(place, record))
        if _beats_again(place, record, 3 * beat):  # clocks differ; a heartbeat that moves does not lie
            raise LeaseError(_held(place, record))
    token = uuid.uuid4().hex
    if not place.create(_key(number + 1), _record(token, 0)):
        holder = _newest(place)[1] or {"host": "another host", "pid": "?", "time": time.time()}
        raise LeaseError(_held(place, holder))
    dead = record if record is not None and not record["released"] else None
    taken = Lease(place, number + 1, token, dead, beat)
    place.delete(key for key in _keys(place) if _number(key) <= number)
    return taken


@dataclass
class Permit:
    """What a worker holds: it lets a put pass only while its own run's heartbeat goes on."""

    place: Place
    token: str
    sight: float = SIGHT
    _beats: int = -1
    _seen: float = 0.0

    def check(self) -> None:
        """Raise unless the run that gave the work still holds the cube and lives."""
        record = _newest(self.place)[1]
        if record is None or record["token"] != self.token or record["released"]:
            raise LeaseError(f"{self.place}: the run this work belongs to is over; nothing was written")
        now = time.monotonic()
        if (
            self._beats < 0
        ):  # the first look: the record's own time tells, or, where clocks differ, its next beat
            recent = abs(time.time() - record["time"]) < self.sight
            moved = recent or _beats_again(self.place, record, 3 * BEAT)
        else:
            moved = record["beats"] != self._beats
        if moved:
            self._beats, self._seen = record["beats"], now
        elif self._beats < 0 or now - self._seen > self.sight:
            raise LeaseError(
                f"{self.place}: no heartbeat of the run for {self.sight:.0f} s; nothing was written"
            )


def _newest(place: Place) -> tuple[int, dict[str, Any] | None]:
    """The highest number and what it says (0 and None where there is none)."""
    while keys := _keys(place):
        data = place.get(keys[-1])
        if data is not None:
            return _number(keys[-1]), _parsed(place, keys[-1], data)
        # the next driver removed it between the two calls: its own number is there now
    return 0, None


def _parsed(place: Place, key: str, data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
        numbers = (record["pid"], record["started"], record["time"], record["beats"], record["since"])
        if any(float(number) != number for number in numbers) or record["pid"] <= 0:
            raise ValueError("not a number")
        return {name: record[name] for name in _FIELDS}
    except (ValueError, KeyError, TypeError) as error:
        raise CubeError(f"{place}: {key} is not a lease; if no run is under way, remove that file") from error


def _record(
    token: str, beats: int, released: bool = False, since: float | None = None, after_dead: bool = False
) -> bytes:
    me = {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid()), "token": token}
    state = {"time": time.time(), "beats": beats, "released": released}
    return json.dumps(me | state | {"since": since or time.time(), "after_dead": after_dead}).encode()


def _keys(place: Place) -> list[str]:
    """Leases in order; whatever else lies there is nobody's lease."""
    return [stored.key for stored in place.list(FOLDER) if re.search(r"/\d{8}\.json$", stored.key)]


_FIELDS = ("host", "pid", "started", "token", "time", "beats", "released", "since", "after_dead")
_LET_GO: set[str] = set()  # tokens of what this process held


def _key(number: int) -> str:
    return f"{FOLDER}/{number:08d}.json"


def _number(key: str) -> int:
    return int(key.rsplit("/", 1)[-1].removesuffix(".json"))


@cache
def _host() -> str:
    """The machine as process ids know it: since this boot, in this container; a name alone is no identity."""
    marks = [socket.gethostname(), f"{uuid.getnode():x}"]
    for mark in (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")):
        with suppress(OSError):
            marks.append(os.readlink(mark) if mark.is_symlink() else mark.read_text().strip())
    return " ".join(marks)


def _started(pid: int) -> float | None:
    """When a process began, in a clock that nobody sets; None if it is gone (one not yet reaped is gone)."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        # in Linux: ticks since boot, the 22nd field, counted after the name, which may hold anything
        return (
            float(stat.read_text().rpartition(")")[2].split()[19]) if stat.exists() else process.create_time()
        )
    except (psutil.NoSuchProcess, OSError, ValueError):
        return None


def _gone(record: Record) -> bool:
    """Whether the holder was a process of this host that is no more, or this one before it let go."""
    if record["host"] != _host():
        return False
    started = _started(record["pid"])
    if started is None or abs(started - record["started"]) > 1:
        return True
    return bool(record["token"] in _LET_GO)


def _beats_again(place: Place, record: Record, wait: float) -> bool:
    until = time.monotonic() + wait
    while time.monotonic() < until:
        time.sleep(wait / 10)
        now = _newest(place)[1]
        if now is None or (now["token"], now["beats"]) != (record["token"], record["beats"]):
            return True
    return False


def _held(place: Place, record: Record) -> str:
    age = max(0.0, time.time() - record["time"])
    host = str(record["host"]).split()[0]
    return (
        f"{place} is being written by another run: process {record['pid']} on {host}, "
        f"last heartbeat {age:.0f} s ago; wait for it or stop it"
    )
