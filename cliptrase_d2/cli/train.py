"""Train a SAN, and evaluate it at the end if there is a data set for it.

    cliptrase train --config-file san/san_vit_b16_warm
    cliptrase train --config-file san/san_vit_b16 --train-dataset train.yaml --dataset val.yaml --num-gpus 8
    cliptrase train --config-file san/san_vit_b16 --resume

--config-file takes a file, or the name of a configuration of this package. train_net.py is the same code.
"""

from __future__ import annotations

import argparse

from cliptrase_d2.cli.evaluate import add_job_arguments
from cliptrase_d2.cli.model_arguments import add_device_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase train``."""
    parser.add_argument("--config-file", required=True, metavar="FILE|NAME", help="SAN, such as san/san_vit_b16")
    add_job_arguments(parser, "continue from the last checkpoint in the output folder")
    for flag, key in (("--train-dataset", "DATASETS.TRAIN"), ("--dataset", "DATASETS.TEST")):
        help_data = f"file in YAML, or name; replaces {key}; may be repeated"
        parser.add_argument(flag, action="append", metavar="DATA", help=help_data)
    add_device_argument(parser)
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="configuration overrides")


def run(arguments: argparse.Namespace) -> int:
    """Train, evaluate and return 0."""
    from cliptrase_d2.cli.job import run_job

    given = {"OUTPUT_DIR": arguments.output, "MODEL.DEVICE": arguments.device}
    arguments.opts = [*(word for pair in given.items() if pair[1] for word in pair), *arguments.opts]
    arguments.eval_only = False
    run_job(arguments)
    return 0
