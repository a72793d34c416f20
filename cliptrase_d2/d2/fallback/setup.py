"""Serves `detectron2.engine.defaults`: command line, first steps of a job, data parallel model."""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cliptrase_d2.d2.fallback import comm
from cliptrase_d2.d2.fallback.logger import setup_logger


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser of the arguments that all training scripts share."""
    parser = argparse.ArgumentParser(epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to config file")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    parser.add_argument("--eval-only", action="store_true", help="perform evaluation only")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of GPUs (or CPU processes) per machine")
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="the number of this machine, from 0")
    user = os.getuid() if sys.platform != "win32" else 1
    port = 2**15 + 2**14 + user % 2**14  # fixed per user, so that processes left behind show by the taken port
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the processes meet")
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=None, help="KEY VALUE pairs that change the config")
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Set up the log, log what runs, save the config as OUTPUT_DIR/config.yaml, and seed the random numbers."""
    rank = comm.get_rank()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    logger.info("Python %s, PyTorch %s, %s", platform.python_version(), torch.__version__, gpu)
    logger.info("Command line arguments: %s", args)
    if comm.is_main_process():
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(cfg.dump())
        logger.info("The full config is in %s", path)
    if cfg.SEED >= 0:
        seed_all_rng(cfg.SEED + rank)  # each process its own numbers, the same in each run
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION and torch.cuda.is_available():
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"


def seed_all_rng(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's random numbers."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def create_ddp_model(model: nn.Module, **kwargs: object) -> nn.Module:
    """The model, data parallel if there are several processes."""
    if comm.get_world_size() == 1:
        return model
    if torch.cuda.is_available():
        kwargs.setdefault("device_ids", [comm.get_local_rank()])
    return DistributedDataParallel(model, **kwargs)  # type: ignore[arg-type]
