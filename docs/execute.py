"""Run what a page of the documentation tells its reader to type: `python docs/execute.py PAGE ... [--write]`.

The page's sh and python blocks run in order, in a new folder that they share; the first error ends it. A text
block right after one of them is what it prints: times, sizes and last digits may differ, and `...` between
spaces stands for anything. With --write, text blocks that differ are renewed (put the dots in again). A
comment before a block says more: `<!-- not run: why -->`, or `<!-- exits with 2 -->`.
"""

import contextlib
import io
import math
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*?) -->\n+)?```(?P<language>sh|python|text)\n(?P<code>.*?)^```$", re.M | re.S
)
NUMBER = re.compile(r"(\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)")
CHANCE = (  # what differs from run to run
    (re.compile(r"\d[\d.,]* ?(?:ms|s|min|h)\b(?: \d+ (?:s|min)\b)?"), "TIME"),
    (re.compile(r"\d[\d.,]* ?(?:bytes|[kKMG]i?B)\b"), "SIZE"),
    (re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?"), "DATE"),
    (re.compile(r"\d(?:\.\d+)?e-\d\d"), "ROUNDING"),
)
NEAR = 0.02  # relative: last digits are another machine's


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: language and code, what the comment before it says, where its code lies in the page."""

    language: str
    code: str
    note: str
    start: int
    end: int


class Failed(Exception):
    """A block did not do what its page says."""


def blocks(page: str) -> Iterator[Block]:
    """Every sh, python and text block, in order."""
    for found in BLOCK.finditer(page):
        yield Block(found["language"], found["code"], found["note"] or "", *found.span("code"))


def run(page: str, folder: Path) -> str:
    """The page with the output that its blocks have today; raises Failed at the first error."""
    names: dict[str, Any] = {"__name__": "__page__"}
    printed, spans = "", []
    before: Block | None = None
    for block in blocks(page):
        if block.language == "text":
            if before and _beside(before, block, page) and not alike(block.code, printed):
                spans.append((block, printed))
            before = None
        elif block.note.startswith("not run"):
            before = None
        else:
            printed = _checked(block, page, folder, names)
            before = block
    for block, real in reversed(spans):
        page = page[: block.start] + real + page[block.end :]
    return page


def _beside(code: Block, text: Block, page: str) -> bool:
    """Whether nothing stands between the two."""
    return not page[code.end + len("```") : text.start - len("```text\n")].strip()


def _checked(block: Block, page: str, folder: Path, names: dict[str, Any]) -> str:
    line = page.count("\n", 0, block.start) + 1
    code, printed, complaint = (
        _shell(block, folder) if block.language == "sh" else _python(block, line, names)
    )
    wanted = re.fullmatch(r"exits with (\d+)", block.note)
    if code != (int(wanted[1]) if wanted else 0):
        raise Failed(f"line {line}: exit code {code}\n{block.code}\n{printed}{complaint}")
    shown = printed if printed.strip() or not wanted else complaint  # a refusal is told beside the output
    plain = shown.replace(f"{folder}/", "").strip("\n")
    return "\n".join(text.rstrip() for text in plain.splitlines()) + "\n"


def _shell(block: Block, folder: Path) -> tuple[int, str, str]:
    beside = Path(sys.executable).parent  # tempo-capture and tempo-stats of this very Python
    here = os.environ | {"PATH": f"{beside}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-euc", block.code], cwd=folder, env=here, capture_output=True, encoding="utf-8"
    )
    return done.returncode, done.stdout, done.stderr


def _python(block: Block, line: int, names: dict[str, Any]) -> tuple[int, str, str]:
    """Blocks of a page share their names; tracebacks speak of the page's lines."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(compile("\n" * (line - 1) + block.code, "page", "exec"), names)
    except Exception:  # noqa: BLE001 - whatever a reader would see
        return 1, out.getvalue(), traceback.format_exc()
    return 0, out.getvalue(), ""


def alike(page: str, real: str) -> bool:
    """Whether a page shows what was printed, but for times, sizes, last digits and what it leaves out."""
    wanted = [_words(part) for part in re.split(r"(?:^|(?<=\s))\.\.\.(?=\s|$)", page)]
    printed = _words(real)
    first, *rest = wanted
    if not _same(first, printed[: len(first)]):
        return False
    if not rest:
        return len(first) == len(printed)
    at = len(first)
    for part in rest[:-1]:
        found = (i for i in range(at, len(printed)) if _same(part, printed[i : i + len(part)]))
        if (at := next(found, -len(part) - 1) + len(part)) < 0:
            return False
    last = rest[-1]
    return len(printed) - len(last) >= at and (not last or _same(last, printed[-len(last) :]))


def _words(text: str) -> list[str]:
    for pattern, name in CHANCE:
        text = pattern.sub(name, text)
    return text.replace("-\n", "-").split()


def _same(page: list[str], real: list[str]) -> bool:
    return len(page) == len(real) and all(map(_close, page, real))


def _close(page: str, real: str) -> bool:
    """Two words: the same but for the last digits of their numbers."""
    ours, theirs = NUMBER.split(page), NUMBER.split(real)
    if ours[::2] != theirs[::2]:
        return False
    pairs = zip(ours[1::2], theirs[1::2], strict=True)
    return all(
        a == b or math.isclose(float(a.replace(",", "")), float(b.replace(",", "")), rel_tol=NEAR)
        for a, b in pairs
    )


def main(paths: list[str], write: bool) -> int:
    """Run each page in a folder of its own; 1 if one is out of date, 2 if one fails."""
    code = 0
    for path in map(Path, paths):
        page = path.read_text()
        where = path.resolve()
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            try:
                made = run(page, Path(folder).resolve())
            except Failed as error:
                print(f"{path}: {error}")
                return 2
        if made != page and write:
            where.write_text(made)
        elif made != page:
            print(f"{path}: prints something else now; python docs/execute.py {path} --write\n{made}")
            code = 1
    return code


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main([word for word in words if word != "--write"], "--write" in words))
