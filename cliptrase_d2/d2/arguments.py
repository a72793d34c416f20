"""Detectron2's command line flags. Its own parser advertises LazyConfig, which this project does not read."""

from __future__ import annotations

import argparse
import os
import sys


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Build a parser with the flags of Detectron2's training scripts."""
    parser = argparse.ArgumentParser(epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to config file")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    parser.add_argument("--eval-only", action="store_true", help="perform evaluation only")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of GPUs (or CPU processes) per machine")
    parser.add_argument("--num-machines", type=int, default=1, help="total number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="the number of this machine, from 0")
    user = os.getuid() if sys.platform != "win32" else 1
    port = 2**15 + 2**14 + user % 2**14  # fixed per user: an occupied port reveals processes left behind
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the processes meet")
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=None, help="KEY VALUE pairs that change the config")
    return parser
