"""Evaluate zero-shot: python train_net.py --eval-only --config-file F [--dataset D.yaml …] [KEY VALUE …]."""

from __future__ import annotations

import argparse
import logging
import sys

from tabulate import tabulate

from cliptrase_d2.errors import InputError

try:
    from cliptrase_d2.config import load_config
    from cliptrase_d2.d2 import (
        CfgNode,
        comm,
        default_argument_parser,
        default_setup,
        describe,
        launch,
        setup_logger,
    )
    from cliptrase_d2.data.custom import read_dataset_file
    from cliptrase_d2.data.register import register_spec
    from cliptrase_d2.engine.build import build_segmenter
    from cliptrase_d2.engine.device import resolve_device
    from cliptrase_d2.engine.evaluation import evaluate_dataset, finished_evaluation, require_datasets
    from cliptrase_d2.evaluation.metrics import HEADLINE
except InputError as error:  # a Detectron2 that was asked for and is not there, or fails
    sys.exit(f"error: {error}")

logger = logging.getLogger("cliptrase_d2")


def parse_arguments() -> argparse.Namespace:
    """Detectron2's flags and --dataset."""
    parser = default_argument_parser(__doc__)
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="D.yaml", help="an own data set, in place of DATASETS.TEST"
    )
    return parser.parse_args()


def setup(args: argparse.Namespace) -> CfgNode:
    """Configuration, data sets, log and output folder."""
    cfg = load_config(args.config_file, args.opts)
    if args.dataset:
        cfg.DATASETS.TEST = tuple(register_spec(read_dataset_file(path)) for path in args.dataset)
    without_gpu = resolve_device(cfg)
    cfg.freeze()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="cliptrase_d2")
    logger.info(describe())
    if without_gpu:
        logger.info("No CUDA device was found: running on the CPU.")
    default_setup(cfg, args)
    return cfg


def main(args: argparse.Namespace) -> None:
    """Evaluate the configured model on every data set and print one table."""
    cfg = setup(args)
    if not args.eval_only:
        raise InputError(
            "train_net.py",
            f"training {cfg.MODEL.META_ARCHITECTURE}, which has nothing to train",
            "--eval-only",
            "Add --eval-only.",
        )
    require_datasets(cfg.DATASETS.TEST)
    found = {name: finished_evaluation(cfg, name) for name in cfg.DATASETS.TEST if args.resume}
    results = {name: result for name, result in found.items() if result}
    for name in results:
        logger.info("%s: kept from an earlier run with this configuration", name)
    missing = [name for name in cfg.DATASETS.TEST if name not in results]
    if missing:
        model = build_segmenter(cfg)
        results |= {name: evaluate_dataset(cfg, model, name) for name in missing}
    if comm.is_main_process():
        table = [[name, *(f"{results[name]['sem_seg'][key]:.2f}" for key in HEADLINE)] for name in cfg.DATASETS.TEST]
        logger.info("Results in percent:\n%s", tabulate(table, headers=["data set", *HEADLINE], disable_numparse=True))
        logger.info("Everything about them is in %s/inference/", cfg.OUTPUT_DIR)


def run() -> None:
    """The command line: as many processes as it asks for, and one clean line where its input is at fault."""
    arguments = parse_arguments()
    try:
        launch(
            main,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run()
