from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cliptrase_d2.d2.arguments import default_argument_parser
from cliptrase_d2.d2.fallback.config import CfgNode, get_cfg
from cliptrase_d2.d2.fallback.setup import default_setup, setup_logger


@pytest.fixture(autouse=True)
def _restore_loggers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("cliptrase_d2", "fvcore", "a_logger")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "propagate", True)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_setup_saves_the_config_and_logs_to_the_output_folder(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST = str(tmp_path / "out"), ("a",)
    default_setup(cfg, default_argument_parser().parse_args([]))
    with (tmp_path / "out" / "config.yaml").open() as file:
        saved = CfgNode.load_cfg(file)
    assert tuple(saved.DATASETS.TEST) == ("a",)
    assert "config.yaml" in (tmp_path / "out" / "log.txt").read_text()


def test_the_seed_fixes_all_random_numbers(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path), 5
    drawn = []
    for _ in range(2):
        default_setup(cfg, default_argument_parser().parse_args([]))
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert drawn[0] == drawn[1]


def test_a_logger_that_is_set_up_twice_writes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        logger = setup_logger(str(tmp_path), name="a_logger")
    logger.info("hello")
    assert (tmp_path / "log.txt").read_text().count("hello") == 1
    assert capsys.readouterr().out.count("hello") == 1


def test_other_ranks_write_only_to_their_own_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logger(str(tmp_path / "log.txt"), distributed_rank=2, name="a_logger").info("hello")
    assert "hello" in (tmp_path / "log.txt.rank2").read_text()
    assert not capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_file_on_a_full_disk_causes_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    logger = setup_logger(str(tmp_path), name="a_logger")
    for _ in range(3):
        logger.info("hello")
    output = capsys.readouterr()
    assert output.out.count("hello") == 3
    assert output.err.count("log.txt") == output.err.count("No space left") == len(output.err.splitlines()) == 1
    with pytest.raises(OSError, match="No space"):
        logger.handlers[-1].close()
