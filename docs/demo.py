"""`make demo`: from a grid to answers.

The experiments are real: workers run the embedded model on all hundred of them.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import tempocube as tc

CUBE = Path("demo.zarr")


def show(*command: str) -> None:
    """Run a command of tempocube as a user would, with its line above what it prints."""
    print(f"\n$ {' '.join(command)}", flush=True)
    subprocess.run([str(Path(sys.executable).with_name(command[0])), *command[1:]], check=True)


def main() -> None:
    """Plan the grid, run it, verify the cube, read it, answer."""
    show("tempo-capture", "seeds100-sampled", "--dry-run")
    shutil.rmtree(CUBE, ignore_errors=True)
    show("tempo-capture", "seeds100-sampled", "-o", str(CUBE), "--cross-check", "0.1")
    show("tempo-stats", "verify", str(CUBE))

    cube = tc.open_cube(CUBE)
    print("\n>>> cube = tempocube.open_cube('demo.zarr')   # lazy: nothing big has been read")
    print(f"attention {dict(cube.attention.sizes)}")
    print(">>> one = cube.sel(prompt='p0', seed=42, mode='visible')   # reads its chunks only")
    one = cube.sel(prompt="p0", seed=42, mode="visible").load()
    print(f"{str(one.text.item())!r}   # a set of parallel tokens stands in brackets")
    rows = one.attention.mean("head")
    print(f"each row sums to 1: {bool(np.allclose(rows.sum('key'), rows.notnull().any('key'), atol=0.01))}")
    step, slots = one.slot_step.values, np.arange(one.sizes["slot"])
    wide = next((s for s in range(one.sizes["step"]) if (step == s).sum() > 1), None)
    if wide is not None:
        best, *others = slots[step == wide]
        for mode in ("visible", "isolated"):
            seen = cube.attention.sel(prompt="p0", seed=42, mode=mode).isel(query=best, key=others)
            given = float(seen.mean(("layer", "head")).sum())
            print(f"{mode}: the best token of set {wide} gives its siblings {given:.4f} of its attention")
    stored = sum(path.stat().st_size for path in CUBE.rglob("*") if path.is_file())
    print(f"the cube takes {stored / 1e6:.1f} MB; any xarray opens it")
    show("tempo-stats", "report", str(CUBE))
    print(f"\nThe cube lies in {CUBE.resolve()}.")
    print(f"Its report, to be opened in a browser: {CUBE.resolve()}-report/index.html")


if __name__ == "__main__":
    main()
