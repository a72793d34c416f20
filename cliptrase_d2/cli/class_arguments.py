"""Command-line arguments for class names, and the parsing of lists and pairs. Light to import."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from cliptrase_d2.utils.errors import InputError


def add_class_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add --classes or --classes-file, and --background."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--classes", help='class names, separated by commas; "cat;kitten" are synonyms of one class')
    group.add_argument(
        "--classes-file", type=Path, metavar="FILE", help="text file with one class per line; - for standard input"
    )
    background = 'prompts of an extra last class "background"; @voc, @coco_stuff, … for a ready list'
    parser.add_argument("--background", default="", metavar="NAMES", help=background)


def read_classes(arguments: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the class names and background prompts. Reject invalid ones before a model is loaded.

    Raises:
        InputError: an unreadable file, or names that do not form a vocabulary.
    """
    from cliptrase_d2.class_files import read_class_file, split_class_text
    from cliptrase_d2.vocabulary import Vocabulary

    if str(arguments.classes_file) == "-":
        classes, source = split_class_text(sys.stdin.read(), "standard input"), "standard input"
    elif arguments.classes_file:
        classes, source = read_class_file(arguments.classes_file), str(arguments.classes_file)
    else:
        classes, source = split_names(arguments.classes), "--classes"
    background = split_names(arguments.background)
    Vocabulary.parse(classes, where=source)
    Vocabulary.parse(classes, background, where="--background")
    return classes, background


def split_names(text: str) -> tuple[str, ...]:
    """Split a list of class names at commas and line breaks; those at either end are ignored."""
    text = text.strip(", \n")
    return tuple(re.split(r"\s*(?:,\s*|\n\s*)", text)) if text else ()


def parse_pair(text: str, separator: str, flag: str) -> tuple[int, int]:
    """Parse two whole numbers, such as "320,200".

    Raises:
        InputError: the text has another form.
    """
    match = re.fullmatch(rf"(\d+){separator}(\d+)", text)
    if match is None:
        raise InputError(flag, repr(text), f"Give two whole numbers of pixels, such as 320{separator}200.")
    return int(match[1]), int(match[2])
