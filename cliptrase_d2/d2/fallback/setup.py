"""Command line, log and first steps of a job, as in `detectron2.engine.defaults` and `detectron2.utils.logger`."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import sys
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cliptrase_d2.d2.fallback import comm
from cliptrase_d2.utils.errors import WriteError

_PLAIN = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
_GREEN = "\033[32m[%(asctime)s %(name)s]:\033[0m %(message)s"


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Set up and begin the log, save the config as OUTPUT_DIR/config.yaml, and seed the random number generators."""
    rank = comm.get_rank()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    logger.info("Python %s, PyTorch %s, %s", platform.python_version(), torch.__version__, gpu)
    logger.info("Command line arguments: %s", args)
    if comm.is_main_process():
        path = Path(cfg.OUTPUT_DIR, "config.yaml")
        path.write_text(cfg.dump(), encoding="utf-8")
        logger.info("Full config saved to %s", path)
    if cfg.SEED >= 0:  # each process draws its own numbers, the same in each run
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(cfg.SEED + rank)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only
    if cfg.FLOAT32_PRECISION and torch.cuda.is_available():
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"


def setup_logger(output: str | None = None, distributed_rank: int = 0, *, name: str = "cliptrase_d2") -> logging.Logger:
    """Log to the standard output (main process) and to a file (each process); a repeated call changes nothing.

    Args:
        output: a .txt or .log file, or the folder of `log.txt`; ranks other than 0 append ".rank<n>".
        name: of the root logger; Detectron2's default is "detectron2".
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    handlers = {handler.get_name() for handler in logger.handlers}
    if distributed_rank == 0 and "stdout" not in handlers:
        line_format = _GREEN if sys.stdout.isatty() else _PLAIN  # no colour codes in redirected output
        _add_handler(logger, "stdout", logging.StreamHandler(sys.stdout), line_format)
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        path = os.path.abspath(path + (f".rank{distributed_rank}" if distributed_rank > 0 else ""))
        if path not in handlers:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _add_handler(logger, path, _LogFile(path, encoding="utf-8"), _PLAIN)
    return logger


class _LogFile(logging.FileHandler):
    """Warns once that the disk is full; logging itself would print a traceback for every line."""

    _is_full = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's own name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._is_full:
            self._is_full = True
            print(f"warning: {WriteError.of(self.baseFilename, error)}", file=sys.stderr)


def _add_handler(logger: logging.Logger, name: str, handler: logging.Handler, line_format: str) -> None:
    handler.set_name(name)
    handler.setFormatter(logging.Formatter(line_format, datefmt="%m/%d %H:%M:%S"))
    logger.addHandler(handler)


def create_ddp_model(model: nn.Module, **kwargs: object) -> nn.Module:
    """Wrap the model for data parallelism if there are several processes."""
    if comm.get_world_size() == 1:
        return model
    if torch.cuda.is_available():
        kwargs.setdefault("device_ids", [comm.get_local_rank()])
    return DistributedDataParallel(model, **kwargs)  # type: ignore[arg-type]
