"""What the two forms of Pascal Context have in common: the images, and which of them are for validation."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cliptrase_d2.data.prepare.archives import Archive, below
from cliptrase_d2.data.prepare.command import Options
from cliptrase_d2.data.prepare.convert import Job, convert_all, same_file, write_label
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
        regions: number in the list of 459 classes, and compressed run lengths, in the order of the file.
    """

    stem: str
    size: tuple[int, int]
    regions: list[tuple[int, Any]]


def prepare_labels(
    options: Options, folder: str, suffix: str, labels_of: Callable[[AnnotatedImage], np.ndarray], unlabelled: int
) -> None:
    """Take the images out of their archive, and put those of the validation set beside their labels.

    Args:
        options: of the command line.
        folder: of the result, in the root.
        suffix: of the label files.
        labels_of: [H,W] class indices of an image.
        unlabelled: index of what is no class; an image that has nothing else is left out.
    """
    options.unpack(IMAGES, below(IMAGE_FOLDER, IMAGE_FOLDER, ".jpg"))
    jobs = []
    for image in validation_images(ANNOTATIONS.find(options.archives)):
        photograph = options.root / IMAGE_FOLDER / f"{image.stem}.jpg"
        targets = (
            options.root / folder / "val/image" / photograph.name,
            options.root / folder / "val/label" / f"{image.stem}{suffix}",
        )
        jobs.append(Job(targets, (image, labels_of, unlabelled, photograph, *targets)))
    convert_all(jobs, _convert, options.workers, "labels")
    made = sum(job.targets[1].is_file() for job in jobs)
    options.require(made, COUNT, options.root / folder / "val/label")


def validation_images(path: Path) -> list[AnnotatedImage]:
    """Read the validation set from the annotations of the Detail challenge, but for images with nothing labelled.

    Args:
        path: trainval_merged.json: ``images`` with ``image_id``, ``file_name``, ``phase``, ``height`` and ``width``,
            ``annos_segmentation`` with ``image_id``, ``category_id`` and ``segmentation``.
    Raises:
        InputError: another file.
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
        got = f"not the annotations ({type(error).__name__}: {error})"
        raise InputError(
            path, got, "Download it again.", allowed=f"{ANNOTATIONS.file} from {ANNOTATIONS.source}"
        ) from error


def painted(image: AnnotatedImage) -> np.ndarray:
    """[H,W] int64 numbers of the 459 classes, 0 where nothing is; a later region covers those before it.

    Raises:
        InputError: pycocotools is not installed, or a region of another size than its image.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError(
            "pycocotools", "not installed", "Run pip install 'cliptrase_d2[prepare]'.", allowed="pycocotools"
        ) from error
    labels = np.zeros(image.size, dtype=np.int64)
    for number, region in image.regions:
        decoded = mask.decode(region).astype(bool)  # [H,W]
        if decoded.shape != labels.shape:
            raise InputError(
                image.stem, f"a region of {decoded.shape}", "Download the file again.", allowed=f"{labels.shape}"
            )
        labels[decoded] = number
    return labels


def _convert(
    image: AnnotatedImage,
    labels_of: Callable[[AnnotatedImage], np.ndarray],
    unlabelled: int,
    photograph: Path,
    image_target: Path,
    label_target: Path,
) -> None:
    labels = labels_of(image)
    if (labels == unlabelled).all():
        return
    same_file(photograph, image_target)
    write_label(label_target, labels)
