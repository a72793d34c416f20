"""Evaluate, or train SAN:

python train_net.py --eval-only --config-file F [--dataset D.yaml …] [--resume] [KEY VALUE …]
python train_net.py --config-file configs/san/F [--train-dataset D.yaml …] [--resume] [KEY VALUE …]
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from cliptrase_d2.utils.atomic_files import require_writable, wrap_os_errors
from cliptrase_d2.utils.errors import InputError, WriteError
from cliptrase_d2.utils.interruption import INTERRUPTED, clean_end

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
    from cliptrase_d2.data.builtin import register_builtin
    from cliptrase_d2.data.custom import read_dataset_file
    from cliptrase_d2.data.register import register_spec
    from cliptrase_d2.evaluation.evaluator import metric_names
    from cliptrase_d2.evaluation.expected import read_expectations, verify
    from cliptrase_d2.evaluation.run_page import write_run_page
    from cliptrase_d2.evaluation.runs import evaluate_runs, planned_runs
    from cliptrase_d2.evaluation.summary import Results, Run, group_table, headline_table, place_of_results
    from cliptrase_d2.san.trainer import NonFiniteLossError
    from cliptrase_d2.san.training import train
    from cliptrase_d2.segmenter.device import resolve_device
except InputError as error:  # a Detectron2 that was asked for and is not there, or fails
    sys.exit(f"error: {error}")
except KeyboardInterrupt:  # the imports take seconds
    print("interrupted.", file=sys.stderr)
    sys.exit(INTERRUPTED)

logger = logging.getLogger("cliptrase_d2")


def parse_arguments() -> argparse.Namespace:
    """Detectron2's flags, --dataset and --train-dataset."""
    parser = default_argument_parser(__doc__)
    parser.add_argument(
        "--train-dataset",
        action="append",
        default=[],
        metavar="D.yaml",
        help="an own data set to train on, in place of DATASETS.TRAIN",
    )
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="D.yaml", help="an own data set, in place of DATASETS.TEST"
    )
    return parser.parse_args()


def setup(args: argparse.Namespace) -> CfgNode:
    """Configuration, data sets, log and output folder."""
    cfg = load_config(args.config_file, args.opts)
    if args.train_dataset:
        cfg.DATASETS.TRAIN = tuple(register_spec(read_dataset_file(path)) for path in args.train_dataset)
    if args.dataset:
        cfg.DATASETS.TEST = tuple(register_spec(read_dataset_file(path)) for path in args.dataset)
    register_builtin()  # after the user's own, which may have their names
    without_gpu = resolve_device(cfg)
    cfg.freeze()
    require_writable(Path(cfg.OUTPUT_DIR), "OUTPUT_DIR")
    with wrap_os_errors(Path(cfg.OUTPUT_DIR)):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="cliptrase_d2")
        logger.info(describe())
        if without_gpu:
            logger.info("No CUDA device was found: running on the CPU.")
        default_setup(cfg, args)
    return cfg


def main(args: argparse.Namespace) -> None:
    """Set up, and do what is asked for."""
    cfg = setup(args)
    with wrap_os_errors(Path(cfg.OUTPUT_DIR)):  # of what other packages write there
        work(cfg, args)


def work(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Train if asked to; evaluate every system on every data set, print one table, check it against expectations."""
    model = None
    if not args.eval_only:
        model = train(cfg, resume=args.resume)
        if not cfg.DATASETS.TEST:
            return
    runs = planned_runs(cfg)
    expectations = read_expectations(cfg.TEST.EXPECTED_RESULTS, {run: metric_names(run.dataset) for run in runs})
    results = evaluate_runs(runs, resume=args.resume and args.eval_only, model=model)
    if not comm.is_main_process():
        return
    report(cfg, runs, results)
    failed = verify(expectations, results)
    if failed:
        sys.exit(f"error: {len(failed)} of {len(expectations)} results are not as expected (see the table above)")


def report(cfg: CfgNode, runs: dict[Run, CfgNode], results: Results) -> None:
    """Log the tables, write the page of the run, and say where everything about them lies."""
    logger.info("Results in percent:\n%s", headline_table(results))
    groups = group_table(results)
    if groups:
        logger.info("Groups of classes, in percent:\n%s", groups)
    kinds = {"Reports": True, "predictions": cfg.TEST.SAVE_PREDICTIONS, "overlays": cfg.TEST.SAVE_OVERLAYS}
    written = ", ".join(kind for kind, is_written in kinds.items() if is_written)
    logger.info("%s: %s/", written, place_of_results(cfg.OUTPUT_DIR, results))
    logger.info("All of it on one page: %s", write_run_page(cfg, runs))


def run() -> None:
    """The command line: as many processes as it asks for, and one clean line where its input is at fault."""
    arguments = parse_arguments()
    from_where = "what is done" if arguments.eval_only else "the last checkpoint"
    way_on = f"The same command with --resume goes on from {from_where}."
    try:
        with clean_end(way_on):
            launch(
                main,
                arguments.num_gpus,
                num_machines=arguments.num_machines,
                machine_rank=arguments.machine_rank,
                dist_url=arguments.dist_url,
                args=(arguments,),
            )
    except WriteError as error:
        sys.exit(f"error: {error} {way_on}")
    except (InputError, NonFiniteLossError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run()
