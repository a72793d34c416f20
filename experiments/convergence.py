"""Compare how fast SAN learns with and without its warm starts (supplement, B.3 and Figure 1).

    python datasets/prepare_emoji_scenes.py datasets/emoji_scenes_train --split seen --count 2000 --seed 1
    python experiments/convergence.py

Trains every configuration with every seed, with evaluations during the training. Finished trainings are added to
results/convergence.csv and not repeated; interrupted ones are resumed. That file is all that the table, convergence.md,
and with matplotlib the picture, convergence.png, are made of; --jobs 0 makes them without a training. The configuration
"cold" is the reference of the others. Iterations without labels have negative numbers; 0 is the start of the labelled
ones.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import exit_on_interrupt

ROOT = Path(__file__).resolve().parents[1]
TITLES = {
    "cold": "cold",
    "warm": "prototypes",
    "closed_form": "closed form",
    "unlabelled": "closed form, unlabelled",
}
COLOURS = {
    "cold": "#444444",
    "warm": "#c1272d",
    "closed_form": "#009e73",
    "unlabelled": "#cc79a7",
}
HEADERS = ("start", "seeds", "at 0", "final mIoU", "unseen classes", "to {:.1f}", "relative to cold", "seconds before")
COLUMNS = ("start", "seed", "iteration", "mIoU", "mIoU of unseen classes", "seconds")
SAMPLES = 2000  # of the bootstrap
Curve = dict[int, float]  # number of labelled iterations -> percent
Training = tuple[str, int, Path]  # configuration, seed, folder


class Row(NamedTuple):
    """One evaluation during a training.

    Attributes:
        start: short name of the configuration.
        seed: of the training.
        iteration: number of labelled iterations before it, or below 0 with this many unlabelled ones still to come.
        miou, unseen: in percent, of all classes and of those that the training never shows.
        seconds: since the beginning of the warm start, without evaluations.
    """

    start: str
    seed: int
    iteration: int
    miou: float
    unseen: float
    seconds: float


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    configs = [f"configs/san/emoji_scenes_{kind}.yaml" for kind in ("cold", "closed_form", "unlabelled")]
    parser.add_argument("--configs", nargs="+", default=configs, help="configurations")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--transfer", default="mIoU-held_out_things", help="metric of the second picture")
    parser.add_argument("--output", type=Path, default=Path("output/convergence"), help="folder")
    parser.add_argument("--csv", type=Path, default=ROOT / "results" / "convergence.csv", help="all finished trainings")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="concurrent trainings; 0 for none. They share the cores if OMP_NUM_THREADS is not set",
    )
    parser.add_argument("--no-plot", action="store_true", help="no picture, which needs matplotlib")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="after --: changes of all configs")
    args = parser.parse_args()
    if args.jobs < 0:
        parser.error(f"--jobs {args.jobs}: must be at least 0")
    return args


def get_kind(config: str) -> str:
    """Return the short name of a configuration, the end of its file name."""
    return next((kind for kind in TITLES if Path(config).stem.endswith(kind)), Path(config).stem)


def train_all(
    trainings: Sequence[Training], options: Sequence[str], jobs: int, finish: Callable[[Training], object]
) -> None:
    """Run trainings, `jobs` at a time. A failure or Ctrl-C ends all of them.

    Args:
        trainings: without those that are known to be finished.
        options: KEY VALUE pairs for all of them.
        jobs: at least 1.
        finish: is called after each training.
    Raises:
        InputError: a training failed.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting = list(trainings)
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
                finish((config, seed, folder))
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
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with (folder / "console.txt").open("ab") as console:
        return subprocess.Popen(command, env=environment, stdout=console, stderr=subprocess.STDOUT)


def read_log(file: Path) -> dict[int, dict[str, float]]:
    """Return the numbers in a metrics.json by the number of steps before them; empty without a file."""
    found: dict[int, dict[str, float]] = {}
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            numbers = json.loads(line)
            found.setdefault(numbers["iteration"] + 1, {}).update(numbers)
    return found


def measure_seconds(log: Mapping[int, Mapping[str, float]], steps: int) -> float:
    """Return the seconds of the first steps, without evaluations, from the seconds per step that a log has at times."""
    total, done, time_per_step = 0.0, 0, 0.0
    for iteration, numbers in sorted(log.items()):
        if "time" in numbers and done < steps:
            time_per_step = numbers["time"]
            total += (min(iteration, steps) - done) * time_per_step
            done = min(iteration, steps)
    return total + (steps - done) * time_per_step


def read_rows(training: Training, cfg: CfgNode, transfer: str) -> list[Row]:
    """Return all evaluations of a finished training.

    Args:
        training: with its folder.
        cfg: its configuration.
        transfer: metric of the unseen classes.
    """
    config, seed, folder = training
    dataset, unlabelled, last = cfg.DATASETS.TEST[0], cfg.SOLVER.UNLABELLED_ITER, cfg.SOLVER.MAX_ITER
    early, log = read_log(folder / "unlabelled" / "metrics.json"), read_log(folder / "metrics.json")
    report = json.loads((folder / "inference" / dataset / "metrics.json").read_text(encoding="utf-8"))
    log.setdefault(last, {}).update({f"{dataset}/{name}": report[name] for name in ("mIoU", transfer)})
    # With unlabelled iterations, the seconds of the start include theirs and one evaluation.
    begin = log.get(0, {}).get("start_seconds", 0.0)
    rows = []
    for part, offset, seconds in ((early, -unlabelled, begin - measure_seconds(early, unlabelled)), (log, 0, begin)):
        for steps, numbers in sorted(part.items()):
            if f"{dataset}/mIoU" in numbers:
                values = (numbers[f"{dataset}/mIoU"], numbers[f"{dataset}/{transfer}"])
                rows.append(
                    Row(get_kind(config), seed, steps + offset, *values, seconds + measure_seconds(part, steps))
                )
    return rows


def read_csv(path: Path) -> list[Row]:
    """Read all rows of a file; none if it does not exist.

    Raises:
        InputError: other columns, or a value of another type.
    """
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    if tuple(header) != COLUMNS:
        raise InputError(path, f"the columns {', '.join(header)}", f"Write {', '.join(COLUMNS)}.")
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            start, seed, iteration, miou, unseen, seconds = line
            rows.append(Row(start, int(seed), int(iteration), float(miou), float(unseen), float(seconds)))
        except ValueError:
            raise InputError(f"{path}:{number}", repr(",".join(line)), "Write a text and five numbers.") from None
    return rows


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows, sorted by start, seed and iteration."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sorted(rows):
        writer.writerow([*row[:3], *(f"{value:.2f}" for value in row[3:5]), f"{row.seconds:.0f}"])
    atomic_write_text(path, text.getvalue())


def group_curves(rows: Sequence[Row], value: Callable[[Row], float]) -> dict[str, dict[int, Curve]]:
    """Return {start: {seed: curve}} of the labelled iterations, in the order of TITLES."""
    curves: dict[str, dict[int, Curve]] = {kind: {} for kind in TITLES}
    for row in rows:
        if row.iteration >= 0:
            curves.setdefault(row.start, {}).setdefault(row.seed, {})[row.iteration] = value(row)
    return {kind: runs for kind, runs in curves.items() if runs}


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


def bootstrap_crossing(
    runs: Sequence[Curve], cold: Sequence[Curve], seed: int = 0
) -> tuple[float | None, float | None]:
    """Return a 95 % interval of the iterations in which the mean of runs reaches the mean of the last cold results.

    Both sets of seeds are drawn with replacement. None means never.
    """
    generator, crossings = np.random.default_rng(seed), []
    for _ in range(SAMPLES):
        goal = np.mean([cold[index][max(cold[index])] for index in generator.integers(len(cold), size=len(cold))])
        drawn = [runs[index] for index in generator.integers(len(runs), size=len(runs))]
        crossing = find_crossing(mean_curve(drawn), float(goal))
        crossings.append(np.inf if crossing is None else crossing)
    low, high = np.quantile(crossings, [0.025, 0.975], method="nearest")
    return tuple(None if np.isinf(limit) else float(limit) for limit in (low, high))  # type: ignore[return-value]


def format_table(rows: Sequence[Row]) -> str:
    """Format the results at the start and at the end with their ranges, and the iterations to the cold result.

    Args:
        rows: those of "cold" among them.
    """
    curves, unseen = (group_curves(rows, value) for value in (lambda row: row.miou, lambda row: row.unseen))
    cold = list(curves["cold"].values())
    last, goal = max(mean_curve(cold).items())
    lines = []
    for kind, by_seed in curves.items():
        runs = list(by_seed.values())
        mean, crossing = mean_curve(runs), find_crossing(mean_curve(runs), goal)
        before = [row.seconds for row in rows if row.start == kind and row.iteration == 0]
        interval = " to ".join(map(_format_number, bootstrap_crossing(runs, cold)))
        lines.append(
            [
                TITLES.get(kind, kind),
                len(runs),
                _format_number(mean.get(0), ".1f") if 0 in mean else "",
                *(_format_range([run[max(run)] for run in values]) for values in (runs, unseen[kind].values())),
                f"{_format_number(crossing)} ({interval})",
                _format_number(None if crossing is None else crossing / last, ".2f"),
                f"{np.mean(before):.0f}" if before else "",
            ]
        )
    headers = [header.format(goal) for header in HEADERS]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def _format_range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _format_number(number: float | None, form: str = ".0f") -> str:
    return "never" if number is None else format(number, form)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the mean and range over seeds, a panel for all classes and one for the unseen ones."""
    from matplotlib.figure import Figure  # optional, and slow to import

    figure = Figure(figsize=(11, 4.2), dpi=130, layout="constrained")
    panels = {"all classes": lambda row: row.miou, "classes outside the training": lambda row: row.unseen}
    for axis, (title, value) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for kind, by_seed in group_curves(rows, value).items():
            runs, colour = list(by_seed.values()), COLOURS.get(kind)
            mean = mean_curve(runs)
            (line,) = axis.plot(
                list(mean), list(mean.values()), color=colour, label=TITLES.get(kind, kind), linewidth=1.8
            )
            low, high = ([limit(run[step] for run in runs) for step in mean] for limit in (min, max))
            axis.fill_between(list(mean), low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(title=title, xlabel="labelled iterations", ylabel="mIoU in percent")
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
        axis.legend()
    atomic_write(path, lambda file: figure.savefig(file, format="png"))


def main() -> None:
    """Run the missing trainings, print the table and write all files."""
    args = parse_arguments()
    try:
        if not args.no_plot and importlib.util.find_spec("matplotlib") is None:
            fix = "Install it (pip install 'cliptrase_d2[plot]'), or add --no-plot."
            raise InputError("matplotlib", "not installed", fix)
        rows = read_csv(args.csv)
        done = {(row.start, row.seed) for row in rows}
        trainings = [
            (config, seed, args.output / f"{get_kind(config)}_{seed}")
            for seed in args.seeds
            for config in args.configs
            if (get_kind(config), seed) not in done
        ]
        configs = {config: load_config(config, args.opts) for config in args.configs}

        def finish(training: Training) -> None:
            rows.extend(read_rows(training, configs[training[0]], args.transfer))
            write_csv(args.csv, rows)

        if args.jobs:
            train_all(trainings, args.opts, args.jobs, finish)
        if not any(row.start == "cold" for row in rows):
            raise InputError(args.csv, "no cold start", "Train it: name its configuration in --configs.")
    except InputError as error:
        sys.exit(f"error: {error}")
    text = format_table(rows)
    print(text)
    atomic_write_text(args.output / "convergence.md", text + "\n")
    if not args.no_plot:
        draw(rows, args.output / "convergence.png")
    print(f"Wrote {args.output}/")


if __name__ == "__main__":
    with exit_on_interrupt("Repeat the command to continue."):
        main()
