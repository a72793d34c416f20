"""Evaluate the rows of the paper's Table 1, from plain CLIP to CLIPtrase.

    python experiments/ablate.py                                # all available data sets
    python experiments/ablate.py --datasets emoji_scenes        # the scenes of this repository, in half a minute
    python experiments/ablate.py --datasets voc20 pc59 --opts TEST.BATCH_SIZE 8

Each data set is a run of train_net.py with configs/ablations/table1_<data set>.yaml, which resumes after an
interruption. A missing data set is marked with the command that prepares it. OUTPUT/table1.md is updated after every
data set.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from cliptrase_d2.config import load_config
from cliptrase_d2.data.benchmarks import BENCHMARKS, get_benchmark_root
from cliptrase_d2.data.inspection import get_benchmark_state
from cliptrase_d2.evaluation.evaluator import get_results_folder
from cliptrase_d2.evaluation.published import ablation_source, published_ablation
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import exit_on_interrupt

ROOT = Path(__file__).resolve().parents[1]
ROWS = published_ablation()
BENCHMARK_KEYS = list(ROWS["cliptrase"].mean_iou)
SCENES = "emoji_scenes"
Results = Mapping[str, Mapping[str, float]]  # data set -> method -> mIoU


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*BENCHMARK_KEYS, SCENES]
    parser.add_argument("--datasets", nargs="+", choices=names, default=names, metavar="KEY", help=", ".join(names))
    parser.add_argument("--output", type=Path, default=Path("output/ablations"), help="default: output/ablations")
    parser.add_argument("--incomplete", action="store_true", help="evaluate incomplete benchmarks too")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="last: KEY VALUE pairs of the config")
    return parser.parse_args(words)


def find_problem(args: argparse.Namespace, key: str) -> str:
    """Return the reason why a data set cannot be evaluated; "" if it can."""
    if key == SCENES:
        return ""
    state = get_benchmark_state(BENCHMARKS[key], get_benchmark_root())
    if state.is_complete or (state.pairs and args.incomplete):
        return ""
    return f"{state.pairs:,} of {state.expected:,} images were found; {state.command}"


def evaluate(args: argparse.Namespace, key: str) -> dict[str, float]:
    """Evaluate all rows on a data set. Return method -> mIoU in percent, by the paper's formulas.

    Raises:
        InputError: invalid options.
        CalledProcessError: the evaluation failed and printed an error.
    """
    config = ROOT / "configs" / "ablations" / f"table1_{key}.yaml"
    options = [*args.opts, "OUTPUT_DIR", str(args.output / key)]
    cfg = load_config(config, options)
    command = [sys.executable, str(ROOT / "train_net.py"), "--eval-only", "--resume", "--config-file", str(config)]
    subprocess.run([*command, *options], check=True)
    folders = {name: get_results_folder(Path(cfg.OUTPUT_DIR) / name, cfg.DATASETS.TEST[0]) for name in cfg.TEST.METHODS}
    reports = {name: json.loads((folder / "metrics.json").read_text()) for name, folder in folders.items()}
    return {name: report["paper"]["mIoU"] for name, report in reports.items()}


def format_page(results: Results, missing: Mapping[str, str], options: Sequence[str] = ()) -> str:
    """Format table1.md: the table in the paper's layout, the missing data sets and the options."""
    columns = [*BENCHMARK_KEYS, "Avg.", SCENES]
    titles = [BENCHMARKS[key].title if key in BENCHMARKS else key for key in columns]
    rows = [[row.title, *_format_cells(results, method)] for method, row in ROWS.items()]
    align = ["left", *["right"] * len(columns)]
    lines = [
        "# Table 1: range of attention, and input of the clustering",
        f"Cells: our mIoU / the paper's. Source of the paper's: {ablation_source()}. Avg. is the mean of the four "
        f"benchmarks. {SCENES}: the embedded model at 112 pixels, which the paper does not have.",
        tabulate(rows, ["input=224, mIoU", *titles], "pipe", colalign=align, disable_numparse=True),
        *(f"- {BENCHMARKS[key].title} is missing: {reason}" for key, reason in missing.items()),
    ]
    lines += [f"Options: {' '.join(options)}"] if options else []
    return "\n\n".join(lines) + "\n"


def _format_cells(results: Results, method: str) -> list[str]:
    paper = ROWS[method].mean_iou
    ours = {key: results[key][method] for key in BENCHMARK_KEYS if key in results}
    average = _format(sum(ours.values()) / len(ours) if len(ours) == len(paper) else None)
    return [
        *(f"{_format(ours.get(key))} / {paper[key]:.2f}" for key in BENCHMARK_KEYS),
        f"{average} / {sum(paper.values()) / len(paper):.2f}",
        _format(results.get(SCENES, {}).get(method)),
    ]


def _format(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def main() -> None:
    """Evaluate the data sets in order. Update the table after each."""
    args = parse_arguments()
    results: dict[str, dict[str, float]] = {}
    missing: dict[str, str] = {}
    text = ""
    for key in args.datasets:
        problem = find_problem(args, key)
        if problem:
            missing[key] = problem
        else:
            try:
                results[key] = evaluate(args, key)
            except InputError as error:
                sys.exit(f"error: {error}")
            except subprocess.CalledProcessError as error:
                sys.exit(f"error: {key} failed with exit code {error.returncode}, see above. Repeat the command.")
        text = format_page(results, missing, args.opts)
        atomic_write_text(args.output / "table1.md", text)
    print(text)
    print(f"Wrote {args.output / 'table1.md'}")


if __name__ == "__main__":
    with exit_on_interrupt("Repeat the command to continue."):
        main()
