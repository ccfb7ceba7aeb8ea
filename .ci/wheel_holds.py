"""Check what is in a wheel: all code and all presets of the checkout, and no tests."""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("capture", "cli", "dataset", "stats")


def main(wheel: str) -> int:
    """Print what is missing or too much; the exit code says whether anything was."""
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))}
    presets = {path for path in (ROOT / "dataset" / "presets").iterdir() if path.is_file()}
    wanted = {
        f"tempocube/{path.relative_to(ROOT).as_posix()}" for path in {*code, *presets, ROOT / "py.typed"}
    }
    problems = [f"missing from the wheel: {name}" for name in sorted(wanted - held)]
    problems += [
        f"has no business in the wheel: {name}"
        for name in sorted(held)
        if name.split("/")[1] not in FOLDERS and name not in wanted
    ]
    if not presets:
        problems.append("there are no presets")
    sys.stdout.write(
        "\n".join([*problems, f"{Path(wheel).name}: {len(held)} files, {len(presets)} presets"]) + "\n"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
