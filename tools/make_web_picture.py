"""Take the README's picture of the page that `cliptrase web` serves, as Chromium shows it.

    python tools/make_web_picture.py --output docs/pictures/web_page.jpg

Playwright drives the Chromium of this machine, which `--browser` names where it is not found.
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

_MOMENT = 120_000  # milliseconds until the page must be there


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1280, help="of the window in pixels; 360 is a phone's")
    parser.add_argument("--browser", default=shutil.which("chromium"), metavar="FILE", help="Chromium or Chrome")
    parser.add_argument("--output", type=Path, required=True, help="file; its suffix decides the format")
    return parser.parse_args()


def take(address: str, browser: str, width: int) -> Image.Image:
    """The page as it opens, both sides answered, from top to bottom."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(_MOMENT)
        page.goto(address)
        page.wait_for_selector("#right .answer")
        page.wait_for_function("document.querySelectorAll('.picture img').length >= 2")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        return Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")


def main() -> None:
    """Serve the page, take the picture, write it."""
    args = parse_arguments()
    if args.browser is None:
        raise SystemExit("error: no Chromium on this machine; install it, or name a --browser")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with tempfile.TemporaryDirectory() as folder:
        command.set_environment(folder)
        try:
            page, address = command.launch(parser.parse_args(["--models", "emoji"]), Path(folder))
        except InputError as error:
            raise SystemExit(f"error: {error}") from error
        picture = take(address, args.browser, args.width)
        page.close(verbose=False)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(args.output, quality=80)
    print(f"{args.output}: {picture.width}x{picture.height} pixels, {args.output.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
