"""Print a script that completes commands, options and files in a shell.

    cliptrase completion bash > ~/.local/share/bash-completion/completions/cliptrase
    cliptrase completion zsh > ~/.zfunc/_cliptrase

For zsh, the folder has to be in fpath: put `fpath+=~/.zfunc` before `compinit` in ~/.zshrc.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from cliptrase_d2.utils.errors import InputError

_FOLDERS, _FILES = ("FOLDER",), ("FILE", "IMAGE", "DATA")  # words in the metavar of an argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase completion``."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="shell that reads the script")


def run(arguments: argparse.Namespace) -> int:
    """Print the script and return 0."""
    try:
        import shtab
    except ImportError as error:
        fix = "Install it: pip install shtab. Only this command needs it."
        raise InputError("completion", "the package shtab is not installed", fix) from error
    from cliptrase_d2.cli.main import build_parser

    parser = build_parser()
    for action in _list_actions(parser):
        name = str(action.metavar or "")
        if any(word in name for word in (*_FOLDERS, *_FILES)):
            is_folder = any(word in name for word in _FOLDERS)
            action.complete = shtab.DIRECTORY if is_folder else shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell))
    return 0


def _list_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its commands."""
    for action in parser._actions:  # argparse has no public list
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _list_actions(command)
        else:
            yield action
