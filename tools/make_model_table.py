"""Print the table of docs/models.md: every open_clip ViT that this package runs, its size, speed and accuracy.

    python tools/make_model_table.py --results openclip_results.csv

The file is docs/openclip_results.csv of https://github.com/mlfoundations/open_clip. It has the zero-shot accuracy on
ImageNet of every tag. Weights are random, since speed does not depend on them; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import open_clip
import torch
from open_clip.model import CLIP
from tabulate import tabulate
from torch import Tensor

from cliptrase_d2.clip import embedded
from cliptrase_d2.clip.load import build_skeleton
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.clip.weights_source import get_model_config
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import exit_on_interrupt

_REFERENCE = "ViT-B-16"
_SAME_WEIGHTS = "-quickgelu"  # ending of a second name for a model; this package derives the activation from the tag
_LEAST_PERCENT = 60  # the table omits weaker tags, most of which are studies of small training sets
Accuracies = Mapping[tuple[str, str], float]


class Row(NamedTuple):
    """A model: parameters in millions, patch and image side in pixels, accuracy in percent by tag, best tag first."""

    name: str
    parameters: float
    patch: int
    side: int
    accuracies: dict[str, float | None]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, metavar="CSV", help="openclip_results.csv")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 336], help="sides of the timed images, in pixels")
    parser.add_argument("--repeats", type=int, default=3, help="timed images of each size")
    parser.add_argument("--untimed", type=float, default=2000, help="millions of parameters from which none is timed")
    return parser.parse_args()


def find_supported() -> dict[str, CLIP]:
    """Return all ViTs of open_clip that this package runs, without weights; of two with the same weights, one."""
    models: dict[str, CLIP] = {}
    for name in set(open_clip.list_models()) - {embedded.NAME}:
        try:
            # The page describes multilingual models in words.
            if "hf_tokenizer_name" not in get_model_config(name)["text_cfg"]:
                models[name] = build_skeleton(name)
        except InputError:
            continue
    return {name: model for name, model in models.items() if name.removesuffix(_SAME_WEIGHTS) == name}


def read_accuracies(path: Path) -> Accuracies:
    """Read the accuracy on ImageNet, in percent, of each pair of model and tag."""
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["name"], row["pretrained"]): 100 * float(row["ImageNet 1k"]) for row in csv.DictReader(file)}


def describe(name: str, model: CLIP, accuracies: Accuracies) -> Row:
    """Return the row of a model. Tags without a published accuracy come last."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    names = (name + _SAME_WEIGHTS, name)  # the first is the published one where the weights need this activation
    found = {tag: next((accuracies[key, tag] for key in names if (key, tag) in accuracies), None) for tag in tags}
    best_first = dict(sorted(found.items(), key=lambda item: -(item[1] or 0)))
    patch, side = model.visual.patch_size[0], model.visual.image_size[0]
    return Row(name, sum(p.numel() for p in model.parameters()) / 1e6, patch, side, best_first)


@torch.inference_mode()
def time_towers(model: CLIP, reference: CLIP, sizes: Sequence[int], repeats: int) -> list[float]:
    """Return the CPU time of an image tower over that of the reference, for each size; both take turns."""
    towers = [VisualTower(each.visual) for each in (model, reference)]
    ratios = []
    for size in sizes:
        seconds = [[_time(tower, size) for tower in towers] for _ in range(repeats + 1)][1:]  # the first warms up
        own, other = (statistics.median(times) for times in zip(*seconds, strict=True))
        ratios.append(own / other)
    return ratios


def _time(tower: VisualTower, size: int) -> float:
    side = round(size / tower.patch_size) * tower.patch_size
    image: Tensor = torch.zeros(1, 3, side, side)
    start = time.process_time()
    tower(image)
    return time.process_time() - start


def _materialise(model: CLIP) -> CLIP:
    """Give an image tower random weights of a plausible size."""
    model.visual.to_empty(device="cpu")
    for parameter in model.visual.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model.eval().requires_grad_(False)


def format_row(row: Row, times: Sequence[float | None]) -> list[str]:
    """Return the cells of a model. A file has four bytes per parameter; "-" is an accuracy that is not published."""
    tags = [
        f"`{tag}` {'-' if percent is None else f'{percent:.1f}'}"
        for tag, percent in row.accuracies.items()
        if percent is None or percent >= _LEAST_PERCENT
    ]
    size = [f"{row.parameters:.0f} M", f"{4 * row.parameters / 1000:.1f} GB", str(row.patch), str(row.side)]
    return [row.name, *size, *("n/m" if time is None else f"{time:.1f}" for time in times), ", ".join(tags)]


def main() -> None:
    """Measure and print the table."""
    arguments = parse_arguments()
    accuracies, models = read_accuracies(arguments.results), find_supported()
    rows = [describe(name, model, accuracies) for name, model in models.items()]
    reference = _materialise(models.pop(_REFERENCE))
    table = []
    for row in sorted((row for row in rows if row.accuracies), key=lambda row: row.parameters):
        times: list[float] = []
        if row.parameters < arguments.untimed:
            times = [1.0] * len(arguments.sizes)
        if times and row.name != _REFERENCE:
            times = time_towers(_materialise(models.pop(row.name)), reference, arguments.sizes, arguments.repeats)
        table.append(format_row(row, times or [None] * len(arguments.sizes)))
        print(row.name, file=sys.stderr, flush=True)
    headers = ["Model", "Parameters", "File", "Patch", "Image", *(f"CPU {size}²" for size in arguments.sizes), "Tags"]
    print(tabulate(table, headers, tablefmt="pipe", disable_numparse=True))
    print("Without weights in open_clip:", ", ".join(row.name for row in rows if not row.accuracies))


if __name__ == "__main__":
    with exit_on_interrupt():
        main()
