"""What holds for the package as a whole: what it costs to import, and which folder may use which."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

import tempocube

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]

IMPORT_SECONDS = 0.3
HEAVY = {
    *("mlx", "mlx_lm", "dask", "distributed", "xarray", "zarr", "obstore", "numpy", "pandas", "scipy"),
    *("statsmodels", "pingouin", "matplotlib", "pydantic", "ruamel", "typer", "rich", "psutil"),
}

# cli -> {capture, stats} -> dataset -> errors; a folder may also use itself.
MAY_USE = {
    "errors": set(),
    "dataset": {"errors"},
    "capture": {"errors", "dataset"},
    "stats": {"errors", "dataset"},
    "cli": {"errors", "dataset", "capture", "stats"},
}
FOLDERS = [name for name in MAY_USE if name != "errors"]
NEVER = {"dataset": {"mlx", "mlx_lm", "distributed"}, "stats": {"mlx", "mlx_lm", "distributed"}}
NOT_AT_IMPORT = {"dataset": {"dask"}}


def sources(*folders: str) -> list[Path]:
    """The package's Python files, of these folders and the top level."""
    return sorted([*ROOT.glob("*.py"), *(path for name in folders for path in (ROOT / name).rglob("*.py"))])


def in_fresh_python(code: str, cwd: Path) -> str:
    """What the code prints in a new interpreter that stands outside the checkout."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- what an import costs


def test_importing_tempocube_is_quick(tmp_path: Path) -> None:
    code = "import time; t = time.perf_counter(); import tempocube; print(time.perf_counter() - t)"
    best = min(float(in_fresh_python(code, tmp_path)) for _ in range(5))
    assert best < IMPORT_SECONDS


def test_importing_tempocube_brings_in_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import tempocube; print(*set(sys.modules) - before)"
    loaded = {name.partition(".")[0] for name in in_fresh_python(code, tmp_path).split()}
    assert "tempocube" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", tempocube.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(tempocube, name) is not None
    assert name in dir(tempocube)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'kube'"):
        _ = tempocube.kube


def test_dataset_and_stats_import_where_mlx_and_distributed_cannot(tmp_path: Path) -> None:
    names = sorted(
        ".".join(("tempocube", *path.relative_to(ROOT).with_suffix("").parts))
        for path in sources("dataset", "stats")
        if path.name != "__init__.py" and path.parent != ROOT
    )
    code = f"""
import importlib, sys
for blocked in ("mlx", "mlx.core", "mlx_lm", "distributed"):
    sys.modules[blocked] = None
for name in {names!r}:
    importlib.import_module(name)
"""
    in_fresh_python(code, tmp_path)


# --- which folder may use which


class Import(NamedTuple):
    """One import of one file; `name` is dotted and absolute."""

    name: str
    line: int
    at_import: bool


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, with the relative ones resolved."""
    package = ("tempocube", *path.relative_to(ROOT).parts[:-1])
    tree = ast.parse(path.read_text("utf-8"), str(path))
    todo: list[tuple[ast.AST, bool]] = [(tree, True)]
    while todo:
        node, at_import = todo.pop()
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            stem = (*base, *([node.module] if node.module else []))
            yield from (Import(".".join((*stem, alias.name)), node.lineno, at_import) for alias in node.names)
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        )
        todo.extend((child, at_import and not later) for child in ast.iter_child_nodes(node))


def layer(path: Path) -> str:
    """The folder a file is in, or its own name at the top level."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def crossings(path: Path) -> Iterator[str]:
    """The imports by which a file breaks the order of the folders."""
    here = layer(path)
    for found in imports(path):
        first, *rest = found.name.split(".")
        wrong = (
            (first == "tempocube" and rest and rest[0] in MAY_USE.keys() - MAY_USE[here] - {here})
            or first in NEVER.get(here, ())
            or (found.at_import and first in NOT_AT_IMPORT.get(here, ()))
        )
        if wrong:
            yield f"{path.relative_to(ROOT)}:{found.line} imports {found.name}"


def test_cli_uses_capture_and_stats_which_use_dataset_and_never_the_other_way() -> None:
    files = [path for path in sources(*FOLDERS) if layer(path) in MAY_USE]
    assert len(files) > len(FOLDERS)
    assert [line for path in files for line in crossings(path)] == []


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("stats/x.py", "from ..capture import run"),
        ("stats/x.py", "def f():\n    import mlx.core as mx"),
        ("stats/x.py", "from tempocube import cli"),
        ("dataset/x.py", "from .. import stats"),
        ("dataset/x.py", "import dask.array"),
        ("capture/embedded/x.py", "from ...stats.mixed import fit"),
        ("errors.py", "from .dataset import grid"),
    ],
)
def test_a_wrong_import_would_be_noticed(
    where: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, "utf-8")
    assert list(crossings(path))


def test_nothing_imports_a_folder_without_the_packages_name() -> None:
    everywhere = sources(*FOLDERS, "tests", "benchmarks", "docs")
    bare = [
        f"{path.relative_to(ROOT)}:{found.line} imports {found.name}"
        for path in everywhere
        for found in imports(path)
        if found.name.partition(".")[0] in MAY_USE
    ]
    assert bare == []


# --- what is installed


def test_the_version_is_the_same_in_both_places() -> None:
    assert tempocube.__version__ == PROJECT["version"]


def test_every_folder_with_code_is_in_the_wheel() -> None:
    folders = {path.parent.relative_to(ROOT).parts for path in sources(*FOLDERS)}
    assert {".".join(("tempocube", *parts)) for parts in folders} == set(SETUPTOOLS["packages"])


PIN = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!]+)(; (?P<marker>sys_platform == \"\w+\"))?"
)


def pins() -> dict[str, tuple[str, Marker | None]]:
    """The version and marker of each package in constraints.txt, by normalised name."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = [PIN.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found), "a line of constraints.txt is not NAME==VERSION, at most with a sys_platform marker"
    return {
        normal(match["name"]): (match["version"], Marker(match["marker"]) if match["marker"] else None)
        for match in found
        if match
    }


def normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_name_no_index_no_host_and_no_path() -> None:
    text = (ROOT / "constraints.txt").read_text("utf-8")
    assert not re.search(r"://|@|/|\\|^\s*-", text, re.MULTILINE)
    assert len(pins()) > len(PROJECT["dependencies"])


def test_constraints_pin_what_is_asked_for_and_within_its_bounds() -> None:
    pinned = pins()
    extras = PROJECT["optional-dependencies"]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras["dev"], *extras["s3"]]):
        version, _ = pinned[normal(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_constraints_pin_mlx_and_both_its_back_ends_alike() -> None:
    pinned = pins()
    assert pinned["mlx"][0] == pinned["mlx-cpu"][0] == pinned["mlx-metal"][0]
    for name, platform in (("mlx-cpu", "linux"), ("mlx-metal", "darwin")):
        marker = pinned[name][1]
        assert marker is not None
        assert marker.evaluate({"sys_platform": platform})
        assert not marker.evaluate({"sys_platform": "win32"})
