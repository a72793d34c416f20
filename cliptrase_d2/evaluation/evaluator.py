"""Evaluator of label maps: counts pixels batch by batch and writes the results of a data set."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.d2 import DatasetEvaluator, comm
from cliptrase_d2.data.label_warnings import find_label_warnings
from cliptrase_d2.data.register import get_dataset_groups, get_dataset_labels, get_unknown_class
from cliptrase_d2.data.rendering import describe_narrow_range, join_ranges
from cliptrase_d2.evaluation.confusion import (
    Counts,
    add_confusions,
    add_objects,
    batch_confusion_matrix,
    count_correct,
    select_worst,
)
from cliptrase_d2.evaluation.metrics import (
    CLASS_METRICS,
    DETECTRON2_MEANS,
    MEANS,
    format_table,
    group_metric_names,
    group_metrics,
    named_metrics,
    segmentation_metrics,
)
from cliptrase_d2.evaluation.object_sizes import (
    count_objects,
    find_objects,
    format_sizes,
    size_metric_names,
    size_metrics,
)
from cliptrase_d2.evaluation.output_names import get_output_name
from cliptrase_d2.evaluation.predictions import CLASSES, PredictionEncoding
from cliptrase_d2.evaluation.report.artefacts import write_confusion, write_gallery_entry
from cliptrase_d2.unknown import UNKNOWN
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.tensors import stack_to_device
from cliptrase_d2.visualization.picture import draw_evaluation

logger = logging.getLogger(__name__)


def get_results_folder(output_dir: str | Path, dataset_name: str) -> Path:
    """Return the folder of a data set's metrics.json and predictions."""
    return Path(output_dir) / "inference" / dataset_name


def metric_names(dataset_name: str) -> list[str]:
    """Return the names of all metrics of a data set: means, those of groups, of sizes of objects and of classes."""
    classes, groups = get_dataset_labels(dataset_name)[0].classes, list(get_dataset_groups(dataset_name))
    shared = [*MEANS, *group_metric_names(groups), *size_metric_names(groups), *DETECTRON2_MEANS]
    return [*shared, *(f"{metric}-{name}" for metric in CLASS_METRICS for name in classes)]


def extract_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of ``metric_names`` from metrics.json, in percent; NaN where nothing was scored.

    Earlier versions wrote no metrics by size of object, which are NaN then.
    """
    return named_metrics(report, get_dataset_groups(report["dataset"]))


class SegmentationEvaluator(DatasetEvaluator):
    """Sums one confusion matrix over a data set, in all processes, and reports the metrics.

    Writes to ``output_dir/inference/<data set>``: ``metrics.json``, ``confusion.npz``, ``predictions/<name>.png``,
    ``overlays/<name>.jpg`` and ``gallery/``. The name of an image is its stem or, with ``output_base``, its path.

    Attributes:
        counts: of this process.

    Args:
        dataset_name: as registered.
        output_dir: folder of the run.
        save_predictions: write every label map as a PNG of class indices, 16-bit above 255 classes.
        prediction_values: "classes" to write class indices, "files" to write the values of the data set's label files.
        output_base: folder below which images have distinct paths, from ``find_output_base``; None for stems.
        overlays: file names of the images whose prediction is drawn over the image, beside the ground truth; the
            report page shows them in this order.
        context: further content of metrics.json: protocol, hashes, versions.
        log_table: log all means and a row per class; otherwise pAcc and mIoU only.
        method: name for the log; "" for none.
        threshold: least score of a pixel's class, 0 to 1, which the model gets with each image; 0 for none. Pixels
            below it count as the data set's unknown class or, if it has none, as wrong for their true class.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path,
        *,
        save_predictions: bool = False,
        prediction_values: str = CLASSES,
        output_base: str | None = None,
        overlays: Collection[str] = (),
        context: Mapping[str, Any] | None = None,
        log_table: bool = True,
        method: str = "",
        threshold: float = 0.0,
    ):
        vocabulary, label_rule = get_dataset_labels(dataset_name)
        self.dataset_name = dataset_name
        self.classes = vocabulary.classes
        self.groups = get_dataset_groups(dataset_name)
        self.label_rule, self.ignore_label = label_rule, label_rule.ignore_label
        self.folder = get_results_folder(output_dir, dataset_name)
        self.save_predictions = save_predictions
        self.prediction_values = prediction_values
        self.encoding = PredictionEncoding.build(label_rule, prediction_values, f"data set {dataset_name!r}")
        self.output_base = output_base
        self.overlays = dict.fromkeys(overlays)  # ordered, with fast look-up
        self.context = dict(context or {})
        self.log_table, self.method = log_table, method
        self.threshold = threshold
        self.unknown_class = get_unknown_class(dataset_name)
        self.reset()

    def reset(self) -> None:
        """Discard all counts."""
        self.counts = Counts.empty(len(self.classes))

    def skip(self, file_name: str, error: InputError) -> None:
        """Note an image that could not be read."""
        self.counts.skipped.append({"file": file_name, "reason": str(error)})

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Count the pixels of a batch.

        Args:
            inputs: dicts with ``file_name``, for overlays ``image`` [3,h,w] in 0 to 255, and, with labels,
                ``sem_seg`` [H,W] and perhaps ``label_objects`` from ``ObjectMapper``.
            outputs: dicts with ``label_map`` [H,W], in the same order and of the same sizes; -1 means unknown.
        Raises:
            InputError: a class index outside the classes.
        """
        if self.unknown_class is not None:
            outputs = [{**one, "label_map": _replace_unknown(one["label_map"], self.unknown_class)} for one in outputs]
        pairs = list(zip(inputs, outputs, strict=True))
        labelled = [(image, output["label_map"]) for image, output in pairs if "sem_seg" in image]
        if labelled:
            images, label_maps = zip(*labelled, strict=True)
            files = [image["file_name"] for image in images]
            truths = _move_labels([image["sem_seg"] for image in images], label_maps[0].device)
            confusion = batch_confusion_matrix(truths, label_maps, len(self.classes), self.ignore_label, files)
            self.counts.confusion = add_confusions(self.counts.confusion, confusion.cpu())
            self.counts.ignored += sum(truth.numel() for truth in truths) - int(confusion.sum())
            self._rate_images(files, truths, label_maps)
            objects = [
                image.get("label_objects") or find_objects(image["sem_seg"], self.ignore_label) for image in images
            ]
            counts = count_objects(objects, truths, label_maps, len(self.classes))
            self.counts.objects = add_objects(self.counts.objects, counts)
        for image, output in pairs:
            if self.save_predictions:
                self.save(image["file_name"], output["label_map"])
            if image["file_name"] in self.overlays:
                self.draw(image, output)
            self.counts.images += 1
            self.counts.raw_range = join_ranges([self.counts.raw_range, image.get("raw_range")])

    def _rate_images(self, files: Sequence[str], truths: Sequence[Tensor], label_maps: Sequence[Tensor]) -> None:
        """Note the images without a scored pixel, and the worst of the others."""
        pairs = zip(truths, label_maps, strict=True)
        tallies = torch.stack([count_correct(truth, prediction, self.ignore_label) for truth, prediction in pairs])
        rows = list(zip(files, tallies.tolist(), strict=True))  # one copy from the device
        self.counts.without_valid_label += [file for file, (scored, _) in rows if not scored]
        rated = [{"file": file, "pAcc": 100 * correct / scored} for file, (scored, correct) in rows if scored]
        self.counts.worst = select_worst([*self.counts.worst, *rated])

    def evaluate(self, earlier: Counts | None = None) -> dict[str, dict[str, float]]:
        """Sum over all processes, write metrics.json and log the table.

        Args:
            earlier: counts of earlier runs; used in the main process only.
        Returns:
            Detectron2's form, ``{"sem_seg": {metric: percent}}``, with the metrics of ``metric_names``; NaN where
            nothing was scored. Empty in every process but the main one.
        """
        shares = comm.gather(self.counts)
        if not comm.is_main_process():
            return {}
        counts = sum(shares, earlier or Counts.empty(len(self.classes)))
        report = {
            "dataset": self.dataset_name,
            **segmentation_metrics(counts.confusion, self.classes),
            **group_metrics(counts.confusion, self.groups),
            **size_metrics(counts.objects, counts.confusion, self.groups),
            "ignored_pixels": counts.ignored,
            "images": counts.images,
            "no_valid_label": sorted(counts.without_valid_label),
            "skipped": sorted(counts.skipped, key=lambda entry: entry["file"]),
            "worst_images": counts.worst,
            "gallery": [get_output_name(file_name, self.output_base) for file_name in self.overlays],
            **({} if self.output_base is None else {"output_base": self.output_base}),
            **self.context,
        }
        write_confusion(self.folder, counts.confusion)
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
        atomic_write_text(self.folder / "metrics.json", text)
        self._log(report)
        if warning := describe_narrow_range(counts.raw_range):
            logger.warning("%s: %s", self.dataset_name, warning)
        return {"sem_seg": extract_metrics(report)}

    def _log(self, report: Mapping[str, Any]) -> None:
        if report["mIoU"] is None:
            scores = ", none with a label to score"
        elif self.log_table:
            scores = f"\n{format_table(report)}\n\n{format_sizes(report)}"
        else:
            scores = f", pAcc {report['pAcc']:.2f}, mIoU {report['mIoU']:.2f}"
        title = f"{self.method} on {self.dataset_name}" if self.method else self.dataset_name
        logger.info("%s: %d images%s", title, report["images"], scores)
        self._log_labels(report)
        for file_name in report["no_valid_label"]:
            logger.warning("%s: not scored, every pixel has the ignore label", file_name)
        for entry in report["skipped"]:
            logger.warning("skipped %s: %s", entry["file"], entry["reason"])

    def _log_labels(self, report: Mapping[str, Any]) -> None:
        """Log how much of the labels was scored. Labels that are misread often show in these numbers alone."""
        if report["mIoU"] is None:
            return
        pixels = [scores["pixels"] for scores in report["per_class"].values()]
        ignored = report["ignored_pixels"]
        if self.log_table:
            text = "%s: %d of %d classes occur in the labels, and %.1f %% of their pixels are not scored"
            share = 100 * ignored / (ignored + sum(pixels))
            logger.info(text, self.dataset_name, sum(map(bool, pixels)), len(pixels), share)
        for warning in find_label_warnings(pixels, ignored, self.label_rule):
            logger.warning("%s: %s", self.dataset_name, warning)

    def save(self, file_name: str, label_map: Tensor) -> None:
        """Write the prediction [H,W] of an image."""
        path = self.folder / "predictions" / f"{get_output_name(file_name, self.output_base)}.png"
        image = Image.fromarray(self.encoding.encode(label_map.cpu().numpy()))
        atomic_write(path, lambda file: image.save(file, format="PNG"))

    def draw(self, image: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        """Draw the prediction of an image over it, in ``overlays/`` and for the report page.

        Args:
            image, output: elements of the arguments of ``process``.
        """
        name = get_output_name(image["file_name"], self.output_base)
        write_gallery_entry(self.folder, name, image, output, len(self.classes), self.ignore_label)
        path = self.folder / "overlays" / f"{name}.jpg"
        pixels = image["image"].permute(1, 2, 0).to(torch.uint8).cpu().numpy()  # [h,w,3]
        truth = image["sem_seg"].cpu().numpy() if "sem_seg" in image else None
        prediction = output["label_map"].cpu().numpy()
        picture = Image.fromarray(draw_evaluation(pixels, prediction, truth, self.classes, self.ignore_label))
        # Thin letters and borders need full colour resolution.
        atomic_write(path, lambda file: picture.save(file, format="JPEG", quality=90, subsampling=0))


def _replace_unknown(label_map: Tensor, index: int) -> Tensor:
    return torch.where(label_map == UNKNOWN, index, label_map)


def _move_labels(labels: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Move the labels [H,W] of images to a device; a GPU receives labels of one size in one copy."""
    if device.type == "cuda" and len({truth.shape for truth in labels}) == 1:
        return stack_to_device(labels, device).unbind()
    return [truth.to(device) for truth in labels]
