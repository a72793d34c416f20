"""Scores a data set image by image and writes what it found."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.d2 import DatasetEvaluator, comm
from cliptrase_d2.data.register import dataset_groups, dataset_labels
from cliptrase_d2.evaluation.confusion import confusion_of_images
from cliptrase_d2.evaluation.counts import Counts, total
from cliptrase_d2.evaluation.metrics import MEANS, group_metric_names, group_metrics, segmentation_metrics
from cliptrase_d2.evaluation.report.artefacts import write_confusion, write_gallery_entry
from cliptrase_d2.evaluation.table import format_table
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text
from cliptrase_d2.utils.device_copies import stack_to_device
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.picture import evaluation_picture

logger = logging.getLogger(__name__)


def results_folder(output_dir: str | Path, dataset_name: str) -> Path:
    """Where metrics.json and the predictions of a data set lie."""
    return Path(output_dir) / "inference" / dataset_name


def metric_names(dataset_name: str) -> list[str]:
    """What an evaluation on a data set reports: the six means, and two numbers for every group of its classes."""
    return [*MEANS, *group_metric_names(dataset_groups(dataset_name))]


def mean_numbers(report: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of ``metric_names`` in metrics.json, in percent; NaN where there was nothing to score."""
    names = metric_names(report["dataset"])
    return {name: float("nan") if report[name] is None else report[name] for name in names}


class SegmentationEvaluator(DatasetEvaluator):
    """Sums one confusion matrix over a data set, in all processes, and reports the metrics.

    Results go to ``output_dir/inference/<data set>``: ``metrics.json``, ``confusion.npz``,
    ``predictions/<image stem>.png``, ``overlays/<image stem>.jpg`` and ``gallery/``; `require_distinct_stems` tells of
    images that would write to one file.

    Attributes:
        counts: what this process has counted.

    Args:
        dataset_name: as registered.
        output_dir: folder of the run.
        save_predictions: write every label map as PNG of class indices, 16-bit above 255 classes.
        overlays: file names of the images whose prediction is drawn over what the model saw, beside the ground truth;
            the page of the run shows them in this order.
        context: what else metrics.json should say: protocol, config hash, versions.
        log_table: log all means and a row per class; else two means alone. metrics.json has all in any case.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path,
        *,
        save_predictions: bool = False,
        overlays: Collection[str] = (),
        context: Mapping[str, Any] | None = None,
        log_table: bool = True,
    ):
        vocabulary, label_rule = dataset_labels(dataset_name)
        self.dataset_name = dataset_name
        self.classes = vocabulary.classes
        self.groups = dataset_groups(dataset_name)
        self.ignore_label = label_rule.ignore_label
        self.folder = results_folder(output_dir, dataset_name)
        self.save_predictions = save_predictions
        self.overlays = dict.fromkeys(overlays)  # in order, and quick to ask
        self.context = dict(context or {})
        self.log_table = log_table
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.counts = Counts.nothing(len(self.classes))

    def skip(self, file_name: str, error: InputError) -> None:
        """Note an image that could not be read."""
        self.counts.skipped.append({"file": file_name, "reason": str(error)})

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Count a batch.

        Args:
            inputs: dicts with ``file_name``, for overlays ``image`` [3,h,w] in 0 to 255, and, with labels,
                ``sem_seg`` [H,W].
            outputs: dicts with ``label_map`` [H,W], of the same order and sizes.
        Raises:
            InputError: a class index outside the classes.
        """
        pairs = list(zip(inputs, outputs, strict=True))
        labelled = [
            (given["sem_seg"], result["label_map"], given["file_name"]) for given, result in pairs if "sem_seg" in given
        ]
        if labelled:
            labels, label_maps, files = zip(*labelled, strict=True)
            truths = _brought(labels, label_maps[0].device)
            confusion = confusion_of_images(truths, label_maps, len(self.classes), self.ignore_label, files)
            self.counts.confusion += confusion.cpu()
            is_empty = torch.stack([(truth == self.ignore_label).all() for truth in truths])
            self.counts.without_valid_label += compress(files, is_empty.tolist())
        for given, result in pairs:
            file_name, label_map = given["file_name"], result["label_map"]
            if self.save_predictions:
                self.save(file_name, label_map)
            if file_name in self.overlays:
                self.draw(given, result)
            self.counts.images += 1

    def evaluate(self, earlier: Counts | None = None) -> dict[str, dict[str, float]]:
        """Sum over all processes, write metrics.json and log the table.

        Args:
            earlier: what runs before this one have counted; read in the first process.
        Returns:
            Detectron2's form, ``{"sem_seg": {name: percent}}``: the six means, and two for every group of classes;
            NaN where there was nothing to score. Empty in every process but the first.
        """
        shares = comm.gather(self.counts)
        if not comm.is_main_process():
            return {}
        counts = total([*shares, *([earlier] if earlier else [])], len(self.classes))
        report = {
            "dataset": self.dataset_name,
            **segmentation_metrics(counts.confusion, self.classes),
            **group_metrics(counts.confusion, self.groups),
            "images": counts.images,
            "no_valid_label": sorted(counts.without_valid_label),
            "skipped": sorted(counts.skipped, key=lambda entry: entry["file"]),
            "gallery": [Path(file_name).stem for file_name in self.overlays],
            **self.context,
        }
        write_confusion(self.folder, counts.confusion)
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
        atomic_write_text(self.folder / "metrics.json", text)
        self._log(report)
        return {"sem_seg": mean_numbers(report)}

    def _log(self, report: Mapping[str, Any]) -> None:
        name = self.dataset_name
        if report["mIoU"] is None:
            logger.info("%s: %d images, none with a label to score", name, report["images"])
        else:
            headline = f", pAcc {report['pAcc']:.2f}, mIoU {report['mIoU']:.2f}"
            shown = f"\n{format_table(report)}" if self.log_table else headline
            logger.info("%s: %d images%s", name, report["images"], shown)
        for file_name in report["no_valid_label"]:
            logger.warning("%s: not scored, every pixel has the ignore label", file_name)
        for entry in report["skipped"]:
            logger.warning("skipped %s: %s", entry["file"], entry["reason"])

    def save(self, file_name: str, label_map: Tensor) -> None:
        """Write the prediction [H,W] of an image."""
        path = self.folder / "predictions" / f"{Path(file_name).stem}.png"
        depth = np.uint8 if len(self.classes) <= 255 else np.uint16
        image = Image.fromarray(label_map.cpu().numpy().astype(depth))
        atomic_write(path, lambda file: image.save(file, format="PNG"))

    def draw(self, given: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Draw the prediction of an image over what the model saw, for its folder and for the page of the run."""
        write_gallery_entry(self.folder, given, result, len(self.classes), self.ignore_label)
        path = self.folder / "overlays" / f"{Path(given['file_name']).stem}.jpg"
        seen = given["image"].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
        truth = given["sem_seg"].cpu().numpy() if "sem_seg" in given else None
        pixels = evaluation_picture(seen, result["label_map"].cpu().numpy(), truth, self.classes, self.ignore_label)
        # Thin letters and borders need every pixel's own colour.
        atomic_write(path, lambda file: Image.fromarray(pixels).save(file, format="JPEG", quality=90, subsampling=0))


def _brought(labels: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Labels [H,W] of images on a device; a GPU gets those of one size in one go."""
    if device.type == "cuda" and len({truth.shape for truth in labels}) == 1:
        return stack_to_device(labels, device).unbind()
    return [truth.to(device) for truth in labels]


def require_distinct_stems(file_names: Iterable[str], switch: str) -> None:
    """Refuse images of which one's file would overwrite another's.

    Args:
        file_names: of the images that something is written for.
        switch: configuration key and value that writes nothing, for the message.
    Raises:
        InputError: two images of one stem.
    """
    seen: dict[str, str] = {}
    for file_name in file_names:
        other = seen.setdefault(Path(file_name).stem, file_name)
        if other is not file_name:
            raise InputError(
                file_name,
                f"the stem of {other}, whose results it would overwrite",
                f"Rename one, or set {switch}.",
                allowed="one image per stem",
            )
