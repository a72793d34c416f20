"""Measure where objects are lost, by their size: in the features, in the clusters or in the naming.

    python experiments/object_sizes.py --output output/object_sizes.md
    python experiments/object_sizes.py --config-file FILE --group "" -- DATASETS.TEST "('NAME',)"

Every method of TEST.METHODS segments the data set twice: whole images, and windows of the same size at twice the
resolution. An object is a connected region of one class in the true labels; --group selects the classes. The first
table has the mIoU by size of object, whose limits are shares of the image. Objects of 3 % and more are large by COCO's
definition. For the methods of --steps, the second table has the percentage of objects whose class is

- at any pixel: the best word of at least one pixel of the object,
- by mean feature: the best word for the mean feature of the object,
- in the true mask: the label of most of its pixels, without clusters,
- in the result: the label of most of its pixels in the method's label map,
- with true names: the same, if every cluster had the class of most of its true pixels,

and of those that most pixels of the result are labelled as a class outside of the group.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.data.loader import list_records
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.data.register import get_dataset_groups
from cliptrase_d2.evaluation.confusion import confusion_matrix
from cliptrase_d2.evaluation.metrics import group_metrics
from cliptrase_d2.evaluation.object_sizes import (
    BOUNDS,
    count_objects,
    find_objects,
    find_regions,
    measure_sizes,
    size_metrics,
)
from cliptrase_d2.evaluation.runs import plan_runs
from cliptrase_d2.pipeline.classify import patch_logits, pixel_labels
from cliptrase_d2.pipeline.model import CLIPtrase, Segmentation
from cliptrase_d2.pipeline.open_vocabulary import read_patch_size
from cliptrase_d2.pipeline.proposals import mask_average_pooling
from cliptrase_d2.pipeline.upsample import region_weights
from cliptrase_d2.segmenter.build import prepare_segmenter, resolve_device
from cliptrase_d2.utils.atomic_files import atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import exit_on_interrupt

LARGE = BOUNDS[-1]  # 3 % of an image
LIMITS = (LARGE, 2 * LARGE, 4 * LARGE)
SIZES = ("under 3 %", "3 to 6 %", "6 to 12 %", "over 12 %")
STEPS = ("any pixel", "mean feature", "true mask", "result", "true names", "outside")


class TrueObject(NamedTuple):
    """An object of the true labels: index of its class, index of its size, and its pixels [H,W] bool."""

    class_index: int
    size: int
    mask: Tensor


@dataclass
class Tally:
    """Counts over the images of a data set.

    Attributes:
        confusion: [C,C] pixels.
        counts: [C,S,4] of ``count_objects``.
        hits: for every selected object its size, and whether it counts for each of ``STEPS``; None without clusters.
    """

    confusion: Tensor
    counts: Tensor
    hits: list[tuple[int, list[bool | None]]] = field(default_factory=list)


class Result(NamedTuple):
    """Numbers of a method in one setting, in percent; None where there is nothing to count.

    Attributes:
        setting, method: as in the tables.
        mean_ious: of each size, and of all objects.
        objects: number of each size.
        steps: of each size, one for each of ``STEPS``.
    """

    setting: str
    method: str
    mean_ious: list[float | None]
    objects: list[int]
    steps: list[list[float | None]]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/emoji_scenes_whole.yaml", help="model, methods and data set")
    parser.add_argument("--group", default="things", help='group of classes; "" for all (default things)')
    parser.add_argument("--steps", nargs="*", default=["maskclip", "cliptrase"], help="methods of the second table")
    parser.add_argument("--output", type=Path, help="also write the table to this Markdown file")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="after --: changes of the config")
    return parser.parse_args()


def settings(cfg: CfgNode) -> dict[str, CfgNode]:
    """Return configurations for whole images, and for windows of the same size at twice the resolution."""
    side = cfg.TEST.WINDOW if cfg.TEST.PROTOCOL == "slide" else cfg.INPUT.MIN_SIZE_TEST
    patch = read_patch_size(cfg)
    whole, windows = cfg.clone(), cfg.clone()
    for changed, protocol, short_side in ((whole, "whole", side), (windows, "slide", 2 * side)):
        changed.defrost()
        changed.TEST.PROTOCOL, changed.INPUT.MIN_SIZE_TEST = protocol, short_side
        changed.TEST.WINDOW, changed.TEST.STRIDE = side, max(patch, side // 2 // patch * patch)
        changed.INPUT.MAX_SIZE_TEST = max(short_side, cfg.INPUT.MAX_SIZE_TEST)
        changed.freeze()
    return {f"whole, {side}": whole, f"slide, {2 * side}": windows}


def select_classes(dataset: str, group: str, classes: int) -> Sequence[int]:
    """Return the class indices of a group, or of all C classes.

    Raises:
        InputError: the data set has no such group.
    """
    groups = get_dataset_groups(dataset)
    if group and group not in groups:
        allowed = ", ".join(groups) or '""'
        raise InputError("--group", f"{group!r}, which {dataset} does not have", "Name one of its groups.", allowed)
    return groups[group] if group else range(classes)


def list_objects(truth: Tensor, ignore_label: int, classes: Sequence[int]) -> list[TrueObject]:
    """Return the objects of some classes in a label map [H,W]."""
    found = []
    for regions in find_regions(truth.numpy(), ignore_label):
        if regions.class_index not in classes:
            continue
        for number, size in enumerate(measure_sizes(regions.areas, truth.numel(), LIMITS), start=1):
            mask = np.zeros(truth.shape, bool)
            mask[regions.box] = regions.numbers == number
            found.append(TrueObject(regions.class_index, int(size), torch.from_numpy(mask)))
    return found


def most_frequent(labels: Tensor, classes: int) -> int:
    """Return the most frequent class of pixels [n], the smallest of equally frequent ones."""
    return int(torch.bincount(labels, minlength=classes).argmax())


def name_clusters(assignment: Tensor, truth: Tensor, masks: int, classes: int, ignore_label: int) -> Tensor:
    """Return a label map in which every mask has the class of most of its true pixels.

    Args:
        assignment: [H,W] int64, the mask 0 to Q-1 of every pixel.
        truth: [H,W] int64, 0 to C-1 or the ignore label.
        masks: Q.
        classes: C.
        ignore_label: of pixels that are not scored.
    """
    scored = truth != ignore_label
    pairs = assignment[scored] * classes + truth[scored]
    return torch.bincount(pairs, minlength=masks * classes).view(masks, classes).argmax(1)[assignment]


def best_words(objects: Sequence[TrueObject], result: Segmentation, text: TextFeatures) -> list[int]:
    """Return the class of the best word for the mean feature of each object."""
    rows = []
    for own in objects:
        weights = region_weights(own.mask.long().to(result.features.patches.device), 2, result.features.grid)[1:]
        pooled = mask_average_pooling(weights.float(), result.features.patches[0])  # [1,D]
        best = patch_logits(pooled[None], text.features, 1.0)[0, 0].argmax()
        rows.append(int(text.class_index[best]))
    return rows


def find_hits(
    objects: Sequence[TrueObject],
    result: Segmentation,
    text: TextFeatures,
    truth: Tensor,
    ignore_label: int,
    chosen: Sequence[int],
) -> Iterator[tuple[int, list[bool | None]]]:
    """Yield for each object its size, and whether it counts for each of ``STEPS``."""
    assert result.logits is not None
    assert result.predictions is not None
    classes, masks = len(text.classes), result.masks[0]
    pixels = pixel_labels(result.logits, text.class_index, (truth.shape[0], truth.shape[1]))[0].cpu()
    label_map, named = result.predictions[0].label_map.cpu(), None
    if len(masks):
        named = name_clusters(masks.assignment.cpu(), truth, len(masks), classes, ignore_label)
    for own, best in zip(objects, best_words(objects, result, text), strict=True):
        steps: list[bool | None] = [bool((pixels[own.mask] == own.class_index).any()), best == own.class_index]
        in_mask, in_result = (most_frequent(labels[own.mask], classes) for labels in (pixels, label_map))
        steps += [in_mask == own.class_index, in_result == own.class_index]
        steps.append(None if named is None else most_frequent(named[own.mask], classes) == own.class_index)
        yield own.size, [*steps, in_result not in chosen]


@torch.inference_mode()
def measure(cfg: CfgNode, model: CLIPtrase, dataset: str, group: str) -> tuple[Tally, Sequence[int]]:
    """Segment a data set and count its objects. Return also the classes of the group.

    Raises:
        InputError: no such group, or an image or label cannot be used.
    """
    mapper = EvaluationMapper(cfg, dataset)
    classes, ignore_label = len(mapper.vocabulary.classes), mapper.label_rule.ignore_label
    chosen = select_classes(dataset, group, classes)
    tally = Tally(torch.zeros(classes, classes), torch.zeros(classes, len(SIZES), 4))
    for record in tqdm(list_records(dataset, "stop"), unit="image", disable=None):
        inputs = mapper(record)
        if "sem_seg" not in inputs:
            raise InputError(dataset, "it has no labels to compare with", "Name a data set with labels.")
        truth, text = inputs["sem_seg"], model.text_features(inputs["vocabulary"])
        result = model.segment(model.preprocess([inputs]), text, [(truth.shape[0], truth.shape[1])])
        assert result.predictions is not None
        label_map = result.predictions[0].label_map.cpu()
        tally.confusion += confusion_matrix(truth, label_map, classes, ignore_label)
        objects = find_objects(truth, ignore_label, LIMITS)
        tally.counts += count_objects([objects], [truth], [label_map], classes, len(SIZES))
        tally.hits += find_hits(list_objects(truth, ignore_label, chosen), result, text, truth, ignore_label, chosen)
    return tally, chosen


def summarize(setting: str, method: str, tally: Tally, chosen: Sequence[int]) -> Result:
    """Return the numbers of a method."""
    group = {"chosen": chosen}
    means = size_metrics(tally.counts, tally.confusion, group, SIZES)
    mean_ious = [means[f"mIoU_{size}-chosen"] for size in SIZES]
    objects, shares = [], []
    for index in range(len(SIZES)):
        own = [steps for size, steps in tally.hits if size == index]
        objects.append(len(own))
        shares.append([_percent([steps[column] for steps in own]) for column in range(len(STEPS))])
    overall = group_metrics(tally.confusion, group)["mIoU-chosen"]
    return Result(setting, method, [*mean_ious, overall], objects, shares)


def _percent(hits: Sequence[bool | None]) -> float | None:
    known = [hit for hit in hits if hit is not None]
    return 100 * sum(known) / len(known) if known else None


def compare(cfg: CfgNode, group: str) -> Iterator[Result]:
    """Yield the numbers of every method in every setting, with one model for each setting."""
    for setting, changed in settings(cfg).items():
        model = None
        for run, own in plan_runs(changed).items():
            model = prepare_segmenter(own, model)
            if not isinstance(model, CLIPtrase):
                got, fix = cfg.MODEL.META_ARCHITECTURE, "Use a configuration of CLIPtrase."
                raise InputError("MODEL.META_ARCHITECTURE", got, fix)
            method = run.method or own.MODEL.CLIPTRASE.METHOD
            yield summarize(setting, method, *measure(own, model, run.dataset, group))


def document(cfg: CfgNode, group: str, results: Sequence[Result], step_methods: Sequence[str]) -> str:
    """Format both tables in Markdown, with an explanation of their columns."""
    means = [[*one[:2], *map(_cell, one.mean_ious)] for one in results]
    steps = [
        [*one[:2], size, one.objects[index], *map(_cell, one.steps[index])]
        for one in results
        for index, size in enumerate(SIZES)
        if one.method in step_methods
    ]
    parts = [
        _table(["setting", "method", *SIZES, "all sizes"], means, 2),
        f"{cfg.MODEL.CLIP.NAME} on {cfg.DATASETS.TEST[0]}, {group or 'all classes'}: mIoU in percent by size of "
        "object, as a share of the image. Setting: protocol and short side.",
    ]
    if steps:
        parts += [
            _table(["setting", "method", "size", "objects", *STEPS], steps, 3),
            "Percent of the objects whose class is right: at any pixel; for the mean feature of the object; for most "
            "pixels of the object without clusters, a vote in the true mask; for most pixels in the method's result; "
            "for most pixels if every cluster had the class of most of its true pixels. Outside: most pixels of the "
            "object are labelled as a class outside of the group.",
        ]
    return "\n\n".join(parts) + "\n"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]], words: int) -> str:
    alignment = ["left"] * words + ["right"] * (len(headers) - words)
    return tabulate(rows, headers, "pipe", disable_numparse=True, colalign=alignment)


def main() -> None:
    """Measure, print and write the table."""
    args = parse_arguments()
    try:
        cfg = load_config(args.config_file, args.opts)
        register_builtin()
        resolve_device(cfg)
        results = list(compare(cfg, args.group))
    except InputError as error:
        sys.exit(f"error: {error}")
    text = document(cfg, args.group, results, args.steps)
    print(text, end="")
    if args.output:
        atomic_write_text(args.output, text)


if __name__ == "__main__":
    with exit_on_interrupt():
        main()
