"""Evaluate all available benchmarks and compare the results with the paper's.

    python tools/evaluate_benchmarks.py --protocol center_crop --size 224
    python tools/evaluate_benchmarks.py --protocol whole --benchmarks voc21 ade150 --opts TEST.BATCH_SIZE 8

--size 224 gives Table 3 of the paper and --size 336 gives Table 4. The paper has no numbers for other protocols. Each
benchmark is a run of train_net.py, which resumes after an interruption. A missing benchmark is marked with the command
that prepares it. OUTPUT/comparison.md and OUTPUT/comparison.csv are updated after every benchmark.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.benchmarks import BENCHMARKS, Benchmark, find_benchmark, get_benchmark_root
from cliptrase_d2.data.inspection import get_benchmark_state
from cliptrase_d2.evaluation.evaluator import get_results_folder
from cliptrase_d2.evaluation.published import (
    PUBLISHED_PROTOCOL,
    published_benchmarks,
    published_numbers,
    published_source,
)
from cliptrase_d2.methods.catalog import METHODS
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import exit_on_interrupt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts are not part of the installed package

from tools.benchmark_comparison import EVALUATED, Entry, add_averages, csv_table, markdown_table

ROOT = Path(__file__).resolve().parents[1]
KEYS = [key for key in BENCHMARKS if not key.endswith("_paper")]
PUBLISHED_METHODS = ("clip", "sclip", "cliptrase")
SIZES = (224, 336)


class Plan(NamedTuple):
    """The evaluation of one benchmark.

    Attributes:
        benchmark: selected by the configuration: the usual one or that of the published script.
        config: file, relative to the repository.
        options: KEY VALUE pairs for the command line.
        cfg: the resulting configuration.
    """

    benchmark: Benchmark
    config: str
    options: list[str]
    cfg: CfgNode


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=("center_crop", "whole", "slide"), default="center_crop")
    parser.add_argument("--size", type=int, help="short side in pixels: 224 (default) or 336 for center_crop")
    parser.add_argument("--benchmarks", nargs="+", choices=KEYS, default=KEYS, metavar="KEY", help=", ".join(KEYS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=PUBLISHED_METHODS, metavar="METHOD")
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"), help="default: output/benchmarks")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes per evaluation (default 1)")
    parser.add_argument("--incomplete", action="store_true", help="evaluate incomplete benchmarks too")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="last: KEY VALUE pairs of the config")
    args = parser.parse_args(words)
    if args.protocol == PUBLISHED_PROTOCOL and args.size not in (None, *SIZES):
        parser.error(f"--size {args.size}: center_crop has configurations for {' and '.join(map(str, SIZES))}")
    return args


def plan_evaluation(args: argparse.Namespace, key: str) -> Plan:
    """Return the plan for one benchmark.

    Raises:
        InputError: invalid options.
    """
    is_crop = args.protocol == PUBLISHED_PROTOCOL
    variant = str(args.size or SIZES[0]) if is_crop else args.protocol
    config = f"configs/cliptrase/{key}_{variant}.yaml"
    size = ["INPUT.MIN_SIZE_TEST", str(args.size)] if args.size and not is_crop else []
    options = [*size, *args.opts, "TEST.METHODS", str(list(args.methods))]
    # This script compares the results itself. A difference is not a failure.
    options += ["TEST.EXPECTED_RESULTS", "[]", "OUTPUT_DIR", str(args.output / f"{key}_{variant}")]
    cfg = load_config(ROOT / config, options)
    benchmark = find_benchmark(cfg.DATASETS.TEST[0])
    assert benchmark is not None, "the configurations name benchmarks only"
    return Plan(benchmark, config, options, cfg)


def evaluate(args: argparse.Namespace, plan: Plan) -> str:
    """Evaluate one benchmark if it is available. Return the status of its entries."""
    state = get_benchmark_state(plan.benchmark, get_benchmark_root())
    if not state.pairs:
        return f"missing: {state.command}"
    if not (state.is_complete or args.incomplete):
        return f"incomplete, {state.pairs:,} of {state.expected:,}: {state.command}"
    flags = ["--num-gpus", str(args.num_gpus), "--dist-url", "auto"] if args.num_gpus > 1 else []
    words = ["--eval-only", "--resume", *flags, "--config-file", str(ROOT / plan.config), *plan.options]
    code = subprocess.run([sys.executable, str(ROOT / "train_net.py"), *words], check=False).returncode
    if code:
        return f"failed with exit code {code}"
    return EVALUATED if state.is_complete else f"{EVALUATED} on {state.pairs:,} of {state.expected:,} images"


def read_entries(args: argparse.Namespace, plan: Plan, status: str) -> Iterator[Entry]:
    """Yield an entry for each method."""
    benchmark, cfg = plan.benchmark, plan.cfg
    published = published_numbers(benchmark.key, cfg.TEST.PROTOCOL, cfg.INPUT.MIN_SIZE_TEST)
    for method in args.methods:
        results: dict[str, float | None] = {}
        if status.startswith(EVALUATED):
            file = get_results_folder(Path(cfg.OUTPUT_DIR) / method, benchmark.name) / "metrics.json"
            results = json.loads(file.read_text(encoding="utf-8"))["paper"]
        yield Entry(benchmark.title, benchmark.name, method, status, results, published.get(method, {}))


def format_page(cfg: CfgNode, entries: Sequence[Entry]) -> str:
    """Format comparison.md."""
    clip = cfg.MODEL.CLIP
    weights = f"the weights {clip.PRETRAINED}" if clip.PRETRAINED else f"RANDOM weights (seed {clip.SEED})"
    note = "In percent. The paper has no numbers for this protocol and size."
    if any(entry.published for entry in entries):
        note = f"Cells: our result / the paper's / difference, in percent. Source of the paper's: {published_source()}."
    return (
        f"# {clip.NAME} with {weights}: {cfg.TEST.PROTOCOL}, short side {cfg.INPUT.MIN_SIZE_TEST}\n\n{note} "
        "As in the published script, mAcc is the mean over all classes and mIoU over the classes that occur.\n\n"
        f"{markdown_table(entries)}\n"
    )


def main() -> None:
    """Evaluate the benchmarks in order. Exit with an error if one failed."""
    args = parse_arguments()
    try:
        plans = [plan_evaluation(args, key) for key in args.benchmarks]
    except InputError as error:
        sys.exit(f"error: {error}")
    entries: list[Entry] = []
    text = ""
    for plan in plans:
        entries += read_entries(args, plan, evaluate(args, plan))
        rows = add_averages(entries, len(published_benchmarks()))
        text = format_page(plan.cfg, rows)
        atomic_write_text(args.output / "comparison.md", text)
        atomic_write_text(args.output / "comparison.csv", csv_table(rows))
    print(text)
    print(f"Wrote {args.output / 'comparison.md'} and comparison.csv")
    failed = dict.fromkeys(entry.benchmark for entry in entries if entry.status.startswith("failed"))
    if failed:
        sys.exit(f"error: {', '.join(failed)} failed, see above. Repeat the command to try again.")


if __name__ == "__main__":
    with exit_on_interrupt("Repeat the command to continue."):
        main()
