from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from cliptrase_d2.d2.fallback.config import CfgNode, get_cfg
from cliptrase_d2.d2.fallback.logger import setup_logger
from cliptrase_d2.d2.fallback.setup import create_ddp_model, default_argument_parser, default_setup


@pytest.fixture(autouse=True)
def _clean_loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cliptrase_d2", "fvcore", "a_logger"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)


def test_flags_and_options_of_a_training_script() -> None:
    words = ["--config-file", "a.yaml", "--eval-only", "--num-gpus", "2", "SEED", "3", "MODEL.WEIGHTS", "a.pth"]
    args = default_argument_parser().parse_args(words)
    assert (args.config_file, args.eval_only, args.resume, args.num_gpus) == ("a.yaml", True, False, 2)
    assert (args.num_machines, args.machine_rank) == (1, 0)
    assert args.opts == ["SEED", "3", "MODEL.WEIGHTS", "a.pth"]
    assert args.dist_url.startswith("tcp://127.0.0.1:")


def test_no_arguments_are_enough() -> None:
    args = default_argument_parser().parse_args([])
    assert (args.config_file, args.opts, args.num_gpus) == ("", [], 1)


def test_setup_saves_the_config_and_logs_to_the_output_folder(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST = str(tmp_path / "out"), ("a",)
    default_setup(cfg, default_argument_parser().parse_args([]))
    with (tmp_path / "out" / "config.yaml").open() as file:
        saved = CfgNode.load_cfg(file)
    assert saved.DATASETS.TEST == ("a",) or saved.DATASETS.TEST == ["a"]
    assert "The full config is in" in (tmp_path / "out" / "log.txt").read_text()


def test_the_seed_fixes_all_random_numbers(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path), 5
    drawn = []
    for _ in range(2):
        default_setup(cfg, default_argument_parser().parse_args([]))
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert drawn[0] == drawn[1]


def test_a_logger_set_up_twice_writes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        logger = setup_logger(str(tmp_path), name="a_logger")
    logger.info("hello")
    assert (tmp_path / "log.txt").read_text().count("hello") == 1
    assert capsys.readouterr().out.count("hello") == 1


def test_other_processes_write_to_their_own_file_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logger(str(tmp_path / "log.txt"), distributed_rank=2, name="a_logger").info("hello")
    assert "hello" in (tmp_path / "log.txt.rank2").read_text()
    assert not capsys.readouterr().out


def test_one_process_needs_no_data_parallel_model() -> None:
    model = torch.nn.Linear(1, 1)
    assert create_ddp_model(model) is model


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_log_file_on_a_full_disk_is_complained_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    logger = setup_logger(str(tmp_path), name="a_logger")
    for _ in range(3):
        logger.info("hello")
    said = capsys.readouterr()
    assert said.out.count("hello") == 3
    assert said.err.count("log.txt: cannot be written (No space left on device)") == len(said.err.splitlines()) == 1
    with pytest.raises(OSError, match="No space"):
        logger.handlers[-1].close()
