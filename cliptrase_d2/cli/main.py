"""The command ``cliptrase``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from cliptrase_d2 import __version__
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import clean_end


class Command(NamedTuple):
    """A sub-command; its module is imported when it runs, so that help comes at once.

    Attributes:
        module: has ``add_arguments(parser)``, light to import, and ``run(arguments)``, which returns an exit code.
        summary: what it does, in a line.
    """

    module: str
    summary: str


COMMANDS = {
    "segment": Command("cliptrase_d2.cli.segment", "images and videos into the classes that you name"),
    "explain": Command("cliptrase_d2.cli.explain", "pictures of what one patch of an image looks at, and of clusters"),
    "export": Command("cliptrase_d2.cli.export", "the image tower as an ONNX or PyTorch file, its numbers checked"),
    "web": Command("cliptrase_d2.web.command", "a page in the browser: drop a photo, type words, compare methods"),
    "doctor": Command("cliptrase_d2.cli.doctor", "what is installed, which weights and benchmarks are there"),
    "warm-start": Command("cliptrase_d2.cli.warm_start", "queries of a SAN from CLIPtrase's masks, as a checkpoint"),
}


def main(words: Sequence[str] | None = None) -> None:
    """Run the command that the words, by default those of the command line, ask for."""
    parser = argparse.ArgumentParser("cliptrase", description="Open-vocabulary segmentation from CLIP alone.")
    parser.add_argument("--version", action="version", version=f"cliptrase_d2 {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        module = import_module(command.module)
        module.add_arguments(commands.add_parser(name, help=command.summary, description=module.__doc__))
    arguments = parser.parse_args(words)
    if arguments.command is None:
        parser.print_help()
        return
    try:
        with clean_end():
            code = import_module(COMMANDS[arguments.command].module).run(arguments)
    except InputError as error:
        sys.exit(f"error: {error}")
    sys.exit(code)
