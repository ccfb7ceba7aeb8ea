"""`make demo`: from a grid file to a cube that verifies, as far as tempocube goes today.

There is no engine yet, so the experiments are simulated: their attention is made from numbers, and the truth
in it is known. Everything else is the real thing: the grid, the cube on disk, the commands, the readers.
"""

import shutil
import subprocess
import sys
from math import exp, log
from pathlib import Path

import numpy as np

import tempocube as tc

CUBE = Path("demo.zarr")


def show(*command: str) -> None:
    """Run a command of tempocube as a user would, with its line above what it prints."""
    print(f"\n$ {' '.join(command)}", flush=True)
    subprocess.run([str(Path(sys.executable).with_name(command[0])), *command[1:]], check=True)


def main() -> None:
    """Plan the grid, simulate it, verify the cube, read it."""
    show("tempo-capture", "seeds100-sampled", "--dry-run")

    simulated = tc.dataset.simulated
    shutil.rmtree(CUBE, ignore_errors=True)
    effects = simulated.Effects(mean=log(0.6), sink=0.5, recency=0.15)
    made = simulated.cube(simulated.Design(), effects, CUBE, seed=1)
    print(f"\n{len(made.truth)} simulated experiments are in {CUBE}: on average a parallel token gets 0.6")
    print("of the attention that a single one gets at the same distance; some prompts more, others less")
    show("tempo-stats", "verify", str(CUBE))

    cube = tc.open_cube(CUBE)
    print("\n>>> cube = tempocube.open_cube('demo.zarr')   # lazy: nothing big has been read")
    print(f"attention {dict(cube.attention.sizes)}")
    one = cube.attention.sel(prompt="p0", seed=42, mode="visible", layer=1).mean("head")
    print(">>> cube.attention.sel(prompt='p0', seed=42, mode='visible', layer=1)   # reads its chunks only")
    print(f"each row sums to 1: {bool(np.allclose(one.sum('key'), one.notnull().any('key'), atol=0.01))}")
    per_prompt = np.exp(made.truth.groupby("prompt")["downweighting"].mean())
    print(
        f"planted per prompt: {per_prompt.min():.2f} to {per_prompt.max():.2f}, "
        f"mean {exp(made.truth['downweighting'].mean()):.2f}"
    )
    stored = sum(path.stat().st_size for path in CUBE.rglob("*") if path.is_file())
    print(f"\nThe cube lies in {CUBE.resolve()} ({stored / 1e6:.1f} MB); any xarray opens it.")


if __name__ == "__main__":
    main()
