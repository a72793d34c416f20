"""Evaluate the rows of the paper's Table 1, from CLIP as trained to CLIPtrase, and write them as that table.

    python experiments/ablate.py                                # all that is there
    python experiments/ablate.py --datasets emoji_scenes        # the scenes of the repository, in half a minute
    python experiments/ablate.py --datasets voc20 pc59 --opts TEST.BATCH_SIZE 8

Each data set is one train_net.py with configs/ablations/table1_<data set>.yaml, resumed where it stopped. What is
missing is marked, with the command that prepares it. OUTPUT/table1.md is written anew after every data set.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.benchmarks import BENCHMARKS, benchmark_root
from cliptrase_d2.data.inspection import benchmark_state
from cliptrase_d2.evaluation.evaluator import results_folder
from cliptrase_d2.evaluation.published import ablation_source, published_ablation
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import clean_end

ROOT = Path(__file__).resolve().parents[1]
ROWS = published_ablation()
BENCHMARK_KEYS = list(ROWS["cliptrase"].mean_iou)
SCENES = "emoji_scenes"
Found = Mapping[str, Mapping[str, float]]  # data set -> system -> mIoU


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*BENCHMARK_KEYS, SCENES]
    parser.add_argument("--datasets", nargs="+", choices=names, default=names, metavar="KEY", help=", ".join(names))
    parser.add_argument("--output", type=Path, default=Path("output/ablations"), help="default: output/ablations")
    parser.add_argument("--incomplete", action="store_true", help="evaluate benchmarks of which files are missing too")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs of the configuration, last"
    )
    return parser.parse_args(words)


def obstacle(args: argparse.Namespace, key: str) -> str:
    """Why a data set cannot be evaluated, "" if it can."""
    if key == SCENES:
        return ""
    state = benchmark_state(BENCHMARKS[key], benchmark_root())
    if state.is_complete or (state.found and args.incomplete):
        return ""
    return f"{state.found:,} of {state.expected:,} images are there; {state.remedy}"


def evaluate(args: argparse.Namespace, key: str) -> dict[str, float]:
    """System -> mIoU in percent, by the rules of the paper.

    Raises:
        InputError: an option that cannot be.
        CalledProcessError: the evaluation failed, and said why.
    """
    config = ROOT / "configs" / "ablations" / f"table1_{key}.yaml"
    options = [*args.opts, "OUTPUT_DIR", str(args.output / key)]
    cfg = load_config(config, options)
    command = [sys.executable, str(ROOT / "train_net.py"), "--eval-only", "--resume", "--config-file", str(config)]
    subprocess.run([*command, *options], check=True)
    return {system: _mean_iou(cfg, system) for system in cfg.TEST.METHODS}


def _mean_iou(cfg: CfgNode, system: str) -> float:
    folder = results_folder(Path(cfg.OUTPUT_DIR) / system, cfg.DATASETS.TEST[0])
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["paper"]["mIoU"]


def document(found: Found, missing: Mapping[str, str], options: Sequence[str] = ()) -> str:
    """The page: the table in the form of Table 1, what is missing, and what it was measured with."""
    columns = [*BENCHMARK_KEYS, "Avg.", SCENES]
    titles = [BENCHMARKS[key].title if key in BENCHMARKS else key for key in columns]
    lines = [
        "# Table 1: how far attention reaches, and what is clustered",
        f"Each cell: ours / the paper's mIoU. The paper's: {ablation_source()}. Avg. is that of the four benchmarks. "
        f"{SCENES}: the embedded model at 112 pixels, of which the paper knows nothing.",
        "\n".join(
            [
                "| input=224, mIoU | " + " | ".join(titles) + " |",
                "|---" + "|---:" * len(columns) + "|",
                *("| " + " | ".join([row.title, *_cells(found, system)]) + " |" for system, row in ROWS.items()),
            ]
        ),
    ]
    lines += [f"- {BENCHMARKS[key].title} is missing: {reason}" for key, reason in missing.items()]
    lines += [f"Options: {' '.join(options)}"] if options else []
    return "\n\n".join(lines) + "\n"


def _cells(found: Found, system: str) -> list[str]:
    paper = ROWS[system].mean_iou
    ours = {key: found[key][system] for key in BENCHMARK_KEYS if key in found}
    average = _text(sum(ours.values()) / len(ours) if len(ours) == len(paper) else None)
    return [
        *(f"{_text(ours.get(key))} / {paper[key]:.2f}" for key in BENCHMARK_KEYS),
        f"{average} / {sum(paper.values()) / len(paper):.2f}",
        _text(found.get(SCENES, {}).get(system)),
    ]


def _text(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def main() -> None:
    """Evaluate one data set after the other, and write the table after each."""
    args = parse_arguments()
    found: dict[str, dict[str, float]] = {}
    missing: dict[str, str] = {}
    text = ""
    for key in args.datasets:
        reason = obstacle(args, key)
        if reason:
            missing[key] = reason
        else:
            try:
                found[key] = evaluate(args, key)
            except InputError as error:
                sys.exit(f"error: {error}")
            except subprocess.CalledProcessError as error:
                sys.exit(f"error: {key} ended with exit code {error.returncode}, see above; the same command goes on")
        text = document(found, missing, args.opts)
        atomic_write_text(args.output / "table1.md", text)
    print(text)
    print(f"{args.output / 'table1.md'} is written")


if __name__ == "__main__":
    with clean_end("The same command goes on."):
        main()
