"""How time and memory of the method grow: with patches, with classes at two megapixels, and with masks.

    python tools/benchmark_growth.py --picture docs/pictures/growth.png

The image tower is left out. Patches and words are random, correlations those of blocks of patches; needs matplotlib
(extra [plot]) for the picture.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn.functional import normalize

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.pipeline.correlation import self_correlation, suppress_global_patches
from cliptrase_d2.pipeline.settings import Method, PatchScene
from cliptrase_d2.utils.atomic_files import atomic_write
from cliptrase_d2.utils.interruption import clean_end
from tools.profiling import blocks, device_title, peak_megabytes, write_report

BACKENDS = (14, 21, 32, 40, 48, 56, 64)  # of a square grid; 64² = 4096 patches are an image of 1024² pixels
CLASSES = (20, 171, 847, 2500, 10000)
MASKS = (5, 20, 80, 320)
GRID, PIXELS = (40, 80), (1024, 2048)  # two megapixels, which the model sees at 640×1280
_WIDTH = 512  # of the joint space
_HEADS, _HEAD_WIDTH = 12, 64
_PATCH = 16


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=list(BACKENDS), help="patches on a side of the grid")
    parser.add_argument("--classes", type=int, nargs="+", default=list(CLASSES))
    parser.add_argument("--masks", type=int, nargs="+", default=list(MASKS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="file for the numbers as JSON")
    parser.add_argument("--picture", type=Path, help="file for the curves as PNG")
    return parser.parse_args()


def scene_of(grid: tuple[int, int], count: int, device: str) -> tuple[PatchScene, Tensor]:
    """Random patches whose correlation is that of `count` blocks, and the blocks [1,N]."""
    generator = torch.Generator().manual_seed(0)
    side = max(grid)
    labels = blocks(1, side, count).view(1, side, side)[:, : grid[0], : grid[1]].flatten(1)
    labels = labels.unique(return_inverse=True)[1]  # [1,N]
    patches = normalize(torch.randn(1, grid[0] * grid[1], _WIDTH, generator=generator), dim=-1)
    rows = (labels[0][:, None] == labels[0]).float() + 0.1 * torch.rand(labels.shape[1], labels.shape[1])
    scene = PatchScene(patches.to(device), patches[:, 0].to(device), rows[None].to(device), grid)
    return scene, labels.to(device)


def words_of(count: int, device: str) -> TextFeatures:
    """Random words, one per class."""
    features = normalize(torch.randn(count, _WIDTH, generator=torch.Generator().manual_seed(1)), dim=-1)
    return TextFeatures(features.to(device), torch.arange(count, device=device), tuple(map(str, range(count))))


@torch.inference_mode()
def with_patches(side: int, device: str, repeats: int) -> dict[str, Any]:
    """Correlation, clustering, masks and naming of 171 classes, on a square grid."""
    grid, pixels = (side, side), (side * _PATCH, side * _PATCH)
    method, scale = Method(adaptive_dbscan=True), torch.tensor(100.0, device=device)
    heads = torch.randn(3, 1, _HEADS, side * side + 1, _HEAD_WIDTH, device=device)
    scene, labels = scene_of(grid, 20, device)
    text = words_of(171, device)
    masks = method.propose(scene, labels, pixels)
    jobs = {
        "correlation": lambda: suppress_global_patches(self_correlation(*heads)),
        "clustering": lambda: method.cluster(scene.correlation),
        "masks": lambda: method.propose(scene, labels, pixels),
        "naming": lambda: method.classify(masks, method.word_logits(scene, text, scale), text),
    }
    return {"patches": side * side} | measured(jobs, device, repeats)


@torch.inference_mode()
def with_classes(count: int, device: str, repeats: int) -> dict[str, Any]:
    """Naming 20 masks of two megapixels."""
    method, scale = Method(adaptive_dbscan=True), torch.tensor(100.0, device=device)
    scene, labels = scene_of(GRID, 20, device)
    masks, text = method.propose(scene, labels, PIXELS), words_of(count, device)
    naming = lambda: method.classify(masks, method.word_logits(scene, text, scale), text)  # noqa: E731
    return {"classes": count} | measured({"naming": naming}, device, repeats)


@torch.inference_mode()
def with_masks(count: int, device: str, repeats: int) -> dict[str, Any]:
    """Making masks of two megapixels, without and with their soft maps."""
    method = Method(adaptive_dbscan=True)
    scene, labels = scene_of(GRID, count, device)
    jobs = {
        "masks": lambda: method.propose(scene, labels, PIXELS),
        "masks and soft maps": lambda: method.propose(scene, labels, PIXELS)[0].soft_masks(),
    }
    return {"masks": int(labels.max()) + 1} | measured(jobs, device, repeats)


def measured(jobs: dict[str, Callable[[], object]], device: str, repeats: int) -> dict[str, Any]:
    """Least seconds and most megabytes of every job."""
    seconds = {name: min(_seconds(job, device) for _ in range(repeats)) for name, job in jobs.items()}
    megabytes = {name: peak_megabytes(device, job) for name, job in jobs.items()}
    return {"seconds": seconds, "megabytes": megabytes}


def _seconds(job: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    job()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def table(rows: list[dict[str, Any]]) -> str:
    """Seconds and megabytes of every job, a row per size."""
    size, *_ = rows[0]
    jobs = list(rows[0]["seconds"])
    headers = [size, *(f"{job}, s" for job in jobs), *(f"{job}, MB" for job in jobs)]
    body = []
    for row in rows:
        memory = ("-" if row["megabytes"][job] is None else f"{row['megabytes'][job]:.0f}" for job in jobs)
        body.append([row[size], *(f"{row['seconds'][job]:.3f}" for job in jobs), *memory])
    return tabulate(body, headers=headers, disable_numparse=True, stralign="right")


def draw(growth: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The curves, time above and memory below, a column per size that grows."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(2, len(growth), figsize=(4 * len(growth), 6), sharex="col", layout="constrained")
    for column, (size, rows) in enumerate(growth.items()):
        for row, (measure, unit) in enumerate((("seconds", "seconds"), ("megabytes", "MB above the inputs"))):
            axis = axes[row, column]
            for job in rows[0]["seconds"]:
                values = [of[measure][job] for of in rows]
                if None not in values:
                    axis.plot([of[size] for of in rows], values, marker="o", label=job)
            axis.set(xscale="log", yscale="log")
            axis.set_xticks([of[size] for of in rows], [str(of[size]) for of in rows], rotation=45)
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
    """Measure, print three tables, write what was asked for."""
    args = parse_arguments()
    growth = {
        "patches": [with_patches(side, args.device, args.repeats) for side in args.sides],
        "classes": [with_classes(count, args.device, args.repeats) for count in args.classes],
        "masks": [with_masks(count, args.device, args.repeats) for count in args.masks],
    }
    title = device_title(args.device)
    print(f"The method without the image tower; {title}; least of {args.repeats}; memory above the inputs")
    for rows in growth.values():
        print(f"\n{table(rows)}")
    write_report(args.output, args.device, vars(args), **growth)
    if args.picture:
        draw(growth, args.picture)


if __name__ == "__main__":
    with clean_end():
        main()
