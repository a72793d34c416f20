"""Pascal Context with 59 classes, from VOCtrainval_03-May-2010.tar and trainval_merged.json.

    python datasets/prepare_pcontext.py [ROOT] [--archives FOLDER]

makes ROOT/pcontext/val/image and ROOT/pcontext/val/label (255 for all that is none of the 59 classes). An image that
shows nothing of them is left out, with its labels. What is there already stays, so an interrupted run goes on. It needs
pycocotools: pip install 'cliptrase_d2[prepare]'.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cliptrase_d2.data.benchmarks import vocabulary_file
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import Job, convert_all, look_up, lookup_table, same_file, write_label
from cliptrase_d2.data.prepare.pascal_context import (
    ANNOTATIONS,
    COUNT,
    AnnotatedImage,
    painted,
    unpack_images,
    validation_images,
)

UNLABELLED = 255
NUMBERS = [int(line) for line in vocabulary_file("pcontext_ids.txt").read_text(encoding="ascii").split()]
TABLE = lookup_table({0: UNLABELLED, **{number: index for index, number in enumerate(NUMBERS)}}, 460)


def class_indices(numbers: np.ndarray, where: object) -> np.ndarray:
    """[H,W] class indices 0..58 or 255 from [H,W] numbers of the list of 459 classes."""
    return look_up(TABLE, numbers, where)


def convert(image: AnnotatedImage, source: Path, image_target: Path, label_target: Path) -> None:
    """Write the labels of an image, and put the image beside them."""
    labels = class_indices(painted(image), image.stem)
    if (labels == UNLABELLED).all():
        return
    same_file(source, image_target)
    write_label(label_target, labels)


def prepare(options: Options) -> None:
    """Do all of it."""
    photographs = unpack_images(options)
    jobs = []
    for image in validation_images(ANNOTATIONS.find(options.archives)):
        targets = (
            options.root / "pcontext/val/image" / f"{image.stem}.jpg",
            options.root / "pcontext/val/label" / f"{image.stem}.png",
        )
        jobs.append(Job(targets, (image, photographs / f"{image.stem}.jpg", *targets)))
    convert_all(jobs, convert, options.workers, "labels")
    made = sum(target.is_file() for job in jobs for target in job.targets[1:])
    options.require(made, COUNT, options.root / "pcontext/val/label")


if __name__ == "__main__":
    run(__doc__, prepare, ("pc59", "pc60", "pc60_paper"))
