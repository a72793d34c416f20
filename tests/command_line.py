"""Runs train_net.py on drawn scenes with a small random model, in this process or in one of its own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

import train_net
from cliptrase_d2.d2 import setup_logger
from tests.clip.tiny import register_tiny
from tests.drawn_scenes import write_scenes
from tests.pipeline.tiny_segmenter import tiny_options

ROOT = Path(__file__).resolve().parents[1]
HEADLINE = {"pAcc", "mAcc", "fwIoU", "mIoU", "mAcc_all_classes", "mIoU_all_classes"}
# Makes the tiny model known in another process, then is train_net.py.
WRAPPER = """
import runpy, sys, open_clip
open_clip.add_model_config({config!r})
sys.argv[0] = {script!r}
sys.path.insert(0, {root!r})
runpy.run_path({script!r}, run_name="__main__")
"""


def write_dataset(folder: Path, count: int, **changes: Any) -> Path:
    """Drawn scenes and their YAML file, with a name of their own and other keys changed."""
    file = write_scenes(folder, count)
    values = {**yaml.safe_load(file.read_text()), "name": f"{folder.parent.name}_{folder.name}", **changes}
    file.write_text(yaml.safe_dump(values))
    return file


def run(monkeypatch: pytest.MonkeyPatch, dataset: Path, *options: str, flags: Sequence[str] = ()) -> str:
    """Evaluate the tiny model on a data set, in this process; the last line of train_net.py, "" where all is well."""
    words = ["--eval-only", "--dataset", str(dataset), *flags, *tiny_options(dataset.parent), *options]
    return call(monkeypatch, *words)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Run train_net.py in this process, and leave its loggers as they were; what it ends with, "" if all is well."""
    monkeypatch.setattr(sys, "argv", ["train_net.py", *words])
    with _loggers_as_before():
        try:
            train_net.run()
        except SystemExit as end:
            return str(end.code)
    return ""


@contextmanager
def _loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("cliptrase_d2", "detectron2", "fvcore")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            for handler in set(logger.handlers) - set(handlers):
                handler.close()
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        if hasattr(setup_logger, "cache_clear"):  # Detectron2's remembers the folders that it logs to already
            setup_logger.cache_clear()


def run_process(*words: str, script: str = "train_net.py", **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONWARNINGS": "ignore", **environment}  # what Detectron2 warns of is not what we say
    return subprocess.run(
        [sys.executable, *script.split(), *words],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def wrapper(folder: Path) -> str:
    """A script that is train_net.py, with the tiny model known."""
    register_tiny(folder)
    path, script = folder / "wrapper.py", str(ROOT / "train_net.py")
    path.write_text(WRAPPER.format(config=str(folder / "tiny-vit.json"), script=script, root=str(ROOT)))
    return str(path)


def results(dataset: Path, output: Path | None = None, system: str = "") -> dict[str, Any]:
    """What metrics.json says."""
    name = yaml.safe_load(dataset.read_text())["name"]
    folder = (output or dataset.parent / "output") / system / "inference" / name
    return json.loads((folder / "metrics.json").read_text())
