"""Preparation of Pascal Context: images, validation set and label files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask

from cliptrase_d2.data.prepare.archives import Archive, pick_below
from cliptrase_d2.data.prepare.command import Options
from cliptrase_d2.data.prepare.convert import Job, convert_all, link_file, write_label
from cliptrase_d2.utils.errors import InputError

IMAGES = Archive(
    "VOCtrainval_03-May-2010.tar",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
    md5="da459979d0c395079b5c75ee67908abb",
)
ANNOTATIONS = Archive("trainval_merged.json", "https://codalabuser.blob.core.windows.net/public/trainval_merged.json")
IMAGE_FOLDER = "VOCdevkit/VOC2010/JPEGImages"
COUNT = 5104


class AnnotatedImage(NamedTuple):
    """An image of the validation set.

    Attributes:
        stem: of its file.
        size: height and width.
        regions: number in the list of 459 classes and compressed run lengths, in the order of the file.
    """

    stem: str
    size: tuple[int, int]
    regions: list[tuple[int, Any]]


def prepare_labels(
    options: Options, folder: str, suffix: str, make_labels: Callable[[AnnotatedImage], np.ndarray], unlabelled: int
) -> None:
    """Extract the images, and write label files for those of the validation set.

    Args:
        options: of the command line.
        folder: of the result, relative to the root.
        suffix: of the label files.
        make_labels: image -> [H,W] class indices.
        unlabelled: index of unlabelled pixels. An image without other pixels is left out.
    """
    options.unpack(IMAGES, pick_below(IMAGE_FOLDER, IMAGE_FOLDER, ".jpg"))
    result = options.root / folder / "val"
    jobs = []
    for image in read_validation_images(ANNOTATIONS.find(options.archives)):
        photograph = options.root / IMAGE_FOLDER / f"{image.stem}.jpg"
        targets = (result / "image" / photograph.name, result / "label" / f"{image.stem}{suffix}")
        jobs.append(Job(targets, (image, make_labels, unlabelled, photograph, *targets)))
    convert_all(jobs, _convert, options.workers, "labels")
    options.check_count(sum(job.targets[1].is_file() for job in jobs), COUNT, result / "label")


def read_validation_images(path: Path) -> list[AnnotatedImage]:
    """Read the annotations of the validation set from the file of the Detail challenge. Skip images without any.

    Args:
        path: trainval_merged.json: ``images`` with ``image_id``, ``file_name``, ``phase``, ``height`` and ``width``,
            ``annos_segmentation`` with ``image_id``, ``category_id`` and ``segmentation``.
    Raises:
        InputError: the file has other content.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
        regions: dict[Any, list[tuple[int, Any]]] = defaultdict(list)
        for region in content["annos_segmentation"]:
            regions[region["image_id"]].append((region["category_id"], region["segmentation"]))
        return [
            AnnotatedImage(Path(image["file_name"]).stem, (image["height"], image["width"]), regions[image["image_id"]])
            for image in content["images"]
            if image["phase"] == "val" and regions[image["image_id"]]
        ]
    except (ValueError, KeyError, TypeError) as error:
        got = f"not the expected annotations ({type(error).__name__}: {error})"
        raise InputError(path, got, f"Download it again from {ANNOTATIONS.source}.") from error


def draw_regions(image: AnnotatedImage) -> np.ndarray:
    """Draw the regions of an image. Later regions are on top.

    Returns:
        [H,W] int64, numbers of the 459 classes; 0 for unlabelled pixels.
    Raises:
        InputError: a region and its image differ in size.
    """
    labels = np.zeros(image.size, dtype=np.int64)
    for number, region in image.regions:
        decoded = mask.decode(region).astype(bool)  # [H,W]
        if decoded.shape != labels.shape:
            got = f"a region of {decoded.shape} pixels in an image of {labels.shape}"
            raise InputError(image.stem, got, f"Download {ANNOTATIONS.file} again.")
        labels[decoded] = number
    return labels


def _convert(
    image: AnnotatedImage,
    make_labels: Callable[[AnnotatedImage], np.ndarray],
    unlabelled: int,
    photograph: Path,
    image_target: Path,
    label_target: Path,
) -> None:
    labels = make_labels(image)
    if (labels != unlabelled).any():
        link_file(photograph, image_target)
        write_label(label_target, labels)
