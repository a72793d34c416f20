"""The code in the guides works: Python blocks run, and commands have valid arguments."""

from __future__ import annotations

import argparse
import os
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from cliptrase_d2.cli.main import main
from cliptrase_d2.config import load_config
from cliptrase_d2.data.benchmarks import BENCHMARKS
from cliptrase_d2.data.custom import DATASET_KEYS
from cliptrase_d2.mask_sources import MASK_SOURCES
from cliptrase_d2.methods import DENSE_METHODS, IMAGE_METHODS
from cliptrase_d2.methods.catalog import METHODS
from cliptrase_d2.utils.plain_yaml import load_plain_yaml
from tests.docs.pages import PAGES, ROOT, Block, find_blocks, get_name

COMMANDS = [
    (block, line)
    for page in PAGES
    for block in find_blocks(page, "bash")
    for line in block.text.replace("\\\n", " ").splitlines()
    if not block.mark.startswith("not checked")
]
# Other programs, and `make`, whose targets test_repository.py checks.
FOREIGN_COMMANDS = (". ", "export ", "make ", "pip ", ".venv/bin/python -m pytest")


class Parsed(Exception):  # noqa: N818  # not an error
    """Raised with the arguments that a parser returned, so that the command does not run."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A writable folder like a clone. Everything that examples register is removed afterwards."""
    for name in ("configs", "datasets", "docs", "tools", "train_net.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    registries = (DENSE_METHODS, IMAGE_METHODS, METHODS, MASK_SOURCES, BENCHMARKS)
    with ExitStack() as stack:
        for registry in registries:
            stack.enter_context(patch.dict(registry))
        yield tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if find_blocks(page, "python")], ids=get_name)
def test_python_blocks_of_a_page_run_in_order(page: Path, workspace: Path) -> None:
    names: dict[str, object] = {"__name__": "__page__"}
    for block in find_blocks(page, "python"):
        code = compile(block.text, block.place, "exec")
        if not block.mark.startswith("not run"):
            exec(code, names)
    assert "__builtins__" in names, "no block of this page is run"


@pytest.mark.parametrize(("block", "line"), COMMANDS, ids=lambda value: getattr(value, "place", None))
def test_command_has_valid_arguments(block: Block, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for word in shlex.split(line, comments=True) if "=" not in word or not word.split("=")[0].isupper()]
    if not words or f"{' '.join(words)} ".startswith(FOREIGN_COMMANDS):
        return
    monkeypatch.chdir(ROOT)
    arguments = _parse(words, monkeypatch)
    options = list(getattr(arguments, "opts", None) or [])
    assert load_config(getattr(arguments, "config_file", None) or None, options)  # the file and all keys exist


def _parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Parse a command with its own parser, which exits if the arguments are invalid."""
    script = next((index for index, word in enumerate(words) if word.endswith(".py")), None)
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *arguments: object) -> argparse.Namespace:
        raise Parsed(parse(self, *arguments))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", words[script or 0 :])
    if script is not None:
        monkeypatch.syspath_prepend((ROOT / words[script]).parent)
    with pytest.raises(Parsed) as parsed:
        _start(words, script)
    return parsed.value.arguments


def _start(words: list[str], script: int | None) -> None:
    """Run the script at an index of the words, or ``cliptrase`` if it is None."""
    if script is None:
        assert words[0] == "cliptrase"
        main(words[1:])
    else:
        runpy.run_path(os.fspath(ROOT / words[script]), run_name="__main__")


@pytest.mark.parametrize(
    ("block", "line"),
    [(block, line) for block, line in COMMANDS if block.mark == "runs"],
    ids=lambda value: getattr(value, "place", None),
)
def test_command_runs(block: Block, line: str, workspace: Path) -> None:
    command, *words = shlex.split(line)
    assert command == "cliptrase"
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert not exit_info.value.code


@pytest.mark.parametrize(
    "block", [block for page in PAGES for block in find_blocks(page, "yaml")], ids=lambda block: block.place
)
def test_yaml_has_only_known_keys(block: Block, tmp_path: Path) -> None:
    values = load_plain_yaml(block.text, "guide")
    if not any(key.isupper() for key in values):
        assert set(values) <= set(DATASET_KEYS)
        return
    if "_BASE_" in values:
        values["_BASE_"] = str(ROOT / values["_BASE_"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    assert load_config(file)
