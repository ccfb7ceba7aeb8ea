"""The rows of the storage benchmark: ways to keep softmax maps on disk; `log16` and `exact float32` are ours.

The others are written with plain NumPy and Zarr, from the weights that a softmax gives (float32, hidden 0).
Reading gives float32 weights from all of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import planted
import zarr
from common import Clock
from planted import Profile
from zarr.abc.store import Store
from zarr.storage import LocalStore, StorePath

from tempocube.dataset import encoding
from tempocube.dataset.cube import Cube
from tempocube.dataset.grid import Grid
from tempocube.dataset.place import Place
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import BLOCK, DATA, DONE, ModelFacts, Variable, sizes
from tempocube.dataset.store import Driver, Task
from tempocube.dataset.template import Labels, arrays

Array = npt.NDArray[Any]
Job = Any  # what one call of `write` gets: the number of a cell, or its Task
Wrap = Callable[[Store], Store]  # how a reader's store is watched

GROUP_BYTES = 256 << 20  # of a layer of all cells, so much is in memory at a time


def unwatched(store: Store) -> Store:
    """The store as it is."""
    return store


class Npz:
    """One compressed .npz a cell: what the earlier code did. Base of the others: they have the same calls."""

    name, about = "npz", "np.savez_compressed float32, a file a cell"

    @contextmanager
    def created(self, folder: Path, profile: Profile, cells: int) -> Iterator[list[Job]]:
        """Make the place, hand out the jobs."""
        folder.mkdir(parents=True)
        yield list(range(cells))

    def fold(self) -> None:
        """Called now and then while workers write."""

    def pack(self, logs: Array) -> Array:
        """Log weights to what is stored."""
        return np.nan_to_num(np.exp(logs), copy=False)

    def unpack(self, stored: Array) -> Array:
        """What is stored to float32 weights."""
        return stored

    def write(self, folder: Path, profile: Profile, job: Job) -> Clock:
        """Write a cell, which must be in memory as a whole; the making of maps is not counted."""
        slots = planted.slots(profile, job)
        whole = np.zeros((profile.layers, profile.heads, slots, slots), np.float32)
        for start, logs in planted.maps(profile, job):
            whole[:, :, start : start + BLOCK, : logs.shape[-1]] = self.pack(logs)
        with Clock() as clock:
            self.put(folder, job, whole)
        return clock

    def put(self, folder: Path, cell: int, whole: Array) -> None:
        """Write one whole cell."""
        np.savez_compressed(folder / f"{cell}.npz", attention=whole)

    def open(self, folder: Path, wrap: Wrap = unwatched) -> Any:
        """What `cell` and `layer` read from."""
        return folder

    def cell(self, opened: Any, profile: Profile, cell: int) -> Array:
        """Weights of one cell, (layer, head, query, key)."""
        return np.asarray(np.load(opened / f"{cell}.npz")["attention"])

    def layer(self, opened: Any, profile: Profile, cells: int, layer: int) -> None:
        """Read one layer of all cells."""
        for cell in range(cells):
            self.cell(opened, profile, cell)[layer]


class ZarrDefaults(Npz):
    """One Zarr array a cell, with whatever zarr-python chooses."""

    name, about = "zarr defaults", "float32, zarr-python's own compressor and chunks, an array a cell"

    def put(self, folder: Path, cell: int, whole: Array) -> None:
        """Write one whole cell: blocks of rows would share chunks."""
        store = LocalStore(folder)
        zarr.create_array(store, name=str(cell), shape=whole.shape, dtype=whole.dtype)[...] = whole

    def open(self, folder: Path, wrap: Wrap = unwatched) -> Any:
        """The store: an array is opened when it is read, as a file is."""
        return wrap(LocalStore(folder, read_only=True))

    def cell(self, opened: Any, profile: Profile, cell: int) -> Array:
        """Weights of one cell."""
        return np.asarray(zarr.open_array(opened, path=str(cell), mode="r")[...])

    def layer(self, opened: Any, profile: Profile, cells: int, layer: int) -> None:
        """Read one layer of all cells."""
        for cell in range(cells):
            zarr.open_array(opened, path=str(cell), mode="r")[layer]


class Sharded(Npz):
    """Another number format in our chunks, shards and compressor: what the number format itself does."""

    def __init__(self, name: str, about: str, dtype: str, scale: int) -> None:
        self.name, self.about, self._dtype, self._scale = name, about, np.dtype(dtype), np.float32(scale)

    @contextmanager
    def created(self, folder: Path, profile: Profile, cells: int) -> Iterator[list[Job]]:
        """Make the one array of all cells."""
        slots = max(planted.slots(profile, cell) for cell in range(cells))
        lengths = {"layer": profile.layers, "head": profile.heads, "query": slots, "key": slots}
        variable = Variable("attention", DATA["attention"].dims, self._dtype.name, 0, "", "")
        zarr.create_array(
            LocalStore(folder),
            shape=(cells, *(lengths[dim] for dim in variable.dims)),
            chunks=(1, *encoding.chunk_shape(variable, lengths)),
            shards=(1, *encoding.shard_shape(variable, lengths)),
            dtype=self._dtype,
            fill_value=0,
            compressors=our_compressors(profile),
        )
        yield list(range(cells))

    def pack(self, logs: Array) -> Array:
        """Weights times the scale, rounded where the format has whole numbers only."""
        weights = super().pack(logs)
        return (np.rint(weights * self._scale) if self._dtype.kind == "u" else weights).astype(self._dtype)

    def unpack(self, stored: Array) -> Array:
        """Over the scale."""
        return stored.astype(np.float32) / self._scale

    def write(self, folder: Path, profile: Profile, job: Job) -> Clock:
        """Write a cell, block by block."""
        array, clock = zarr.open_array(LocalStore(folder), mode="r+"), Clock()
        for start, logs in planted.maps(profile, job):
            with clock:
                block = self.pack(logs)
                whole = np.zeros((*block.shape[:3], array.shape[-1]), block.dtype)
                whole[..., : block.shape[-1]] = block
                array[job, :, :, start : start + block.shape[2]] = whole
        return clock

    def open(self, folder: Path, wrap: Wrap = unwatched) -> Any:
        """The array."""
        return zarr.open_array(wrap(LocalStore(folder, read_only=True)), mode="r")

    def cell(self, opened: Any, profile: Profile, cell: int) -> Array:
        """Weights of one cell."""
        slots = planted.slots(profile, cell)
        return self.unpack(opened[cell, :, :, :slots, :slots])

    def layer(self, opened: Any, profile: Profile, cells: int, layer: int) -> None:
        """Read one layer of all cells."""
        for group in groups(profile, cells):
            self.unpack(opened[group, layer])


class Ours(Npz):
    """A cube, with all that keeps it whole: lease, digests, checked shards, receipts."""

    def __init__(self, name: str, about: str, storage: str) -> None:
        self.name, self.about, self.storage = name, about, storage
        self.variable = DATA["log_attention" if storage == "log16" else "attention"]

    @contextmanager
    def created(
        self, folder: Path, profile: Profile, cells: int, logits: bool = False
    ) -> Iterator[list[Job]]:
        """Be its driver; on leaving, every cell must be done."""
        grid = asked(profile, cells, self.storage, logits)
        with Driver(folder, grid, facts(profile), planted.PROMPT_TOKENS[1] - 1) as self._run:
            yield self._run.todo()
        if not (Cube.open(folder).status() == DONE).all():
            raise RuntimeError(f"{folder}: not every cell is done")

    def fold(self) -> None:
        """Take in the receipts there are."""
        self._run.fold()

    def pack(self, logs: Array) -> Array:
        """Codes, or the weights themselves."""
        return encoding.encode(logs, "attention") if self.variable.codec else np.exp(logs)

    def unpack(self, stored: Array) -> Array:
        """Through the table."""
        return encoding.decode(stored, "attention", logs=False) if self.variable.codec else stored

    def write(self, folder: Path, profile: Profile, job: Task) -> Clock:
        """Write a cell as a worker does, block by block; making logs or weights is not counted."""
        cell = job.index[0] * len(profile.modes) + job.index[2]
        with Clock() as clock:
            writer = job.writer()
        for start, logs in planted.maps(profile, cell):
            block = logs if self.variable.codec else np.exp(logs)
            with clock:
                writer.write(self.variable.name, block, start)
        for start, logs in planted.readouts(profile, cell) if "logits" in writer.cube.data else ():
            writer.write("logits", logs, start)
        small = planted.small(profile, cell)
        with clock:
            writer.finish(small)
        return clock

    def open(self, folder: Path, wrap: Wrap = unwatched) -> Any:
        """The lazy attention of `open_cube`: (prompt, mode, layer, head, query, key)."""

        class Watched(Place):
            """The cube's place, with its store watched."""

            def zarr(self, read_only: bool = True) -> Any:
                return wrap(super().zarr(read_only))

        return open_cube(Watched(str(folder.absolute()))).attention[:, 0]

    def cell(self, opened: Any, profile: Profile, cell: int) -> Array:
        """Weights of one cell."""
        slots = planted.slots(profile, cell)
        return np.asarray(opened[*divmod(cell, len(profile.modes)), :, :, :slots, :slots].values)

    def layer(self, opened: Any, profile: Profile, cells: int, layer: int) -> None:
        """Read one layer of all cells."""
        for group in groups(profile, cells):
            modes = len(profile.modes)
            opened[group.start // modes : ceil(group.stop / modes), :, layer].load()


FORMATS: dict[str, Npz] = {
    each.name: each
    for each in (
        Npz(),
        ZarrDefaults(),
        Ours("exact float32", "float32 in our chunks and shards (storage: float32)", "float32"),
        Sharded("float16", "weights as float16 in our chunks and shards", "float16", 1),
        Sharded("linear uint16", "weights x 65535 in our chunks and shards", "uint16", 65535),
        Ours("log16", "log weights x -128 in our chunks and shards (storage: log16)", "log16"),
    )
}


def asked(profile: Profile, cells: int, storage: str, logits: bool = False) -> Grid:
    """The grid of a benchmark's cube."""
    return Grid.from_dict(
        {
            "prompts": {"planted": [f"planted {i}" for i in range(ceil(cells / len(profile.modes)))]},
            "modes": list(profile.modes),
            "replay": profile.modes[0] if len(profile.modes) > 1 else None,
            "max_tokens": profile.sets,
            "max_slots": profile.slots,
            "capture": {"attention": {}, "logits": logits},
            "storage": {"attention": storage, "logits": storage},
        }
    )


def facts(profile: Profile) -> ModelFacts:
    """Its model; what is not stored here has the numbers of a 3-billion-parameter one."""
    return ModelFacts("planted", "0" * 64, profile.layers, profile.heads, 8, 128, 3072, 8192, profile.vocab)


def our_compressors(profile: Profile) -> Any:
    """What a cube's own arrays are compressed with."""
    grid = asked(profile, 1, "log16")
    metas = arrays(grid, facts(profile), Labels().extended(grid), sizes(grid, facts(profile), 1))
    array = zarr.Array.from_dict(StorePath(zarr.storage.MemoryStore()), metas["log_attention"])
    return array.compressors


def groups(profile: Profile, cells: int) -> Iterator[slice]:
    """Cells whose maps of one layer are in memory together."""
    slots = max(planted.slots(profile, cell) for cell in range(cells))
    modes = len(profile.modes)
    step = modes * max(1, GROUP_BYTES // (profile.heads * slots * slots * 4) // modes)
    return (slice(start, min(start + step, cells)) for start in range(0, cells, step))
