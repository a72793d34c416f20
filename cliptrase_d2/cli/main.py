"""The command-line program ``cliptrase``."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from cliptrase_d2 import __version__
from cliptrase_d2.cli.console import add_console_arguments, configured_console
from cliptrase_d2.utils.errors import InputError, suggest
from cliptrase_d2.utils.interruption import exit_on_interrupt

# Name -> module and summary. The module defines add_arguments(parser) and run(arguments), which returns an exit code.
# It is imported for --help too, so only run() may import PyTorch.
COMMANDS = {
    "segment": ("cliptrase_d2.cli.segment", "segment images and videos into the classes you name"),
    "explain": ("cliptrase_d2.cli.explain", "draw the attention of one patch and the clusters of an image"),
    "eval": ("cliptrase_d2.cli.evaluate", "evaluate models and methods on your data or on benchmarks"),
    "train": ("cliptrase_d2.cli.train", "train a SAN"),
    "prepare": ("cliptrase_d2.cli.prepare", "prepare a benchmark from its archives, or draw the emoji scenes"),
    "convert": ("cliptrase_d2.cli.convert", "convert labels of COCO, LabelMe, Label Studio, CVAT or Hugging Face"),
    "methods": ("cliptrase_d2.cli.methods", "list the methods of dense features and their published numbers"),
    "choose-templates": ("cliptrase_d2.cli.choose_templates", "choose prompts for each class from unlabelled images"),
    "export": ("cliptrase_d2.cli.export", "export the image encoder to ONNX or torch.export, and check it"),
    "web": ("cliptrase_d2.web.command", "segment photos and compare methods in the browser"),
    "doctor": ("cliptrase_d2.cli.doctor", "check the installation, cached weights and benchmarks"),
    "warm-start": ("cliptrase_d2.cli.warm_start", "initialise the queries of a SAN from CLIPtrase's masks"),
    "completion": ("cliptrase_d2.cli.completion", "print a script for completion in bash or zsh"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code.

    Args:
        argv: command-line arguments; None for those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        fix = suggest(words[0], COMMANDS, "See cliptrase --help.")
        sys.exit(f"error: {InputError('COMMAND', repr(words[0]), fix, allowed=', '.join(COMMANDS))}")
    parser = build_parser()
    arguments = parser.parse_args(words)
    if "run" not in arguments:
        parser.print_help()
        return
    try:
        with exit_on_interrupt(), configured_console(arguments):
            code = arguments.run(arguments)
    except InputError as error:
        if arguments.verbose:
            traceback.print_exc()
        sys.exit(f"error: {error}")
    sys.exit(code)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the program with all its commands."""
    parser = argparse.ArgumentParser("cliptrase", description="Training-free open-vocabulary segmentation with CLIP.")
    parser.add_argument("--version", action="version", version=f"cliptrase_d2 {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    for name, (path, summary) in COMMANDS.items():
        module = import_module(path)
        subparser = subparsers.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(subparser)
        add_console_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser
