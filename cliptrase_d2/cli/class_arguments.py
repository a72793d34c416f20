"""The classes of a command: the arguments that name them, light to import, and how they are read."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_class_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """--classes or --classes-file, and --background."""
    words = parser.add_mutually_exclusive_group(required=required)
    words.add_argument("--classes", help='classes with commas between them; "cat;kitten" are synonyms of one')
    words.add_argument("--classes-file", type=Path, metavar="FILE", help="text file, one class per line")
    parser.add_argument("--background", default="", metavar="WORDS", help='words of a last class "background"')


def parse_classes(arguments: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Classes and words of the background, checked, so that a slip is told before a model is loaded.

    Raises:
        InputError: a file that cannot be read, or names that are no vocabulary.
    """
    from cliptrase_d2.data.custom import read_class_file
    from cliptrase_d2.vocabulary import Vocabulary

    if arguments.classes_file:
        classes, where = read_class_file(arguments.classes_file), str(arguments.classes_file)
    else:
        classes, where = tuple(arguments.classes.split(",")), "--classes"
    background = tuple(arguments.background.split(",")) if arguments.background else ()
    Vocabulary.parse(classes, background, where)
    return classes, background
