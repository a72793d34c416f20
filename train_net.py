"""Evaluate models, or train SAN.

python train_net.py --eval-only --config-file F [--dataset D.yaml …] [--resume] [KEY VALUE …]
python train_net.py --config-file configs/san/F [--train-dataset D.yaml …] [--resume] [KEY VALUE …]
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from cliptrase_d2.utils.atomic_files import require_writable, wrap_os_errors
from cliptrase_d2.utils.errors import InputError, WriteError, name_arguments
from cliptrase_d2.utils.interruption import INTERRUPTED, exit_on_interrupt

try:
    from cliptrase_d2.config import ARGUMENT_KEYS, load_config
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
    from cliptrase_d2.evaluation.expected import NamedResults, name_results, read_expectations, verify
    from cliptrase_d2.evaluation.run_page import write_run_page
    from cliptrase_d2.evaluation.runs import evaluate_runs, plan_runs
    from cliptrase_d2.evaluation.summary import Results, Run, get_common_folder, group_table, headline_table
    from cliptrase_d2.san.checkpoints import find_last_checkpoint
    from cliptrase_d2.san.trainer import NonFiniteLossError
    from cliptrase_d2.san.training import train
    from cliptrase_d2.segmenter.build import prepare_segmenter, resolve_device
except InputError as error:  # CLIPTRASE_D2 requests a Detectron2 that is missing or fails to import
    sys.exit(f"error: {error}")
except KeyboardInterrupt:  # the imports take seconds
    print("interrupted.", file=sys.stderr)
    sys.exit(INTERRUPTED)

logger = logging.getLogger("cliptrase_d2")


def parse_arguments() -> argparse.Namespace:
    """Parse Detectron2's flags, --dataset and --train-dataset."""
    parser = default_argument_parser(__doc__)
    parser.add_argument(
        "--train-dataset",
        action="append",
        default=[],
        metavar="D.yaml",
        help="file of your own training data set; replaces DATASETS.TRAIN",
    )
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="D.yaml",
        help="file of your own data set; replaces DATASETS.TEST",
    )
    return parser.parse_args()


def setup(args: argparse.Namespace) -> CfgNode:
    """Load the configuration, register data sets, and open the log and the output folder."""
    cfg = load_config(args.config_file, args.opts)
    if args.train_dataset:
        cfg.DATASETS.TRAIN = tuple(register_spec(read_dataset_file(path)) for path in args.train_dataset)
    if args.dataset:
        cfg.DATASETS.TEST = tuple(register_spec(read_dataset_file(path)) for path in args.dataset)
    register_builtin()  # last, since a user's data set may have the name of a benchmark
    without_gpu = resolve_device(cfg)
    last_checkpoint = find_last_checkpoint(cfg.OUTPUT_DIR) if args.eval_only and args.resume else ""
    cfg.MODEL.WEIGHTS = last_checkpoint or cfg.MODEL.WEIGHTS
    cfg.freeze()
    require_writable(Path(cfg.OUTPUT_DIR), "OUTPUT_DIR")
    with wrap_os_errors(Path(cfg.OUTPUT_DIR)):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="cliptrase_d2")
        logger.info(describe())
        if without_gpu:
            logger.info("No CUDA device was found: running on the CPU.")
        default_setup(cfg, args)
        if last_checkpoint:
            logger.info("Evaluating the last checkpoint of OUTPUT_DIR: %s", last_checkpoint)
    return cfg


def main(args: argparse.Namespace) -> NamedResults:
    """Run the evaluation or the training that the arguments select, and return its results."""
    cfg = setup(args)
    with wrap_os_errors(Path(cfg.OUTPUT_DIR)):  # other packages write there as well
        return train_and_evaluate(cfg, args)


def train_and_evaluate(cfg: CfgNode, args: argparse.Namespace) -> NamedResults:
    """Train unless only evaluating; evaluate every method on every data set and check the expected results.

    Returns:
        Percent by task and metric, as Detectron2's scripts return it; empty in every process but the first.
    """
    runs = plan_runs(cfg) if args.eval_only or cfg.DATASETS.TEST else {}
    expectations = read_expectations(cfg.TEST.EXPECTED_RESULTS, {run: metric_names(run.dataset) for run in runs})
    model = None
    if not args.eval_only:
        with name_arguments(ARGUMENT_KEYS):
            model = train(cfg, resume=args.resume)
    if not runs:
        return {}
    results = evaluate_runs(runs, prepare_segmenter, resume=args.resume and args.eval_only, model=model)
    if not comm.is_main_process():
        return {}
    report(cfg, runs, results)
    failed = verify(expectations, results)
    if failed:
        sys.exit(f"error: {len(failed)} of {len(expectations)} results differ from the expected ones (table above)")
    return name_results(results)


def report(cfg: CfgNode, runs: dict[Run, CfgNode], results: Results) -> None:
    """Log the tables, write the report page, and log the output paths."""
    logger.info("Results in percent:\n%s", headline_table(results))
    groups = group_table(results)
    if groups:
        logger.info("Groups of classes, in percent:\n%s", groups)
    kinds = {"Reports": True, "predictions": cfg.TEST.SAVE_PREDICTIONS, "overlays": cfg.TEST.SAVE_OVERLAYS}
    written = ", ".join(kind for kind, is_written in kinds.items() if is_written)
    logger.info("%s: %s/", written, get_common_folder(cfg.OUTPUT_DIR, results))
    logger.info("Report of the run: %s", write_run_page(cfg, runs))


def run() -> None:
    """Run the command line in the requested number of processes; exit with one line on an input error."""
    arguments = parse_arguments()
    resume_point = "the finished images" if arguments.eval_only else "the last checkpoint"
    hint = f"The same command with --resume continues from {resume_point}."
    try:
        with exit_on_interrupt(hint):
            launch(
                main,
                arguments.num_gpus,
                num_machines=arguments.num_machines,
                machine_rank=arguments.machine_rank,
                dist_url=arguments.dist_url,
                args=(arguments,),
            )
    except WriteError as error:
        sys.exit(f"error: {error} {hint}")
    except (InputError, NonFiniteLossError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run()
