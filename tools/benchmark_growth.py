"""Measure how time and memory of the method grow with patches, with classes and with masks at two megapixels.

    python tools/benchmark_growth.py --picture docs/pictures/growth.png

The image tower is left out. Patches and words are random, and correlations are those of rectangles of patches. The
picture needs matplotlib (extra [plot]).
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn.functional import normalize

from cliptrase_d2.clip.tokens import DenseFeatures, TextFeatures
from cliptrase_d2.pipeline import stages
from cliptrase_d2.pipeline.correlation import self_correlation, suppress_global_patches
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.atomic_files import atomic_write
from cliptrase_d2.utils.interruption import exit_on_interrupt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to run as a script
from tools.profiling import get_device_title, make_rectangles, measure_peak_megabytes, write_report

SIDES = (14, 21, 32, 40, 48, 56, 64)  # of a square grid; 64² = 4096 patches are an image of 1024² pixels
CLASSES = (20, 171, 847, 2500, 10000)
MASKS = (5, 20, 80, 320)
SETTINGS = CLIPtraseSettings(adaptive_dbscan=True)
GRID, PIXELS = (40, 80), (1024, 2048)  # two megapixels, which the model gets at 640×1280
_WIDTH = 512  # of the joint space
_HEADS, _HEAD_WIDTH = 12, 64
_PATCH = 16


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=list(SIDES), help="patches on a side of the grid")
    parser.add_argument("--classes", type=int, nargs="+", default=list(CLASSES))
    parser.add_argument("--masks", type=int, nargs="+", default=list(MASKS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="file for the numbers as JSON")
    parser.add_argument("--picture", type=Path, help="file for the curves as PNG")
    return parser.parse_args()


def make_scene(grid: tuple[int, int], count: int, device: str) -> tuple[DenseFeatures, Tensor, Tensor]:
    """Return random patches, a correlation [1,N,N] with `count` rectangles, and the rectangles [1,N]."""
    generator = torch.Generator().manual_seed(0)
    labels = make_rectangles(grid, count)  # [1,N]
    patches = normalize(torch.randn(1, grid[0] * grid[1], _WIDTH, generator=generator), dim=-1)
    rows = (labels[0][:, None] == labels[0]).float() + 0.1 * torch.rand(labels.shape[1], labels.shape[1])
    return DenseFeatures(patches.to(device), grid), rows[None].to(device), labels.to(device)


def make_words(count: int, device: str) -> TextFeatures:
    """Return random words, one per class."""
    features = normalize(torch.randn(count, _WIDTH, generator=torch.Generator().manual_seed(1)), dim=-1)
    return TextFeatures(features.to(device), torch.arange(count, device=device), tuple(map(str, range(count))))


def _classify(features: DenseFeatures, masks: list[MaskProposals], text: TextFeatures, device: str) -> object:
    logits = stages.compute_word_logits(features, text, torch.tensor(100.0, device=device), SETTINGS)
    return stages.classify_masks(masks, logits, text, SETTINGS)


@torch.inference_mode()
def measure_patches(side: int, device: str, repeats: int) -> dict[str, Any]:
    """Measure correlation, clustering, masks and classification with 171 classes on a square grid."""
    grid, sizes = (side, side), [(side * _PATCH, side * _PATCH)]
    heads = torch.randn(3, 1, _HEADS, side * side + 1, _HEAD_WIDTH, device=device)
    features, rows, labels = make_scene(grid, 20, device)
    text, masks = make_words(171, device), stages.propose(rows, labels, grid, sizes, SETTINGS)
    jobs = {
        "correlation": lambda: suppress_global_patches(self_correlation(*heads)),
        "clustering": lambda: stages.cluster(rows, SETTINGS),
        "masks": lambda: stages.propose(rows, labels, grid, sizes, SETTINGS),
        "classification": lambda: _classify(features, masks, text, device),
    }
    return {"patches": side * side} | measure_jobs(jobs, device, repeats)


@torch.inference_mode()
def measure_classes(count: int, device: str, repeats: int) -> dict[str, Any]:
    """Measure the classification of 20 masks of two megapixels."""
    features, rows, labels = make_scene(GRID, 20, device)
    masks, text = stages.propose(rows, labels, GRID, [PIXELS], SETTINGS), make_words(count, device)
    jobs = {"classification": lambda: _classify(features, masks, text, device)}
    return {"classes": count} | measure_jobs(jobs, device, repeats)


@torch.inference_mode()
def measure_masks(count: int, device: str, repeats: int) -> dict[str, Any]:
    """Measure masks of two megapixels, without and with their soft maps."""
    _, rows, labels = make_scene(GRID, count, device)
    jobs = {
        "masks": lambda: stages.propose(rows, labels, GRID, [PIXELS], SETTINGS),
        "masks and soft maps": lambda: stages.propose(rows, labels, GRID, [PIXELS], SETTINGS)[0].soft_masks(),
    }
    return {"masks": int(labels.max()) + 1} | measure_jobs(jobs, device, repeats)


def measure_jobs(jobs: dict[str, Callable[[], object]], device: str, repeats: int) -> dict[str, Any]:
    """Return the least seconds and the peak megabytes of every job."""
    seconds = {name: min(_seconds(job, device) for _ in range(repeats)) for name, job in jobs.items()}
    megabytes = {name: measure_peak_megabytes(device, job) for name, job in jobs.items()}
    return {"seconds": seconds, "megabytes": megabytes}


def _seconds(job: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    job()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def table(rows: list[dict[str, Any]]) -> str:
    """Format seconds and megabytes of every job, a row per size."""
    size, *_ = rows[0]
    jobs = list(rows[0]["seconds"])
    headers = [size, *(f"{job}, s" for job in jobs), *(f"{job}, MB" for job in jobs)]
    body = []
    for row in rows:
        memory = ("-" if row["megabytes"][job] is None else f"{row['megabytes'][job]:.0f}" for job in jobs)
        body.append([row[size], *(f"{row['seconds'][job]:.3f}" for job in jobs), *memory])
    return tabulate(body, headers=headers, disable_numparse=True, stralign="right")


def draw(growth: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw the curves: time above, memory below, a column per growing size."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(2, len(growth), figsize=(4 * len(growth), 6), sharex="col", layout="constrained")
    for column, (size, rows) in enumerate(growth.items()):
        for row, (measure, unit) in enumerate((("seconds", "seconds"), ("megabytes", "MB above the inputs"))):
            axis = axes[row, column]
            for job in rows[0]["seconds"]:
                values = [entry[measure][job] for entry in rows]
                if None not in values:
                    axis.plot([entry[size] for entry in rows], values, marker="o", label=job)
            axis.set(xscale="log", yscale="log")
            axis.set_xticks([entry[size] for entry in rows], [str(entry[size]) for entry in rows], rotation=45)
            axis.minorticks_off()
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.grid(alpha=0.3)
            if not column:
                axis.set_ylabel(unit)
        axes[0, column].legend()
        axes[1, column].set_xlabel(size)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    atomic_write(path, lambda target: target.write(file.getvalue()))


def main() -> None:
    """Measure, print three tables, and write the files."""
    args = parse_arguments()
    growth = {
        "patches": [measure_patches(side, args.device, args.repeats) for side in args.sides],
        "classes": [measure_classes(count, args.device, args.repeats) for count in args.classes],
        "masks": [measure_masks(count, args.device, args.repeats) for count in args.masks],
    }
    title = get_device_title(args.device)
    print(f"The method without the image tower; {title}; least of {args.repeats}; memory above the inputs")
    for rows in growth.values():
        print(f"\n{table(rows)}")
    write_report(args.output, args.device, vars(args), **growth)
    if args.picture:
        draw(growth, args.picture)


if __name__ == "__main__":
    with exit_on_interrupt():
        main()
