"""Protection of existing results. Light to import."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from cliptrase_d2.utils.errors import InputError


def add_overwrite_argument(parser: argparse._ActionsContainer) -> None:
    """Add --overwrite."""
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")


def require_absent(results: Iterable[Path], other_fix: str = "") -> None:
    """Raise an InputError if a file or folder of results exists.

    Args:
        results: paths that a command would write.
        other_fix: another remedy besides --overwrite, beginning with a comma.
    """
    existing = next((path for path in results if path.exists()), None)
    if existing:
        fix = f"Choose another --output, or add --overwrite to replace it{other_fix}."
        raise InputError(existing, "a result that exists already", fix)
