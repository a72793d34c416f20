"""Take a screenshot of the page of `cliptrase web` for the README.

    python tools/make_web_picture.py --output docs/pictures/web_page.jpg

Playwright controls an installed Chromium. Name it with `--browser` if it is not found.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.web import command

_TIMEOUT = 120_000  # milliseconds


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1280, help="width of the window in pixels; phones have 360")
    parser.add_argument("--browser", default=shutil.which("chromium"), metavar="FILE", help="Chromium or Chrome")
    parser.add_argument("--output", type=Path, required=True, help="file; its suffix selects the format")
    return parser.parse_args()


def take_screenshot(address: str, browser: str, width: int) -> Image.Image:
    """Return the complete page with the results of both models."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(_TIMEOUT)
        page.goto(address)
        page.wait_for_selector("#right .answer")
        page.wait_for_function("document.querySelectorAll('.picture img').length >= 2")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        return Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")


def main() -> None:
    """Serve the page and write its screenshot."""
    args = parse_arguments()
    if args.browser is None:
        raise SystemExit("error: --browser: no Chromium was found. Install it, or name the browser's file.")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with tempfile.TemporaryDirectory() as folder:
        command.set_environment(folder)
        try:
            page, address = command.launch(parser.parse_args(["--models", "emoji"]), Path(folder))
        except InputError as error:
            raise SystemExit(f"error: {error}") from error
        picture = take_screenshot(address, args.browser, args.width)
        page.close(verbose=False)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(args.output, quality=80)
    print(f"{args.output}: {picture.width}x{picture.height} pixels, {args.output.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
