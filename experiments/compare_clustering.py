"""Compare ways of clustering at several sizes of the image: what one fixed radius costs, and what does without one.

    python experiments/compare_clustering.py

on the emoji scenes; takes a few minutes on two cores. DBSCAN's radius is also tuned for every size, on scenes that are
drawn for it with another seed and on which nothing is scored. Every image is encoded once per size.
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
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import Method, PatchScene
from cliptrase_d2.segmenter.build import build_cliptrase
from cliptrase_d2.segmenter.device import resolve_device
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import clean_end

RADII = tuple(round(0.1 * tenths, 1) for tenths in range(3, 15))


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/emoji_scenes.yaml", help="model, protocol and data set")
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
class SeenImage:
    """An image behind the image tower, with all that no clustering changes.

    Attributes:
        scene: of this image alone.
        logits: [R,h,w] of every word.
        text: of the words.
        truth: [H,W] classes.
    """

    scene: PatchScene
    logits: Tensor
    text: TextFeatures
    truth: Tensor


class Score(NamedTuple):
    """What a clustering gives: percent, and clusters per image."""

    pixel_accuracy: float
    mean_iou: float
    clusters: float


class Row(NamedTuple):
    """A line of the table."""

    side: int
    title: str
    score: Score


def mapper_of(cfg: CfgNode, model: CLIPtrase, dataset: str, side: int) -> EvaluationMapper:
    """Reads a data set by the configuration's protocol at another size."""
    return EvaluationMapper.for_dataset(
        dataset,
        protocol=cfg.TEST.PROTOCOL,
        short_side=side,
        max_size=max(side, cfg.INPUT.MAX_SIZE_TEST),
        patch_size=model.tower.patch_size,
    )


@torch.inference_mode()
def encode(cfg: CfgNode, model: CLIPtrase, dataset: str, side: int) -> list[SeenImage]:
    """Every image of a data set at one size, through the image tower.

    Raises:
        InputError: no such data set, or an image or label that cannot be used.
    """
    mapper = mapper_of(cfg, model, dataset, side)
    seen = []
    for record in tqdm(list_records(dataset, "stop"), desc=f"{side} pixels", unit="image", disable=None):
        inputs = mapper(record)
        if "sem_seg" not in inputs:
            raise InputError(dataset, "no labels", "Name a data set that has them.", allowed="labels, to score with")
        text = model.text_features(inputs)
        scene = model.see(model.tower.normalise(inputs["image"].to(model.device))[None])
        logits = model.method.word_logits(scene, text, model.clip.logit_scale.exp())
        seen.append(SeenImage(scene, logits, text, inputs["sem_seg"]))
    return seen


@torch.inference_mode()
def score(method: Method, images: Iterable[SeenImage], ignore_label: int) -> Score:
    """Cluster, name and count; pure functions of what was seen."""
    confusion, clusters, count = torch.zeros((), dtype=torch.int64), 0, 0
    for image in images:
        size = (image.truth.shape[0], image.truth.shape[1])
        masks = method.propose(image.scene, method.cluster(image.scene.correlation), size)
        labels = method.classify(masks, image.logits, image.text)[0].label_map
        confusion = confusion + confusion_matrix(image.truth, labels, len(image.text.classes), ignore_label)
        clusters, count, classes = clusters + len(masks[0]), count + 1, image.text.classes
    numbers = segmentation_metrics(confusion, classes)
    return Score(numbers["pAcc"], numbers["mIoU"], clusters / count)


def clusterings(method: Method) -> dict[str, Method]:
    """What is compared with a tuned radius: title -> method."""
    return {
        "none (every pixel for itself)": replace(method, clustering="none"),
        f"DBSCAN, fixed: ε {method.eps:g}, {method.min_samples}": _dbscan(method, method.eps),
        "DBSCAN, resolution-free: ε 0.05·√N, N/65": replace(method, clustering="dbscan", adaptive_dbscan=True),
        f"HDBSCAN, smallest cluster {method.min_cluster_size}": replace(method, clustering="hdbscan"),
    }


def tuned(method: Method, images: Sequence[SeenImage], radii: Sequence[float], ignore_label: int) -> float:
    """The radius of the best mIoU; among equals the first."""
    return max(radii, key=lambda radius: score(_dbscan(method, radius), images, ignore_label).mean_iou)


def compare(
    cfg: CfgNode, model: CLIPtrase, tuning_dataset: str, sides: Sequence[int], radii: Sequence[float]
) -> Iterator[Row]:
    """The lines of the table, size by size."""
    dataset = cfg.DATASETS.TEST[0]
    for side in sides:
        ignore_label = mapper_of(cfg, model, dataset, side).label_rule.ignore_label
        best = tuned(model.method, encode(cfg, model, tuning_dataset, side), radii, ignore_label)
        images = encode(cfg, model, dataset, side)
        methods: Mapping[str, Method] = {
            **clusterings(model.method),
            f"DBSCAN, tuned: ε {best:g}, {model.method.min_samples}": _dbscan(model.method, best),
        }
        for title, method in methods.items():
            yield Row(side, title, score(method, images, ignore_label))


def document(cfg: CfgNode, rows: Iterable[Row], tuning_scenes: int, tuning_seed: int) -> str:
    """The table, and under it what was measured."""
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


def _dbscan(method: Method, radius: float) -> Method:
    return replace(method, clustering="dbscan", adaptive_dbscan=False, eps=radius)


def _counts(total: int) -> dict[str, int]:
    """Scenes of every split, in the shares of those that are shipped; at least one."""
    return {split: max(1, round(total * count / sum(SHIPPED.values()))) for split, count in SHIPPED.items()}


def main() -> None:
    """Draw scenes to tune on, compare, print and write the table."""
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
    with clean_end():
        main()
