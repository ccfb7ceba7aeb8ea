"""The pictures of the README: python docs/pictures.py demo.zarr-report (needs playwright and a Chromium).

`make demo` makes that report.
"""

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH = 1280


def main(report: Path) -> None:
    """Photograph the top of the page, and a step in the explorer."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1200}, device_scale_factor=1.0)
        page.goto((report.resolve() / "index.html").as_uri())
        page.wait_for_selector("#explorer button")
        _photograph(page, "report.png", page.locator("#design").bounding_box())
        page.locator("#explorer").scroll_into_view_if_needed()
        page.locator("#explorer").screenshot(path=HERE / "explorer.png")
        browser.close()
    for name in ("report.png", "explorer.png"):
        with Image.open(HERE / name) as picture:
            picture.convert("RGB").quantize(64).save(HERE / name, optimize=True)


def _photograph(page: Page, name: str, below: dict[str, float] | None) -> None:
    """All that is above a part of the page."""
    height = (below or {"y": 700.0})["y"] - 24
    clip = {"x": 0.0, "y": 0.0, "width": float(WIDTH), "height": height}
    page.screenshot(path=HERE / name, clip=clip)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
