"""Prepare a benchmark from its official archives, or draw the emoji scenes.

    cliptrase prepare emoji_scenes datasets/emoji_scenes
    cliptrase prepare voc --archives ~/Downloads
    cliptrase prepare voc --help

These are the scripts datasets/prepare_<NAME>.py of the repository. Each has its own arguments.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from cliptrase_d2.utils.errors import InputError, suggest

_PREFIX = "prepare_"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase prepare``."""
    parser.add_argument("name", metavar="NAME", help=f"one of: {', '.join(list_scripts())}")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the script")


def run(arguments: argparse.Namespace) -> int:
    """Run the script and return 0."""
    scripts = list_scripts()
    if arguments.name not in scripts:
        fix = suggest(arguments.name, scripts, "Choose one of these.")
        raise InputError("NAME", repr(arguments.name), fix, allowed=", ".join(scripts))
    path = scripts[arguments.name]
    sys.path.insert(0, str(path.parent))  # worker processes import the script by its name
    words, sys.argv = sys.argv, [f"cliptrase prepare {arguments.name}", *arguments.arguments]
    try:
        import_module(path.stem).main()
    finally:
        sys.argv = words
    return 0


def list_scripts() -> dict[str, Path]:
    """Return the path of each script by its name, such as "voc"."""
    package = Path(__file__).resolve().parents[1]
    # The folder of a clone becomes a part of the package when this is built.
    folders = (package / "data" / "prepare" / "scripts", package.parent / "datasets")
    paths = [path for folder in folders for path in sorted(folder.glob(f"{_PREFIX}*.py"))]
    return {path.stem.removeprefix(_PREFIX): path for path in paths}
