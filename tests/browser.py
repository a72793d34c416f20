"""A browser to look at pages with, where this machine has one."""

from __future__ import annotations

import shutil

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# It asks nobody else for anything, and needs no screen.
HEADLESS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-component-update",
    "--disable-background-networking",
)  # fmt: skip
NO_BROWSER = "no Chromium on this machine"
