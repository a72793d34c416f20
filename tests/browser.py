"""Chromium for tests of pages, if installed."""

from __future__ import annotations

import shutil

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Without a screen, and without requests of its own.
HEADLESS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-component-update",
    "--disable-background-networking",
)  # fmt: skip
NO_BROWSER = "Chromium is not installed"
