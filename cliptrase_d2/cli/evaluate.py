"""Evaluate models and methods on data sets with labels.

    cliptrase eval my_set.yaml --model ViT-B-16 --method clip maskclip sclip cliptrase
    cliptrase eval voc20 --method sclip
    cliptrase eval voc20 --method {maskclip,naclip}{,+clusters,+sam}{,+pamr}@{whole,slide}
    cliptrase eval --config-file cliptrase/voc20_224
    cliptrase eval emoji_scenes

A method may have further parts, METHOD[+MASKS][+RULE][+REFINEMENT][@PROTOCOL]; the shell expands braces to a grid.
`cliptrase methods sclip+sam` describes such a composition or says why it is impossible.

A data set is a file in YAML, or the name of a benchmark that `cliptrase doctor` lists. Without --config-file, images
are evaluated whole with the settings of cliptrase/vit_b16_whole; emoji_scenes alone has a configuration of its own, in
windows. --config-file takes a file, or the name of a configuration of this package. Its expected results
(TEST.EXPECTED_RESULTS) are checked unless --model, --pretrained, --method or --protocol changes it. train_net.py
--eval-only is the same code.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cliptrase_d2.cli.model_arguments import add_model_arguments, get_options

DEFAULT_CONFIG = "cliptrase/vit_b16_whole"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase eval``."""
    parser.add_argument("data", nargs="*", metavar="DATA", help="files in YAML or names (default: DATASETS.TEST)")
    add_model_arguments(parser, protocols=("whole", "slide", "tiles", "center_crop", "published"))
    help_methods = "methods to compare in one table: clip, sclip, cliptrase, sclip+clusters, naclip+sam+pamr@slide, ..."
    parser.add_argument("--method", nargs="+", dest="methods", default=[], metavar="NAME", help=help_methods)
    help_skip = "evaluate the other methods if parts of some cannot be combined, and list the reasons"
    parser.add_argument("--skip-impossible", action="store_true", help=help_skip)
    add_job_arguments(parser, "keep the finished images of an interrupted run")


def add_job_arguments(parser: argparse.ArgumentParser, help_resume: str) -> None:
    """Add the arguments that evaluations and trainings share.

    Args:
        parser: of the command.
        help_resume: help text of --resume.
    """
    parser.add_argument("--output", metavar="FOLDER", help="folder of all results (default: the configured OUTPUT_DIR)")
    parser.add_argument("--resume", action="store_true", help=help_resume)
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="GPUs, or processes on CPUs (default 1)")
    parser.set_defaults(num_machines=1, machine_rank=0, dist_url="auto", dataset=[], train_dataset=[])


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the tables, write the report and return 0."""
    from cliptrase_d2.cli.job import run_job
    from cliptrase_d2.utils.errors import InputError

    if not arguments.data and not arguments.config_file:
        fix = "Name a file in YAML, a benchmark such as voc20, or emoji_scenes."
        raise InputError("DATA", "no data set", fix)
    is_changed = any((arguments.model, arguments.pretrained, arguments.methods, arguments.protocol))
    config = arguments.config_file or choose_config(arguments.data, arguments.model)
    arguments.config_file = config
    options = ["TEST.METHODS", str(arguments.methods)] if arguments.methods else []
    options += ["TEST.SKIP_IMPOSSIBLE", "True"] if arguments.skip_impossible else []
    options += ["TEST.EXPECTED_RESULTS", "[]"] if is_changed else []
    options += ["OUTPUT_DIR", arguments.output] if arguments.output else []
    arguments.opts = [*options, *get_options(arguments)]
    arguments.dataset, arguments.eval_only = arguments.data, True
    run_job(arguments)
    return 0


def choose_config(data: Sequence[str], model: str | None) -> str:
    """Return the name of the configuration for data sets: that of a single one's name, if any, else the common one.

    Args:
        data: files and names of data sets.
        model: value of --model; settings for a data set's own model do not fit another one.
    """
    from cliptrase_d2.d2.config_merge import get_config_names

    has_own = len(data) == 1 and not model and data[0] in get_config_names()
    return data[0] if has_own else DEFAULT_CONFIG
