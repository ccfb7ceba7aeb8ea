"""A browser for tests of pages: a Chromium that is installed here, never one that is downloaded."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What a page may do: nothing but what it brings along.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def executable() -> str | None:
    """The path of a Chromium, by $CHROMIUM or by its usual names."""
    return next(
        (path for name in (os.environ.get("CHROMIUM", ""), *NAMES) if (path := shutil.which(name))), None
    )


@contextmanager
def launched() -> Iterator[Any]:
    """A headless browser; the tests that want one are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    path = executable()
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in CHROMIUM")
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses root
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--disable-dev-shm-usage", *alone])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, file: Path, ready: str, **context: Any) -> Iterator[Any]:
    """The page of a file, once `ready` is there; what it complains of or asks the network for is an error."""
    own = browser.new_context(**context)
    page = own.new_page()
    complaints: list[str] = []
    asked: list[str] = []
    page.on(
        "console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector(ready, state="attached", timeout=20_000)
    yield page
    own.close()
    assert not complaints
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]


def page_of(section: str, file: Path) -> Path:
    """A file with a page around a part of one, as strict as the report's."""
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    size = '<meta name="viewport" content="width=device-width,initial-scale=1">'
    head = f'<head><meta charset="utf-8">{policy}{size}<title>x</title></head>'
    file.write_text(f'<!doctype html><html lang="en">{head}<body>{section}</body></html>', "utf-8")
    return file
