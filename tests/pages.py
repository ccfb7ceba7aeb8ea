"""The pages of the documentation as tests read them: their commands, links and headings."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]

FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
COMMAND = re.compile(r"\btempo-(?:capture|stats)\b")
ENDS = re.compile(r"\s(?:#|\||&|;|>|2>)")  # what follows is no part of the command


def script(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return str(page.relative_to(ROOT))


def as_a_reader(page: Path, folder: Path) -> None:
    """Run a page as its reader does, in a process of its own that keeps its files in a folder."""
    command = [sys.executable, str(ROOT / "docs" / "execute.py"), str(page)]
    here = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=here)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def typed(page: str, commands: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Every line with one of our commands, in sh blocks, indented ones and code within text, and its words.

    A verb that there is not is a ValueError.
    """
    blocks = [code for language, code in FENCED.findall(page) if language == "sh"]
    text = FENCED.sub("", page)
    indented = re.findall(r"^ {4}(\S.*)$", text, re.M)
    inline = re.findall(r"`([^`\n]+)`", text)
    whole = "\n".join([*blocks, *indented]).replace("\\\n", " ").splitlines()
    for line in [*whole, *inline]:
        found = COMMAND.search(line)
        if found is None or line.lstrip().startswith("#"):
            continue
        words = shlex.split(ENDS.split(line[found.start() :])[0].replace("...", ""))
        named = [name for name in commands if words[: name.count(" ") + 1] == name.split()]
        if not named and len(words) > 1:
            raise ValueError(f"{line}: there are {', '.join(commands)}")
        if named and words != named[0].split():  # otherwise it is only mentioned
            yield line, words


def links(page: str) -> list[str]:
    """Links that stay in the repository."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page)) if "://" not in link]


def anchors(page: str) -> set[str]:
    """Names of the headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ +(.+?) *$", FENCED.sub("", page), re.M):
        text = re.sub(r"\]\([^)]*\)", "", heading).lower()
        plain = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.add(f"{plain}-{seen[plain]}" if seen[plain] else plain)
        seen[plain] += 1
    return found
