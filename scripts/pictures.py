"""Takes the pictures of the README: a finished run's report, and the page of `gream serve` on its model.

    python scripts/pictures.py --run runs/quickstart

Writes ``docs/figures/report.png`` and ``docs/figures/page.png``. Needs Chromium, and the packages of the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser_support import CHROMIUM, Browser  # noqa: E402 - lies beside the tests that it is written for


async def take_report(run: Path, picture: Path) -> None:
    """The first screen of ``report.html``."""
    async with Browser(width=1000, height=1150) as browser:
        await browser.open((run / "report.html").resolve().as_uri())
        await browser.screenshot(picture, whole=False)
    shrink(picture)


async def take_page(address: str, picture: Path) -> None:
    """The page with the lists of both modes behind three items of the quickstart."""
    async with Browser(width=1280, height=950) as browser:
        await browser.open(address)
        await browser.until("document.activeElement.id === 'search'")
        for title in ("kettle", "coffee mug", "green tea"):
            await browser.type(title)
            await browser.until("document.querySelector('#options li[aria-selected=true]')")
            await browser.press("Enter")
        await browser.press("Enter")  # an empty search box starts
        await browser.until("document.querySelectorAll('.state.done').length === 2")
        await browser.screenshot(picture, whole=False)
    shrink(picture)


def shrink(picture: Path) -> None:
    """Keep as many colours as such a page has: a third of the bytes."""
    Image.open(picture).quantize(64).save(picture, optimize=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="a finished run")
    run = parser.parse_args().run
    if CHROMIUM is None:
        sys.exit("error: no Chromium on the PATH; install it, under the name chromium or google-chrome")
    figures = ROOT / "docs" / "figures"
    asyncio.run(take_report(run, figures / "report.png"))
    command = [sys.executable, "-m", "gream", "serve", f"--run={run}", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None  # noqa: S101 - it is a pipe
        words = server.stdout.readline().split()
        try:
            if words:
                asyncio.run(take_page(words[-1], figures / "page.png"))
        finally:
            server.terminate()
    if not words:
        sys.exit("error: the service does not start; its words are above")


if __name__ == "__main__":
    main()
