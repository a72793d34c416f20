"""Compare how fast SAN learns with and without its warm starts (supplement, B.3 and Figure 1).

    python datasets/prepare_emoji_scenes.py datasets/emoji_scenes_train --split seen --count 2000 --seed 1
    python experiments/convergence.py

trains every configuration with every seed, evaluating on the way, and writes convergence.md, .json and, with
matplotlib, .png: mIoU over iterations, the mean over seeds within the lowest and the highest. A run that is finished is
not made again, one that was ended goes on. The first configuration is the cold one, which the others are measured by.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tabulate import tabulate

from cliptrase_d2.config import load_config
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import clean_end

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("cold", "warm", "per_image")
TITLES = {"cold": "cold", "warm": "prototypes", "per_image": "per image"}
COLOURS = {"cold": "#444444", "warm": "#c1272d", "per_image": "#0072b2"}
Curve = dict[int, float]  # percent by the number of iterations before it


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    configs = [f"configs/san/emoji_scenes_{kind}.yaml" for kind in KINDS]
    parser.add_argument("--configs", nargs="+", default=configs, help="configurations, the cold one first")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--transfer", default="mIoU-held_out_things", help="metric of the second picture")
    parser.add_argument("--output", type=Path, default=Path("output/convergence"), help="folder")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each with its share of the cores")
    parser.add_argument("--no-plot", action="store_true", help="no picture, which needs matplotlib")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="after --: changes of all configs")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: must be at least 1")
    return args


def kind_of(config: str) -> str:
    """What a configuration is called: the end of its name."""
    return next((kind for kind in KINDS if Path(config).stem.endswith(kind)), Path(config).stem)


def run_all(trainings: Sequence[tuple[str, int, Path]], options: Sequence[str], at_a_time: int) -> None:
    """Train configurations with seeds into folders; where one fails, or at Ctrl-C, all end.

    Raises:
        InputError: a training failed.
    """
    threads = max(1, (os.cpu_count() or 1) // at_a_time)
    processes = Processes()
    with ThreadPoolExecutor(at_a_time) as pool:
        jobs = [pool.submit(run, *training, options, threads, processes) for training in trainings]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
            raise


class Processes:
    """Those that are running, to be ended together; none is started after that."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []
        self._has_ended = False
        self._lock = threading.Lock()

    def start(self, words: Sequence[str], environment: Mapping[str, str], output: BinaryIO) -> subprocess.Popen[bytes]:
        """Start Python with words; what it writes goes to a file.

        Raises:
            CancelledError: all were ended.
        """
        with self._lock:
            if self._has_ended:
                raise CancelledError
            command = [sys.executable, *words]
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            self._started.append(process)
        return process

    def end(self) -> None:
        """Ask all to end."""
        with self._lock:
            self._has_ended = True
            for process in self._started:
                process.terminate()


def run(config: str, seed: int, folder: Path, options: Sequence[str], threads: int, processes: Processes) -> None:
    """Train one configuration with one seed, unless that is done.

    Raises:
        InputError: the training failed.
    """
    if (folder / "report.html").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    words = [str(ROOT / "train_net.py"), "--resume", "--config-file", config, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    words += ["SEED", str(seed), "OUTPUT_DIR", str(folder)]
    with (folder / "console.txt").open("ab") as console:
        code = processes.start(words, environment, console).wait()
    if code:
        last = (folder / "console.txt").read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise InputError(config, f"seed {seed}: {' '.join(last)}", f"See {folder}.", allowed="a training that ends")


def read_curve(folder: Path, dataset: str, metric: str, iterations: int) -> Curve:
    """What the evaluations of one training found, in percent, by the number of iterations before them."""
    curve: Curve = {}
    for line in (folder / "metrics.json").read_text(encoding="utf-8").splitlines():
        numbers = json.loads(line)
        if f"{dataset}/{metric}" in numbers:
            curve[numbers["iteration"] + 1] = numbers[f"{dataset}/{metric}"]
    report = json.loads((folder / "inference" / dataset / "metrics.json").read_text(encoding="utf-8"))
    return {**curve, iterations: report[metric]}


def first_reaching(curve: Mapping[int, float], goal: float) -> float | None:
    """Iterations after which a curve first has a value, between two evaluations by a straight line; None if never."""
    before: tuple[int, float] | None = None
    for iteration, value in sorted(curve.items()):
        if value >= goal:
            if before is None or value == before[1]:
                return float(iteration)
            return before[0] + (iteration - before[0]) * (goal - before[1]) / (value - before[1])
        before = (iteration, value)
    return None


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean at every iteration that all of them have."""
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    return {iteration: float(np.mean([curve[iteration] for curve in curves])) for iteration in shared}


def table(curves: Mapping[str, Sequence[Curve]], transfer: Mapping[str, Sequence[Curve]]) -> str:
    """Final numbers, their spread, and how fast each comes to the cold one's."""
    cold = next(iter(curves))
    goal_at, goal = max(mean_curve(curves[cold]).items())
    rows = []
    for kind, found in curves.items():
        mean = mean_curve(found)
        reached = first_reaching(mean, goal)
        by_seed = [first_reaching(own, start[goal_at]) for own, start in zip(found, curves[cold], strict=True)]
        rows.append(
            [
                TITLES.get(kind, kind),
                _spread([curve[max(curve)] for curve in found]),
                _spread([curve[max(curve)] for curve in transfer[kind]]),
                "never" if reached is None else f"{reached:.0f}",
                "never" if reached is None else f"{reached / goal_at:.2f}",
                ", ".join("never" if steps is None else f"{steps:.0f}" for steps in by_seed),
            ]
        )
    heads = [
        "start",
        "final mIoU",
        "unseen classes",
        f"to {goal:.1f}",
        "of the cold one's",
        "each seed, to its cold run's",
    ]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def draw(panels: Mapping[str, Mapping[str, Sequence[Curve]]], path: Path) -> None:
    """Mean and range over seeds, a panel for each metric."""
    from matplotlib.figure import Figure  # optional, and slow to import

    figure = Figure(figsize=(11, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for kind, found in curves.items():
            mean = mean_curve(found)
            steps = list(mean)
            colour = COLOURS.get(kind)
            (line,) = axis.plot(steps, list(mean.values()), color=colour, label=TITLES.get(kind, kind), linewidth=1.8)
            low, high = ([limit(curve[step] for curve in found) for step in steps] for limit in (min, max))
            axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(title=title, xlabel="iterations", ylabel="mIoU in percent")
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
    axes[0].legend()
    atomic_write(path, lambda file: figure.savefig(file, format="png"))


def main() -> None:
    """Train, print the table, write all files."""
    args = parse_arguments()
    try:
        if not args.no_plot and importlib.util.find_spec("matplotlib") is None:
            fix = "Install it (pip install 'cliptrase_d2[plot]'), or add --no-plot."
            raise InputError("the picture", "no matplotlib", fix, allowed="matplotlib, which is optional")
        cfg = load_config(args.configs[0], args.opts)
        dataset, iterations = cfg.DATASETS.TEST[0], cfg.SOLVER.MAX_ITER
        folders = {
            kind_of(config): [args.output / f"{kind_of(config)}_{s}" for s in args.seeds] for config in args.configs
        }
        trainings = [
            (config, seed, folders[kind_of(config)][index])
            for index, seed in enumerate(args.seeds)
            for config in args.configs
        ]
        run_all(trainings, args.opts, args.jobs)
    except InputError as error:
        sys.exit(f"error: {error}")
    panels = {
        title: {kind: [read_curve(f, dataset, metric, iterations) for f in own] for kind, own in folders.items()}
        for title, metric in (("all classes", "mIoU"), ("classes that training never shows", args.transfer))
    }
    text = table(*panels.values())
    print(text)
    atomic_write_text(args.output / "convergence.md", text + "\n")
    atomic_write_text(args.output / "convergence.json", json.dumps(panels, indent=1) + "\n")
    if not args.no_plot:
        draw(panels, args.output / "convergence.png")
    print(f"Written to {args.output}/")


if __name__ == "__main__":
    with clean_end("The same command goes on."):
        main()
