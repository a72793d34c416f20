"""Training and evaluation from the command line: the code of train_net.py, `cliptrase eval` and `cliptrase train`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cliptrase_d2.config import ARGUMENT_KEYS, load_config
from cliptrase_d2.d2 import (
    CfgNode,
    DatasetCatalog,
    comm,
    default_argument_parser,
    default_setup,
    describe,
    launch,
    setup_logger,
)
from cliptrase_d2.d2.config_merge import find_config_file
from cliptrase_d2.data.benchmarks import get_all_benchmarks
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.register import register_spec
from cliptrase_d2.evaluation.compositions import find_impossible
from cliptrase_d2.evaluation.evaluator import metric_names
from cliptrase_d2.evaluation.expected import NamedResults, name_results, read_expectations, verify
from cliptrase_d2.evaluation.run_page import write_run_page
from cliptrase_d2.evaluation.runs import evaluate_runs, plan_runs
from cliptrase_d2.evaluation.summary import Results, Run, get_common_folder, group_table, headline_table, size_table
from cliptrase_d2.san.checkpoints import find_last_checkpoint
from cliptrase_d2.san.trainer import NonFiniteLossError
from cliptrase_d2.san.training import train
from cliptrase_d2.segmenter.build import prepare_segmenter, resolve_device
from cliptrase_d2.utils.atomic_files import require_writable, wrap_os_errors
from cliptrase_d2.utils.errors import InputError, WriteError, name_arguments, suggest
from cliptrase_d2.utils.interruption import exit_on_interrupt

logger = logging.getLogger("cliptrase_d2")


def parse_arguments(epilog: str | None = None) -> argparse.Namespace:
    """Parse Detectron2's flags, --dataset and --train-dataset.

    Args:
        epilog: the end of the help text.
    """
    parser = default_argument_parser(epilog)
    parser.add_argument(
        "--train-dataset",
        action="append",
        default=[],
        metavar="DATA",
        help="training data set, a file D.yaml or a name; replaces DATASETS.TRAIN",
    )
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="DATA",
        help="data set, a file D.yaml or a name; replaces DATASETS.TEST",
    )
    return parser.parse_args()


def setup(args: argparse.Namespace) -> CfgNode:
    """Load the configuration, register data sets, and open the log and the output folder."""
    if args.config_file:
        args.config_file = find_config_file(args.config_file)  # Detectron2 opens it for its log
    cfg = load_config(args.config_file, args.opts)
    names = register_datasets([*args.train_dataset, *args.dataset])
    cfg.DATASETS.TRAIN = names[: len(args.train_dataset)] or cfg.DATASETS.TRAIN
    cfg.DATASETS.TEST = names[len(args.train_dataset) :] or cfg.DATASETS.TEST
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


def register_datasets(words: Sequence[str]) -> tuple[str, ...]:
    """Register the data sets of this package, and those of files.

    Args:
        words: files in YAML, keys of benchmarks, or registered names.
    Returns:
        The registered name of each word.
    Raises:
        InputError: a file cannot be used, or a name is unknown.
    """
    benchmarks = get_all_benchmarks()
    files = {word for word in words if word.endswith((".yaml", ".yml")) or os.path.isfile(word)}
    names = {word: register_spec(read_dataset_file(word)) for word in words if word in files}
    register_builtin()  # after the files, since a user's data set may have the name of a benchmark
    for word in words:
        names.setdefault(word, benchmarks[word].name if word in benchmarks else word)
        if names[word] not in DatasetCatalog.list():
            fix = suggest(word, [*benchmarks, *DatasetCatalog.list()], "Give a file D.yaml, or one of these names.")
            raise InputError(f"data set {word!r}", "neither a file nor a known name", fix, ", ".join(benchmarks))
    return tuple(names[word] for word in words)


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
    impossible = {name: str(reason) for name, reason in find_impossible(cfg).items()}
    logger.info("Results in percent:\n%s", headline_table(results, impossible))
    groups = group_table(results)
    if groups:
        logger.info("Groups of classes, in percent:\n%s", groups)
    if sizes := size_table(results):
        logger.info("Sizes of objects, in percent:\n%s", sizes)
    kinds = {"Reports": True, "predictions": cfg.TEST.SAVE_PREDICTIONS, "overlays": cfg.TEST.SAVE_OVERLAYS}
    written = ", ".join(kind for kind, is_written in kinds.items() if is_written)
    logger.info("%s: %s/", written, get_common_folder(cfg.OUTPUT_DIR, results))
    logger.info("Report of the run: %s", write_run_page(cfg, runs))


def run_job(arguments: argparse.Namespace) -> None:
    """Train or evaluate in the requested number of processes; exit with one line on an input error.

    Args:
        arguments: as `parse_arguments` returns them.
    """
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
