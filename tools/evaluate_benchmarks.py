"""Evaluate every benchmark that is there, and put the numbers beside those of the paper.

    python tools/evaluate_benchmarks.py --protocol center_crop --size 224
    python tools/evaluate_benchmarks.py --protocol whole --benchmarks voc21 ade150 --opts TEST.BATCH_SIZE 8

Table 3 of the paper is --size 224, Table 4 is --size 336; other protocols have no published numbers. Each benchmark is
one train_net.py, which is resumed where it stopped; what is missing is marked, with the command that prepares it. After
every benchmark OUTPUT/comparison.md and OUTPUT/comparison.csv are written anew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.benchmarks import BENCHMARKS, Benchmark, benchmark_of, benchmark_root
from cliptrase_d2.data.inspection import benchmark_state
from cliptrase_d2.evaluation.comparison import EVALUATED, Entry, csv_table, markdown_table, with_averages
from cliptrase_d2.evaluation.evaluator import results_folder
from cliptrase_d2.evaluation.published import PUBLISHED_PROTOCOL, published_numbers, published_source
from cliptrase_d2.evaluation.runs import SYSTEMS
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import clean_end

ROOT = Path(__file__).resolve().parents[1]
KEYS = [key for key in BENCHMARKS if not key.endswith("_paper")]
PUBLISHED = [benchmark.published for benchmark in BENCHMARKS.values() if benchmark.published]
PUBLISHED_SYSTEMS = ("clip", "sclip", "cliptrase")
SIZES = (224, 336)


class Plan(NamedTuple):
    """One benchmark to evaluate.

    Attributes:
        benchmark: as the configuration chooses it, the usual one or that of the published script.
        config: file, relative to the repository.
        options: KEY VALUE pairs on top of it.
        cfg: what comes of both.
    """

    benchmark: Benchmark
    config: str
    options: list[str]
    cfg: CfgNode


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=("center_crop", "whole", "slide"), default="center_crop")
    parser.add_argument("--size", type=int, help="short side in pixels: 224 (default) or 336 for center_crop")
    parser.add_argument("--benchmarks", nargs="+", choices=KEYS, default=KEYS, metavar="KEY", help=", ".join(KEYS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=PUBLISHED_SYSTEMS, metavar="SYSTEM")
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"), help="default: output/benchmarks")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes of each evaluation (default 1)")
    parser.add_argument("--incomplete", action="store_true", help="evaluate benchmarks of which files are missing too")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs of the configuration, last"
    )
    args = parser.parse_args(words)
    if args.protocol == PUBLISHED_PROTOCOL and args.size not in (None, *SIZES):
        parser.error(f"--size {args.size}: center_crop has configurations for {' and '.join(map(str, SIZES))}")
    return args


def plan(args: argparse.Namespace, key: str) -> Plan:
    """What the arguments mean for one benchmark."""
    is_crop = args.protocol == PUBLISHED_PROTOCOL
    variant = str(args.size or SIZES[0]) if is_crop else args.protocol
    config = f"configs/cliptrase/{key}_{variant}.yaml"
    size = ["INPUT.MIN_SIZE_TEST", str(args.size)] if args.size and not is_crop else []
    systems = str(list(args.systems))
    # What a configuration expects is compared here, so that a difference is no failure.
    ours = ["TEST.METHODS", systems, "TEST.EXPECTED_RESULTS", "[]", "OUTPUT_DIR", str(args.output / f"{key}_{variant}")]
    options = [*size, *args.opts, *ours]
    cfg = load_config(ROOT / config, options)
    benchmark = benchmark_of(cfg.DATASETS.TEST[0])
    assert benchmark is not None  # the configurations name benchmarks only
    return Plan(benchmark, config, options, cfg)


def evaluate(args: argparse.Namespace, planned: Plan) -> str:
    """Evaluate one benchmark, unless it is not there; the status of its entries."""
    state = benchmark_state(planned.benchmark, benchmark_root())
    if not state.found:
        return f"missing: {state.remedy}"
    if not (state.is_complete or args.incomplete):
        return f"incomplete, {state.found:,} of {state.expected:,}: {state.remedy}"
    flags = ["--num-gpus", str(args.num_gpus), "--dist-url", "auto"] if args.num_gpus > 1 else []
    words = ["--eval-only", "--resume", *flags, "--config-file", str(ROOT / planned.config), *planned.options]
    done = subprocess.run([sys.executable, str(ROOT / "train_net.py"), *words], check=False)
    if done.returncode:
        return f"failed with exit code {done.returncode}"
    return EVALUATED if state.is_complete else f"{EVALUATED} on {state.found:,} of {state.expected:,} images"


def entries(args: argparse.Namespace, planned: Plan, status: str) -> Iterator[Entry]:
    """One entry for each system."""
    benchmark, cfg = planned.benchmark, planned.cfg
    published = published_numbers(benchmark.published, cfg.TEST.PROTOCOL, cfg.INPUT.MIN_SIZE_TEST)
    for system in args.systems:
        ours = metrics(planned, system)["paper"] if status.startswith(EVALUATED) else {}
        yield Entry(benchmark.title, benchmark.name, system, status, ours, published.get(system, {}))


def metrics(planned: Plan, system: str) -> dict[str, Any]:
    """metrics.json of a system."""
    folder = results_folder(Path(planned.cfg.OUTPUT_DIR) / system, planned.benchmark.name)
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def document(cfg: CfgNode, found: Sequence[Entry]) -> str:
    """comparison.md."""
    clip = cfg.MODEL.CLIP
    weights = f"the weights {clip.PRETRAINED}" if clip.PRETRAINED else f"RANDOM weights (seed {clip.SEED})"
    is_published = any(entry.published for entry in found)
    note = (
        f"Each cell: ours / the paper's / difference, in percent. The paper's: {published_source()}."
        if is_published
        else "In percent. The paper has no numbers for this protocol and size."
    )
    return (
        f"# {clip.NAME} with {weights}: {cfg.TEST.PROTOCOL}, short side {cfg.INPUT.MIN_SIZE_TEST}\n\n{note} "
        "mAcc is over all classes, mIoU over those that occur, as in the published script.\n\n"
        f"{markdown_table(found)}\n"
    )


def write(output: Path, cfg: CfgNode, found: Sequence[Entry]) -> str:
    """Write both tables; the first is returned."""
    rows = with_averages(found, len(PUBLISHED))
    text = document(cfg, rows)
    for name, content in (("comparison.md", text), ("comparison.csv", csv_table(rows))):
        atomic_write_text(output / name, content)
    return text


def main() -> None:
    """Evaluate one after the other, and end with an error where one failed."""
    args = parse_arguments()
    try:
        plans = [plan(args, key) for key in args.benchmarks]
    except InputError as error:
        sys.exit(f"error: {error}")
    found: list[Entry] = []
    text = ""
    for planned in plans:
        status = evaluate(args, planned)
        found += entries(args, planned, status)
        text = write(args.output, planned.cfg, found)
    print(text)
    print(f"{args.output / 'comparison.md'} and comparison.csv are written")
    failed = dict.fromkeys(entry.benchmark for entry in found if entry.status.startswith("failed"))
    if failed:
        sys.exit(f"error: {', '.join(failed)} failed, see above; the same command tries again")


if __name__ == "__main__":
    with clean_end("The same command goes on."):
        main()
