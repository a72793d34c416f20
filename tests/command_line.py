"""Runs of train_net.py on drawn scenes with a small random model, in this process or in its own."""

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
# Registers the tiny model in another process, then runs train_net.py.
WRAPPER = """
import runpy, sys, open_clip
open_clip.add_model_config({config!r})
sys.argv[0] = {script!r}
sys.path.insert(0, {root!r})
runpy.run_path({script!r}, run_name="__main__")
"""


def write_dataset(folder: Path, count: int, **changes: Any) -> Path:
    """Draw scenes, and write their YAML file with a unique name and with other keys changed."""
    file = write_scenes(folder, count)
    values = {**yaml.safe_load(file.read_text()), "name": f"{folder.parent.name}_{folder.name}", **changes}
    file.write_text(yaml.safe_dump(values))
    return file


def run(monkeypatch: pytest.MonkeyPatch, dataset: Path, *options: str, flags: Sequence[str] = ()) -> str:
    """Evaluate the tiny model on a data set with `call`."""
    words = ["--eval-only", "--dataset", str(dataset), *flags, *tiny_options(dataset.parent), *options]
    return call(monkeypatch, *words)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Run train_net.py in this process, restore its loggers, and return its error, or "" on success."""
    monkeypatch.setattr(sys, "argv", ["train_net.py", *words])
    with restore_loggers():
        try:
            train_net.run()
        except SystemExit as end:
            return str(end.code)
    return ""


@contextmanager
def restore_loggers() -> Iterator[None]:
    """Restore what `setup_logger` changes, on both backends."""
    loggers = [logging.getLogger(name) for name in ("cliptrase_d2", "detectron2", "fvcore")]
    states = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, states, strict=True):
            for handler in set(logger.handlers) - set(handlers):
                handler.close()
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        if hasattr(setup_logger, "cache_clear"):  # Detectron2's caches its log folders
            setup_logger.cache_clear()


def run_process(*words: str, script: str = "train_net.py", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in its own process."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}  # Detectron2's warnings are not ours
    command = [sys.executable, *script.split(), *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def write_wrapper(folder: Path) -> str:
    """Write a script that registers the tiny model and runs train_net.py."""
    register_tiny(folder)
    path, script = folder / "wrapper.py", str(ROOT / "train_net.py")
    path.write_text(WRAPPER.format(config=str(folder / "tiny-vit.json"), script=script, root=str(ROOT)))
    return str(path)


def read_results(dataset: Path, output: Path | None = None, system: str = "") -> dict[str, Any]:
    """Read metrics.json."""
    name = yaml.safe_load(dataset.read_text())["name"]
    folder = (output or dataset.parent / "output") / system / "inference" / name
    return json.loads((folder / "metrics.json").read_text())
