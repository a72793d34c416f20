"""Compare how fast SAN learns with and without its warm starts (supplement, B.3 and Figure 1).

    python datasets/prepare_emoji_scenes.py datasets/emoji_scenes_train --split seen --count 2000 --seed 1
    python experiments/convergence.py

Trains every configuration with every seed, with evaluations during the training. Writes convergence.md, .json and, with
matplotlib, .png: mIoU by iteration, the mean of the seeds within their range. Finished trainings are not repeated, and
interrupted ones are resumed. The first configuration is the cold start, the reference of the others.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from cliptrase_d2.config import load_config
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import exit_on_interrupt

ROOT = Path(__file__).resolve().parents[1]
TITLES = {"cold": "cold", "warm": "prototypes", "per_image": "per image"}
COLOURS = {"cold": "#444444", "warm": "#c1272d", "per_image": "#0072b2"}
HEADERS = ("start", "final mIoU", "unseen classes", "to {:.1f}", "relative to cold", "each seed, to its cold run")
Curve = dict[int, float]  # number of iterations -> percent
Training = tuple[str, int, Path]  # configuration, seed, folder


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    configs = [f"configs/san/emoji_scenes_{kind}.yaml" for kind in TITLES]
    parser.add_argument("--configs", nargs="+", default=configs, help="configurations, the cold start first")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--transfer", default="mIoU-held_out_things", help="metric of the second picture")
    parser.add_argument("--output", type=Path, default=Path("output/convergence"), help="folder")
    parser.add_argument("--jobs", type=int, default=1, help="concurrent trainings, which share the cores")
    parser.add_argument("--no-plot", action="store_true", help="no picture, which needs matplotlib")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="after --: changes of all configs")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: must be at least 1")
    return args


def get_kind(config: str) -> str:
    """Return the short name of a configuration, the end of its file name."""
    return next((kind for kind in TITLES if Path(config).stem.endswith(kind)), Path(config).stem)


def train_all(trainings: Sequence[Training], options: Sequence[str], jobs: int) -> None:
    """Run trainings, `jobs` at a time. A failure or Ctrl-C ends all of them.

    Raises:
        InputError: a training failed.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting = [training for training in trainings if not (training[2] / "report.html").is_file()]
    running: dict[subprocess.Popen[bytes], Training] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                training = waiting.pop(0)
                running[start_training(training, options, threads)] = training
            for process in [process for process in running if process.poll() is not None]:
                config, seed, folder = running.pop(process)
                if process.returncode:
                    last = (folder / "console.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
                    raise InputError(config, f"training with seed {seed} failed: {' '.join(last)}", f"See {folder}.")
            time.sleep(0.1)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def start_training(training: Training, options: Sequence[str], threads: int) -> subprocess.Popen[bytes]:
    """Start or resume a training. Its output is appended to console.txt."""
    config, seed, folder = training
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "train_net.py"), "--resume", "--config-file", config, *options]
    command += ["SEED", str(seed), "OUTPUT_DIR", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (folder / "console.txt").open("ab") as console:
        return subprocess.Popen(command, env=environment, stdout=console, stderr=subprocess.STDOUT)


def read_curve(folder: Path, dataset: str, metric: str, iterations: int) -> Curve:
    """Return a metric by the number of iterations before each evaluation of a training, in percent."""
    curve: Curve = {}
    for line in (folder / "metrics.json").read_text(encoding="utf-8").splitlines():
        numbers = json.loads(line)
        if f"{dataset}/{metric}" in numbers:
            curve[numbers["iteration"] + 1] = numbers[f"{dataset}/{metric}"]
    report = json.loads((folder / "inference" / dataset / "metrics.json").read_text(encoding="utf-8"))
    return {**curve, iterations: report[metric]}


def find_crossing(curve: Mapping[int, float], goal: float) -> float | None:
    """Return the iterations until a curve first reaches a value, interpolated linearly; None if never."""
    previous: tuple[int, float] | None = None
    for iteration, value in sorted(curve.items()):
        if value >= goal:
            if previous is None or value == previous[1]:
                return float(iteration)
            return previous[0] + (iteration - previous[0]) * (goal - previous[1]) / (value - previous[1])
        previous = (iteration, value)
    return None


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean at every iteration that all curves have."""
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    return {iteration: float(np.mean([curve[iteration] for curve in curves])) for iteration in shared}


def format_table(curves: Mapping[str, Sequence[Curve]], transfer: Mapping[str, Sequence[Curve]]) -> str:
    """Format final results with their range, and the iterations to the cold start's final result."""
    cold = next(iter(curves.values()))
    last, goal = max(mean_curve(cold).items())
    rows = []
    for kind, runs in curves.items():
        crossing = find_crossing(mean_curve(runs), goal)
        crossings = [find_crossing(run, reference[last]) for run, reference in zip(runs, cold, strict=True)]
        rows.append(
            [
                TITLES.get(kind, kind),
                *(_format_range([run[max(run)] for run in values]) for values in (runs, transfer[kind])),
                _format_number(crossing),
                _format_number(None if crossing is None else crossing / last, ".2f"),
                ", ".join(map(_format_number, crossings)),
            ]
        )
    headers = [header.format(goal) for header in HEADERS]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _format_range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _format_number(number: float | None, form: str = ".0f") -> str:
    return "never" if number is None else format(number, form)


def draw(panels: Mapping[str, Mapping[str, Sequence[Curve]]], path: Path) -> None:
    """Draw the mean and range over seeds, a panel for each metric."""
    from matplotlib.figure import Figure  # optional, and slow to import

    figure = Figure(figsize=(11, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for kind, runs in curves.items():
            mean = mean_curve(runs)
            colour, label = COLOURS.get(kind), TITLES.get(kind, kind)
            (line,) = axis.plot(list(mean), list(mean.values()), color=colour, label=label, linewidth=1.8)
            low, high = ([limit(run[step] for run in runs) for step in mean] for limit in (min, max))
            axis.fill_between(list(mean), low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(title=title, xlabel="iterations", ylabel="mIoU in percent")
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
    axes[0].legend()
    atomic_write(path, lambda file: figure.savefig(file, format="png"))


def main() -> None:
    """Run the trainings, print the table and write all files."""
    args = parse_arguments()
    trainings = [
        (config, seed, args.output / f"{get_kind(config)}_{seed}") for seed in args.seeds for config in args.configs
    ]
    try:
        if not args.no_plot and importlib.util.find_spec("matplotlib") is None:
            fix = "Install it (pip install 'cliptrase_d2[plot]'), or add --no-plot."
            raise InputError("matplotlib", "not installed", fix)
        cfg = load_config(args.configs[0], args.opts)
        train_all(trainings, args.opts, args.jobs)
    except InputError as error:
        sys.exit(f"error: {error}")
    panels: dict[str, dict[str, list[Curve]]] = {}
    for title, metric in (("all classes", "mIoU"), ("classes outside the training", args.transfer)):
        curves = panels[title] = {get_kind(config): [] for config in args.configs}
        for config, _, folder in trainings:
            curves[get_kind(config)].append(read_curve(folder, cfg.DATASETS.TEST[0], metric, cfg.SOLVER.MAX_ITER))
    text = format_table(*panels.values())
    print(text)
    atomic_write_text(args.output / "convergence.md", text + "\n")
    atomic_write_text(args.output / "convergence.json", json.dumps(panels, indent=1) + "\n")
    if not args.no_plot:
        draw(panels, args.output / "convergence.png")
    print(f"Wrote {args.output}/")


if __name__ == "__main__":
    with exit_on_interrupt("Repeat the command to continue."):
        main()
