"""Compare clusterings at several image sizes: a fixed, an adaptive and a tuned radius of DBSCAN, and HDBSCAN.

    python experiments/compare_clustering.py

The comparison runs on the emoji scenes and takes a few minutes on two cores. DBSCAN's radius is tuned for every size on
scenes of another seed, which are not scored. Every image is encoded once per size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.emoji_scenes.files import SHIPPED, write_scenes
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.register import register_spec
from cliptrase_d2.evaluation.confusion import confusion_matrix
from cliptrase_d2.evaluation.evaluate import require_datasets
from cliptrase_d2.evaluation.metrics import segmentation_metrics
from cliptrase_d2.pipeline import stages
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.segmenter.build import build_cliptrase, resolve_device
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import exit_on_interrupt

RADII = tuple(round(0.1 * tenths, 1) for tenths in range(3, 15))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/emoji_scenes_whole.yaml", help="model, protocol and data set")
    parser.add_argument("--sizes", type=int, nargs="+", default=[80, 112, 160], help="short sides in pixels")
    parser.add_argument("--radii", type=float, nargs="+", default=RADII, help="of DBSCAN that are tried in tuning")
    parser.add_argument("--tuning-scenes", type=int, default=96, help="about this many are drawn")
    parser.add_argument("--tuning-seed", type=int, default=1, help="of their drawing; 0 is that of the shipped scenes")
    parser.add_argument("--output", type=Path, help="file for the table, Markdown")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="after --: changes of the config")
    args = parser.parse_args()
    if args.tuning_scenes < len(SHIPPED):
        parser.error(f"--tuning-scenes {args.tuning_scenes}: at least {len(SHIPPED)}, one of each split")
    if args.tuning_seed < 1:
        parser.error(f"--tuning-seed {args.tuning_seed}: must be at least 1, for 0 drew the scenes that are scored")
    return args


@dataclass(frozen=True)
class EncodedImage:
    """An image after the image tower, with all that does not depend on the clustering.

    Attributes:
        correlation: [1,N,N].
        grid: (h, w) with h·w = N.
        logits: [1,R,h,w] of every word.
        text: of the words.
        truth: [H,W] classes.
    """

    correlation: Tensor
    grid: tuple[int, int]
    logits: Tensor
    text: TextFeatures
    truth: Tensor


class Score(NamedTuple):
    """Result of a clustering: percent, and clusters per image."""

    pixel_accuracy: float
    mean_iou: float
    clusters: float


class Row(NamedTuple):
    """A row of the table."""

    side: int
    title: str
    score: Score


def build_mapper(cfg: CfgNode, model: CLIPtrase, dataset: str, side: int) -> EvaluationMapper:
    """Return a mapper that reads a data set by the configuration's protocol at another size."""
    return EvaluationMapper.for_dataset(
        dataset,
        protocol=cfg.TEST.PROTOCOL,
        short_side=side,
        max_size=max(side, cfg.INPUT.MAX_SIZE_TEST),
        patch_size=model.tower.patch_size,
    )


@torch.inference_mode()
def encode(cfg: CfgNode, model: CLIPtrase, dataset: str, side: int) -> list[EncodedImage]:
    """Encode every image of a data set at one size.

    Raises:
        InputError: the data set is unknown or has no labels, or an image or label cannot be used.
    """
    mapper, scale = build_mapper(cfg, model, dataset, side), model.clip.logit_scale.exp()
    images = []
    for record in tqdm(list_records(dataset, "stop"), desc=f"{side} pixels", unit="image", disable=None):
        inputs = mapper(record)
        if "sem_seg" not in inputs:
            raise InputError(dataset, "it has no labels to score with", "Name a data set with labels.")
        text = model.text_features(inputs["vocabulary"])
        features, correlation = model.encode_image(model.preprocess([inputs]))
        if features is None or correlation is None:
            fix = "Use a configuration with clusters of CLIP's own correlation."
            raise InputError("MODEL.CLIPTRASE.CLUSTERING", "the configuration has no correlation to cluster", fix)
        logits = stages.compute_word_logits(features, text, scale, model.settings)
        images.append(EncodedImage(correlation, features.grid, logits, text, inputs["sem_seg"]))
    return images


@torch.inference_mode()
def score(settings: CLIPtraseSettings, images: Iterable[EncodedImage], ignore_label: int) -> Score:
    """Cluster, classify and score encoded images."""
    confusion, clusters, count = torch.zeros((), dtype=torch.int64), 0, 0
    for image in images:
        size = (image.truth.shape[0], image.truth.shape[1])
        labels = stages.cluster(image.correlation, settings)
        masks = stages.propose(image.correlation, labels, image.grid, [size], settings)
        label_map = stages.classify_masks(masks, image.logits, image.text, settings)[0].label_map
        confusion = confusion + confusion_matrix(image.truth, label_map, len(image.text.classes), ignore_label)
        clusters, count, classes = clusters + len(masks[0]), count + 1, image.text.classes
    numbers = segmentation_metrics(confusion, classes)
    return Score(numbers["pAcc"], numbers["mIoU"], clusters / count)


def get_clusterings(settings: CLIPtraseSettings) -> dict[str, CLIPtraseSettings]:
    """Return the clusterings to compare with a tuned radius: title to settings."""
    return {
        "none (per pixel)": replace(settings, clustering="none"),
        f"DBSCAN, fixed: ε {settings.eps:g}, {settings.min_samples}": _set_radius(settings, settings.eps),
        "DBSCAN, adaptive: ε 0.05·√N, N/65": replace(settings, clustering="dbscan", adaptive_dbscan=True),
        f"HDBSCAN, smallest cluster {settings.min_cluster_size}": replace(settings, clustering="hdbscan"),
    }


def tune(
    settings: CLIPtraseSettings, images: Sequence[EncodedImage], radii: Sequence[float], ignore_label: int
) -> float:
    """Return the radius with the best mIoU, the first of equal ones."""
    return max(radii, key=lambda radius: score(_set_radius(settings, radius), images, ignore_label).mean_iou)


def compare(
    cfg: CfgNode, model: CLIPtrase, tuning_dataset: str, sides: Sequence[int], radii: Sequence[float]
) -> Iterator[Row]:
    """Yield the rows of the table, size by size."""
    dataset = cfg.DATASETS.TEST[0]
    for side in sides:
        ignore_label = build_mapper(cfg, model, dataset, side).label_rule.ignore_label
        best = tune(model.settings, encode(cfg, model, tuning_dataset, side), radii, ignore_label)
        images = encode(cfg, model, dataset, side)
        clusterings: Mapping[str, CLIPtraseSettings] = {
            **get_clusterings(model.settings),
            f"DBSCAN, tuned: ε {best:g}, {model.settings.min_samples}": _set_radius(model.settings, best),
        }
        for title, settings in clusterings.items():
            yield Row(side, title, score(settings, images, ignore_label))


def document(cfg: CfgNode, rows: Iterable[Row], tuning_scenes: int, tuning_seed: int) -> str:
    """Format the table and the environment of the measurement."""
    body = [
        [row.side, row.title, *(f"{number:.2f}" for number in row.score[:2]), f"{row.score.clusters:.1f}"]
        for row in rows
    ]
    headers = ["short side", "clustering", "pAcc", "mIoU", "clusters"]
    table = tabulate(body, headers, "pipe", disable_numparse=True, colalign=("right", "left", *["right"] * 3))
    return (
        f"{table}\n\n{cfg.MODEL.CLIP.NAME} on {cfg.DATASETS.TEST[0]}, protocol {cfg.TEST.PROTOCOL}; percent, and "
        f"clusters per image. ε tuned by mIoU on {tuning_scenes} emoji scenes of seed {tuning_seed}. DBSCAN's second "
        "number is min_samples.\n"
    )


def _set_radius(settings: CLIPtraseSettings, radius: float) -> CLIPtraseSettings:
    return replace(settings, clustering="dbscan", adaptive_dbscan=False, eps=radius)


def _counts(total: int) -> dict[str, int]:
    """Return the number of scenes of every split, in the shipped proportions and at least one."""
    return {split: max(1, round(total * count / sum(SHIPPED.values()))) for split, count in SHIPPED.items()}


def main() -> None:
    """Draw scenes for tuning, compare, print and write the table."""
    args = parse_arguments()
    try:
        cfg = load_config(args.config_file, args.opts)
        register_builtin()
        require_datasets(cfg.DATASETS.TEST)
        resolve_device(cfg)
        model, counts = build_cliptrase(cfg), _counts(args.tuning_scenes)
        with TemporaryDirectory() as folder:
            write_scenes(Path(folder), counts, seed=args.tuning_seed)
            tuning = replace(read_dataset_file(Path(folder) / "dataset.yaml"), name=f"tuning_{Path(folder).name}")
            rows = list(compare(cfg, model, register_spec(tuning), args.sizes, args.radii))
    except InputError as error:
        sys.exit(f"error: {error}")
    text = document(cfg, rows, sum(counts.values()), args.tuning_seed)
    print(text, end="")
    if args.output:
        atomic_write_text(args.output, text)


if __name__ == "__main__":
    with exit_on_interrupt():
        main()
