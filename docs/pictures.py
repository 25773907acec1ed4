"""Take the pictures of the server's page that the documentation shows.

    python docs/pictures.py demo-output

Serves what `make demo` made; needs Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

DOCS = Path(__file__).parent
PORT = 8097
QUERY = "kestrel wobbling after GC tune, roll back?"
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def take(browser: Browser, name: str, width: int, height: int, scheme: str) -> None:
    """One picture of the page with a query."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(f"http://127.0.0.1:{PORT}/")
    page.wait_for_selector("#map-frame.drawn", timeout=60_000)
    page.fill("#query", QUERY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#answers:not([aria-busy]) #bars > .bar")
    page.wait_for_selector("#map-query:not([display])")
    page.wait_for_timeout(1000)  # the browser paints
    page.screenshot(path=DOCS / name, full_page=width > height)
    page.close()


def main(folder: Path) -> None:
    """Serve, look, stop."""
    program = Path(sys.executable).with_name("routerretriever")
    command = [program, "serve", folder / "model", "--index", folder / "index", "--port", str(PORT)]
    server = subprocess.Popen(command)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready")
                break
            except OSError:
                time.sleep(0.5)
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("chromium-browser")
            browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
            take(browser, "page.png", 1280, 900, "light")
            take(browser, "page-phone.png", 390, 844, "dark")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output"))
