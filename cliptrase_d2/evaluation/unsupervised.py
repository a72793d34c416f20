"""Scores a data set without a word: masks are grouped by their features, groups are matched to classes once."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cliptrase_d2.d2 import comm
from cliptrase_d2.evaluation.counts import Counts
from cliptrase_d2.evaluation.evaluator import SegmentationEvaluator
from cliptrase_d2.evaluation.grouping import group_masks, mask_histograms, match_groups
from cliptrase_d2.utils.errors import InputError


@dataclass(frozen=True)
class _ImageMasks:
    """What is kept of one image until all have been seen.

    Attributes:
        file_name: of the image.
        features: [Q,D] float32.
        histograms: [Q,C] int64 pixels of each class.
    """

    file_name: str
    features: np.ndarray
    histograms: np.ndarray


class UnsupervisedEvaluator(SegmentationEvaluator):
    """Groups the masks of a data set, matches the groups to its classes, and reports as its parent does.

    The model gives ``mask_features`` [Q,D] and ``assignment`` [H,W] of every image. metrics.json also says ``groups``:
    how many, of how many masks, and the class of each. Nothing is known before the last image, so predictions and
    pictures are written then, and what an unfinished run has seen is not kept.

    Args:
        groups: G, at most as many as there are classes.
        seed: of the k-means.
        dataset_name, output_dir, arguments: as of the parent.
    Raises:
        InputError: more groups than classes.
    """

    def __init__(self, dataset_name: str, output_dir: str, *, groups: int, seed: int, **arguments: Any):
        super().__init__(dataset_name, output_dir, **arguments)
        if not 1 <= groups <= len(self.classes):
            allowed = f"1 to {len(self.classes)}, the number of classes, for a class is matched to at most one group"
            raise InputError(
                "TEST.UNSUPERVISED_GROUPS", groups, "Change it, or set 0 to name classes by words.", allowed=allowed
            )
        self.num_groups = groups
        self.seed = seed

    def reset(self) -> None:
        """Forget what was seen."""
        super().reset()
        self._masks: list[_ImageMasks] = []
        self._assignments: dict[str, tuple[bytes, tuple[int, int]]] = {}
        self._pictures: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Take in a batch.

        Args:
            inputs: as of the parent, with ``sem_seg``.
            outputs: dicts with ``assignment`` [H,W] and ``mask_features`` [Q,D], of the same order.
        Raises:
            InputError: an image without labels.
        """
        for given, result in zip(inputs, outputs, strict=True):
            file_name = given["file_name"]
            if "sem_seg" not in given:
                fix = "Add labels, or set TEST.UNSUPERVISED_GROUPS 0."
                raise InputError(file_name, "no labels", fix, allowed="labels, for groups are matched to them")
            self._masks.append(self._seen(file_name, given["sem_seg"], result))
            if bool((given["sem_seg"] == self.ignore_label).all()):
                self.counts.without_valid_label.append(file_name)
            if self.save_predictions or file_name in self.overlays:
                assignment = result["assignment"].cpu().numpy().astype(np.uint32)
                self._assignments[file_name] = zlib.compress(assignment.tobytes()), assignment.shape
            if file_name in self.overlays:
                self._pictures[file_name] = given, result
            self.counts.images += 1

    def evaluate(self, earlier: Counts | None = None) -> dict[str, dict[str, float]]:
        """Group, match, write what the parent writes, and log the table.

        Args:
            earlier: None, for what earlier runs have counted cannot be grouped any more.
        Returns:
            As the parent; empty in every process but the first.
        Raises:
            InputError: fewer masks than groups.
        """
        assert earlier is None
        everything = [image for share in comm.all_gather(self._masks) for image in share]
        everything.sort(key=lambda image: image.file_name)  # the same, however many processes and workers there are
        solved = self._solve(everything) if comm.is_main_process() else None
        found = comm.all_gather(solved)[0]
        assert found is not None  # the first process has it
        class_of_mask, confusion, facts = found
        self._write_pictures(class_of_mask)
        if comm.is_main_process():  # counted once, for the parent adds up the processes
            self.counts.confusion = torch.from_numpy(confusion)
        self.context["groups"] = facts
        return super().evaluate()

    def _seen(self, file_name: str, truth: Tensor, result: Mapping[str, Any]) -> _ImageMasks:
        features = result["mask_features"].float().cpu()
        assignment = result["assignment"].cpu()
        histograms = mask_histograms(
            assignment, truth.cpu().long(), len(features), len(self.classes), self.ignore_label
        )
        return _ImageMasks(file_name, features.numpy(), histograms.numpy())

    def _solve(self, images: Sequence[_ImageMasks]) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, Any]]:
        """Class of every mask by file name, the confusion matrix [C,C], and what metrics.json says of the groups."""
        features = np.concatenate([image.features for image in images])  # [M,D]
        histograms = np.concatenate([image.histograms for image in images])  # [M,C]
        groups = group_masks(features, histograms.sum(1), self.num_groups, self.seed)  # [M]
        counts = np.zeros((len(self.classes), self.num_groups), dtype=np.int64)
        np.add.at(counts.T, groups, histograms)
        matched = match_groups(counts)
        confusion = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        confusion[:, matched] = counts
        ends = np.cumsum([len(image.features) for image in images])[:-1]
        of_images = np.split(matched[groups], ends)
        facts = {
            "count": self.num_groups,
            "masks": len(features),
            "classes": [self.classes[index] for index in matched],
        }
        return {image.file_name: of for image, of in zip(images, of_images, strict=True)}, confusion, facts

    def _write_pictures(self, class_of_mask: Mapping[str, np.ndarray]) -> None:
        for file_name, (packed, shape) in self._assignments.items():
            assignment = np.frombuffer(zlib.decompress(packed), dtype=np.uint32).reshape(shape)  # [H,W]
            label_map = torch.from_numpy(class_of_mask[file_name][assignment])
            if file_name in self._pictures:
                given, result = self._pictures[file_name]
                self.draw(given, {**result, "label_map": label_map})
            if self.save_predictions:
                self.save(file_name, label_map)
