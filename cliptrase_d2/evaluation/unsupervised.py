"""Unsupervised evaluation: the masks of a whole data set are clustered into groups, and groups are matched to classes.

Source: CLIPtrase supplement, B.3 and Table 5; matching and protocol as in PiCIE (https://arxiv.org/abs/2103.17070).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from cliptrase_d2.d2 import comm
from cliptrase_d2.data.rendering import join_ranges
from cliptrase_d2.evaluation.confusion import Counts
from cliptrase_d2.evaluation.evaluator import SegmentationEvaluator
from cliptrase_d2.utils.errors import InputError

_DECIMALS = 4  # of features: lower digits depend on the batch and must not decide a group


def count_classes(assignment: Tensor, truth: Tensor, num_masks: int, num_classes: int, ignore_label: int) -> Tensor:
    """Count the pixels of each class in every mask.

    Args:
        assignment: [H,W] int64, the mask 0 to Q-1 of every pixel.
        truth: [H,W] int64, the class 0 to C-1 of every pixel, or the ignore label.
        num_masks: Q.
        num_classes: C.
        ignore_label: of pixels that are not scored.
    Returns:
        [Q,C] int64.
    """
    scored = truth != ignore_label
    pairs = assignment[scored] * num_classes + truth[scored]
    return torch.bincount(pairs, minlength=num_masks * num_classes).view(num_masks, num_classes)


def group_masks(features: np.ndarray, pixels: np.ndarray, num_groups: int, seed: int) -> np.ndarray:
    """Cluster masks by mini-batch k-means on the directions of their features, weighted by their pixels.

    Args:
        features: [M,D], of any length above 0.
        pixels: [M] >= 0.
        num_groups: G.
        seed: of k-means.
    Returns:
        [M] int64, the group 0 to G-1 of every mask.
    Raises:
        InputError: fewer masks than groups.
    """
    if len(features) < num_groups:
        got = f"{num_groups} groups, but the data set has only {len(features)} masks"
        raise InputError("TEST.UNSUPERVISED_GROUPS", got, "Lower it, or choose a clustering that finds more masks.")
    directions = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    kmeans = MiniBatchKMeans(n_clusters=num_groups, random_state=seed, batch_size=4096, n_init=10)
    return kmeans.fit(np.round(directions, _DECIMALS), sample_weight=pixels).labels_.astype(np.int64)


def match_groups(counts: np.ndarray) -> np.ndarray:
    """Match every group to a class of its own so that most pixels are correct (Hungarian algorithm).

    Args:
        counts: [C,G] pixels, rows classes, columns groups; G <= C.
    Returns:
        [G] int64, the class of each group; where G < C some classes have none.
    """
    classes, groups = linear_sum_assignment(counts, maximize=True)
    assert len(groups) == counts.shape[1]  # the evaluator checks that there are no more groups than classes
    matched = np.empty(len(groups), dtype=np.int64)
    matched[groups] = classes
    return matched


class UnsupervisedEvaluator(SegmentationEvaluator):
    """Groups the masks of a data set, matches the groups to its classes, and reports as its parent class does.

    The model returns ``mask_features`` [Q,D] and ``assignment`` [H,W] for every image. metrics.json also has
    ``groups``: their number, the number of masks, and the class of each. Classes are known only after the last image,
    so predictions and overlays are written then, and an unfinished evaluation cannot be resumed.

    Args:
        groups: G, at most the number of classes.
        seed: of k-means.
        dataset_name, output_dir, arguments: as in the parent class.
    Raises:
        InputError: more groups than classes.
    """

    def __init__(self, dataset_name: str, output_dir: str, *, groups: int, seed: int, **arguments: Any):
        super().__init__(dataset_name, output_dir, **arguments)
        if not 1 <= groups <= len(self.classes):
            allowed = f"1 to {len(self.classes)} (the number of classes), or 0 to name classes by text"
            raise InputError("TEST.UNSUPERVISED_GROUPS", groups, "Change it.", allowed)
        self.num_groups = groups
        self.seed = seed

    def reset(self) -> None:
        """Discard all counts and masks."""
        super().reset()
        # Of each image: file name, features [Q,D] float32 and pixels of each class [Q,C] int64 of its masks.
        self._masks: list[tuple[str, np.ndarray, np.ndarray]] = []
        self._assignments: dict[str, tuple[bytes, tuple[int, int]]] = {}
        self._overlay_data: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Store the masks of a batch.

        Args:
            inputs: as in the parent class, with ``sem_seg``.
            outputs: dicts with ``assignment`` [H,W] and ``mask_features`` [Q,D], in the same order.
        Raises:
            InputError: an image without labels.
        """
        for image, output in zip(inputs, outputs, strict=True):
            file_name = image["file_name"]
            if "sem_seg" not in image:
                fix = "Add labels, or set TEST.UNSUPERVISED_GROUPS 0."
                raise InputError(file_name, "no labels to match groups to", fix)
            truth, assignment = image["sem_seg"].cpu().long(), output["assignment"].cpu()
            features = output["mask_features"].float().cpu()
            pixels = count_classes(assignment, truth, len(features), len(self.classes), self.ignore_label)
            self._masks.append((file_name, features.numpy(), pixels.numpy()))
            self.counts.ignored += int((truth == self.ignore_label).sum())
            if bool((truth == self.ignore_label).all()):
                self.counts.without_valid_label.append(file_name)
            if self.save_predictions or file_name in self.overlays:
                compressed = zlib.compress(assignment.numpy().astype(np.uint32).tobytes())
                self._assignments[file_name] = compressed, assignment.shape
            if file_name in self.overlays:
                self._overlay_data[file_name] = image, output
            self.counts.images += 1
            self.counts.raw_range = join_ranges([self.counts.raw_range, image.get("raw_range")])

    def evaluate(self, earlier: Counts | None = None) -> dict[str, dict[str, float]]:
        """Group the masks, match the groups, write the files of the parent class, and log the table.

        Args:
            earlier: None or empty; masks of earlier runs are not kept.
        Returns:
            As the parent class; empty in every process but the main one.
        Raises:
            InputError: fewer masks than groups.
        """
        masks = [image_masks for share in comm.all_gather(self._masks) for image_masks in share]
        masks.sort(key=itemgetter(0))  # independent of the number of processes and workers
        solution = comm.all_gather(self._solve(masks) if comm.is_main_process() else None)[0]
        mask_classes, confusion, self.context["groups"] = solution
        self._write_predictions(mask_classes)
        if comm.is_main_process():  # counted once, because the parent class sums over the processes
            self.counts.confusion = torch.from_numpy(confusion)
        return super().evaluate(earlier)

    def _solve(
        self, masks: Sequence[tuple[str, np.ndarray, np.ndarray]]
    ) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, Any]]:
        """Return the class of every mask by file name, the confusion matrix [C,C], and ``groups`` of metrics.json."""
        file_names, image_features, image_pixels = zip(*masks, strict=True)
        features, pixels = np.concatenate(image_features), np.concatenate(image_pixels)  # [M,D], [M,C]
        groups = group_masks(features, pixels.sum(1), self.num_groups, self.seed)  # [M]
        counts = np.zeros((len(self.classes), self.num_groups), dtype=np.int64)
        np.add.at(counts.T, groups, pixels)
        matched = match_groups(counts)
        confusion = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        confusion[:, matched] = counts
        mask_classes = np.split(matched[groups], np.cumsum([len(rows) for rows in image_pixels])[:-1])
        names = [self.classes[index] for index in matched]
        facts = {"count": self.num_groups, "masks": len(features), "classes": names}
        return dict(zip(file_names, mask_classes, strict=True)), confusion, facts

    def _write_predictions(self, mask_classes: Mapping[str, np.ndarray]) -> None:
        for file_name, (compressed, shape) in self._assignments.items():
            assignment = np.frombuffer(zlib.decompress(compressed), dtype=np.uint32).reshape(shape)  # [H,W]
            label_map = torch.from_numpy(mask_classes[file_name][assignment])
            if file_name in self._overlay_data:
                image, output = self._overlay_data[file_name]
                self.draw(image, {**output, "label_map": label_map})
            if self.save_predictions:
                self.save(file_name, label_map)
