"""Evaluate all available benchmarks and compare the results with published ones.

    python tools/evaluate_benchmarks.py --protocol center_crop --size 224
    python tools/evaluate_benchmarks.py --protocol whole --benchmarks voc21 ade150 --opts TEST.BATCH_SIZE 8
    python tools/evaluate_benchmarks.py --methods all
    python tools/evaluate_benchmarks.py --protocol published --methods sclip sfp --benchmarks voc21

The first two evaluate methods in one protocol: --size 224 gives Table 3 of the paper, and --size 336 gives Table 4. The
paper has no numbers for other protocols. The last two evaluate each method with the settings of its own published
numbers, configs/methods/METHOD/BENCHMARK.yaml, and for CLIPtrase those of Table 4.

Each evaluation is a run of train_net.py, which resumes after an interruption. A missing benchmark is marked with the
command that prepares it. OUTPUT/comparison.md and OUTPUT/comparison.csv are updated after every run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

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
from cliptrase_d2.methods.published import BENCHMARKS as BENCHMARKS_OF_METHODS
from cliptrase_d2.methods.published import read_published_methods
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import exit_on_interrupt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts are not part of the installed package

from tools.benchmark_comparison import (
    EVALUATED,
    MEAN_IOU,
    Entry,
    add_averages,
    csv_table,
    markdown_matrix,
    markdown_table,
)

ROOT = Path(__file__).resolve().parents[1]
KEYS = [key for key in BENCHMARKS if not key.endswith("_paper")]
PUBLISHED_METHODS = ("clip", "sclip", "cliptrase")
SIZES = (224, 336)
OWN_SETTINGS = "published"  # the protocol in which each method has its published settings


class Plan(NamedTuple):
    """The evaluation of one benchmark.

    Attributes:
        benchmark: selected by the configuration: the usual one, or one with the labels or words of published code.
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
    protocols = f"default: {PUBLISHED_PROTOCOL}, and {OWN_SETTINGS} with --methods all"
    parser.add_argument("--protocol", choices=(PUBLISHED_PROTOCOL, "whole", "slide", OWN_SETTINGS), help=protocols)
    parser.add_argument("--size", type=int, help="short side in pixels: 224 (default) or 336 for center_crop")
    parser.add_argument("--benchmarks", nargs="+", choices=KEYS, metavar="KEY", help=", ".join(KEYS))
    default = " ".join(PUBLISHED_METHODS)
    methods = f"default: {default}; with --protocol {OWN_SETTINGS}, all that have published numbers"
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help=methods)
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"), help="default: output/benchmarks")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes per evaluation (default 1)")
    parser.add_argument("--incomplete", action="store_true", help="evaluate incomplete benchmarks too")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="last: KEY VALUE pairs of the config")
    args = parser.parse_args(words)
    args.protocol = args.protocol or (OWN_SETTINGS if args.methods == ["all"] else PUBLISHED_PROTOCOL)
    is_published = args.protocol == OWN_SETTINGS
    if is_published and args.size is not None:
        parser.error(f"--size {args.size}: the published settings have sizes of their own")
    if args.protocol == PUBLISHED_PROTOCOL and args.size not in (None, *SIZES):
        parser.error(f"--size {args.size}: center_crop has configurations for {' and '.join(map(str, SIZES))}")
    known = list(read_published_methods() if is_published else METHODS)
    if args.methods is None or (is_published and args.methods == ["all"]):
        args.methods = known if is_published else PUBLISHED_METHODS
    if unknown := [method for method in args.methods if method not in known]:
        parser.error(f"--methods {unknown[0]}: with --protocol {args.protocol} there are {', '.join(known)}")
    args.benchmarks = args.benchmarks or (BENCHMARKS_OF_METHODS if is_published else KEYS)
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
    return _make_plan(config, options)


def plan_published(args: argparse.Namespace, method: str, key: str) -> Plan | None:
    """Return the plan for one method and benchmark with the published settings; None if there is no configuration.

    Raises:
        InputError: invalid options.
    """
    config = (
        f"configs/cliptrase/{key}_{SIZES[1]}.yaml" if method == "cliptrase" else f"configs/methods/{method}/{key}.yaml"
    )
    if not (ROOT / config).is_file():
        return None
    options = [*args.opts, "TEST.EXPECTED_RESULTS", "[]", "OUTPUT_DIR", str(args.output / f"{method}_{key}")]
    return _make_plan(config, options)


def _make_plan(config: str, options: list[str]) -> Plan:
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
    note = "In percent. The paper has no numbers for this protocol and size."
    if any(entry.published for entry in entries):
        note = f"Cells: our result / the paper's / difference, in percent. Source of the paper's: {published_source()}."
    return (
        f"# {_describe_weights(cfg.MODEL.CLIP)}: {cfg.TEST.PROTOCOL}, short side {cfg.INPUT.MIN_SIZE_TEST}\n\n{note} "
        "As in the published script, mAcc is the mean over all classes and mIoU over the classes that occur.\n\n"
        f"{markdown_table(entries)}\n"
    )


def read_published_entry(method: str, key: str, plan: Plan | None, status: str) -> Entry:
    """Return the entry of one method and benchmark with the published settings: its mIoU."""
    benchmark, results = BENCHMARKS[key], {}
    if plan and status.startswith(EVALUATED):
        file = get_results_folder(Path(plan.cfg.OUTPUT_DIR), plan.benchmark.name) / "metrics.json"
        results = {MEAN_IOU: json.loads(file.read_text(encoding="utf-8"))[MEAN_IOU]}
    number = read_published_methods()[method].mean_iou.get(key)
    published = {} if number is None else {MEAN_IOU: number}
    return Entry(benchmark.title, plan.benchmark.name if plan else "", method, status, results, published)


def format_published_page(title: str, methods: Sequence[str], entries: Sequence[Entry]) -> str:
    """Format comparison.md for published settings."""
    facts = [read_published_methods()[method] for method in methods]
    headers = ["method", "settings of the published numbers", "source of the numbers"]
    settings = tabulate([[row.method, row.settings, row.source] for row in facts], headers, tablefmt="pipe")
    return (
        f"# {title}\n\nCells: our mIoU / the published one / the difference, in percent.\n\n"
        f"{markdown_matrix(entries)}\n\n{settings}\n"
    )


def evaluate_paper(args: argparse.Namespace) -> list[Entry]:
    """Evaluate the benchmarks in one protocol, and write the tables after each. Return the entries."""
    plans = [plan_evaluation(args, key) for key in args.benchmarks]
    entries: list[Entry] = []
    for plan in plans:
        entries += read_entries(args, plan, evaluate(args, plan))
        rows = add_averages(entries, len(published_benchmarks()))
        _write(args.output, format_page(plan.cfg, rows), csv_table(rows))
    return entries


def evaluate_published(args: argparse.Namespace) -> list[Entry]:
    """Evaluate each method with its published settings, and write the tables after each run. Return the entries."""
    plans = {(method, key): plan_published(args, method, key) for method in args.methods for key in args.benchmarks}
    models = [plan.cfg.MODEL.CLIP for plan in plans.values() if plan]
    title = f"Published settings: {_describe_weights(models[0])}" if models else "Published settings"
    entries: dict[tuple[str, str], Entry] = {}
    for (method, key), plan in plans.items():
        has_number = key in read_published_methods()[method].mean_iou
        missing = "the settings are not public" if has_number else "no published number"
        status = evaluate(args, plan) if plan else missing
        entries[method, key] = read_published_entry(method, key, plan, status)
        rows = []
        for name in args.methods:
            own = [entry for (owner, _), entry in entries.items() if owner == name]
            rows += add_averages(own, len(read_published_methods()[name].mean_iou))
        _write(args.output, format_published_page(title, args.methods, rows), csv_table(rows, [MEAN_IOU]))
    return list(entries.values())


def _write(folder: Path, page: str, table: str) -> None:
    atomic_write_text(folder / "comparison.md", page)
    atomic_write_text(folder / "comparison.csv", table)


def _describe_weights(clip: CfgNode) -> str:
    weights = f"the weights {clip.PRETRAINED}" if clip.PRETRAINED else f"RANDOM weights (seed {clip.SEED})"
    return f"{clip.NAME} with {weights}"


def main() -> None:
    """Evaluate the benchmarks in order. Exit with an error if one failed."""
    args = parse_arguments()
    try:
        entries = (evaluate_published if args.protocol == OWN_SETTINGS else evaluate_paper)(args)
    except InputError as error:
        sys.exit(f"error: {error}")
    print((args.output / "comparison.md").read_text(encoding="utf-8"))
    print(f"Wrote {args.output / 'comparison.md'} and comparison.csv")
    failed = dict.fromkeys(entry.benchmark for entry in entries if entry.status.startswith("failed"))
    if failed:
        sys.exit(f"error: {', '.join(failed)} failed, see above. Repeat the command to try again.")


if __name__ == "__main__":
    with exit_on_interrupt("Repeat the command to continue."):
        main()
