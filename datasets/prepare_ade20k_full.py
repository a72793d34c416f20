"""ADE20K with 847 classes, from ADE20K_2021_17_01.zip.

    python datasets/prepare_ade20k_full.py [ROOT] [--archives FOLDER]

makes ROOT/ADE20K_2021_17_01/images_detectron2/validation and …/annotations_detectron2/validation (16 bits, 65535 for
all that is none of the classes). As in MaskFormer, which chose the classes, images whose short side is over 512 pixels
are made smaller, with their labels. What is there already stays, so an interrupted run goes on.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cliptrase_d2.data.benchmarks import vocabulary_file
from cliptrase_d2.data.images import read_image
from cliptrase_d2.data.prepare.archives import Archive
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import Job, convert_all, write_label
from cliptrase_d2.utils.atomic_files import atomic_write
from cliptrase_d2.utils.errors import InputError

ARCHIVE = Archive("ADE20K_2021_17_01.zip", "https://groups.csail.mit.edu/vision/datasets/ADE20K (registration)")
COUNT = 2000
FOLDER = "ADE20K_2021_17_01"
RAW = f"{FOLDER}/images/ADE/validation/"
OTHER = 65535
LONGEST_SHORT_SIDE = 512
QUALITY = 95  # of the JPEG files that are made smaller
OBJECTS = [int(line) for line in vocabulary_file("ade20k_full_ids.txt").read_text(encoding="ascii").split()]
TABLE = np.full(256 * 26, OTHER, dtype=np.int64)
TABLE[OBJECTS] = range(len(OBJECTS))


def class_indices(colours: np.ndarray) -> np.ndarray:
    """[H,W] class indices 0..846 or 65535 from the [H,W,3] colours of a ``*_seg.png``, which hold object numbers."""
    red, green = colours[..., 0].astype(np.int64), colours[..., 1].astype(np.int64)
    return TABLE[red // 10 * 256 + green]


def reduced_size(width: int, height: int) -> tuple[int, int]:
    """Width and height with a short side of at most 512 pixels."""
    scale = min(1.0, LONGEST_SHORT_SIDE / min(width, height))
    return round(width * scale), round(height * scale)


def convert(image: Path, colours: Path, image_target: Path, label_target: Path) -> None:
    """Write image and labels at their reduced size."""
    labels, pixels = class_indices(read_image(colours)), read_image(image)
    if labels.shape != pixels.shape[:2]:
        raise InputError(
            colours, f"{labels.shape} pixels", "Unpack both again.", allowed=f"{pixels.shape[:2]}, as {image}"
        )
    size = reduced_size(labels.shape[1], labels.shape[0])
    # By OpenCV, as in MaskFormer: Pillow takes the nearest label at another place of each pixel.
    write_label(label_target, cv2.resize(labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST))
    if size == (labels.shape[1], labels.shape[0]):
        whole = image.read_bytes()  # not compressed a second time
    else:
        buffer = io.BytesIO()
        reduced = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        Image.fromarray(reduced).save(buffer, "JPEG", quality=QUALITY)
        whole = buffer.getvalue()
    atomic_write(image_target, lambda file: file.write(whole))


def pick(name: str) -> str | None:
    """Which members are wanted; scenes lie in folders of folders."""
    wanted = name.startswith(RAW) and name.endswith((".jpg", "_seg.png")) and "/ADE_val_" in name
    return name if wanted and "_parts_" not in name else None


def prepare(options: Options) -> None:
    """Do all of it."""
    files = options.unpack(ARCHIVE, pick, 2 * COUNT)
    base = options.root / FOLDER
    jobs = []
    for image in (path for path in files if path.suffix == ".jpg"):
        targets = (
            base / "images_detectron2/validation" / image.name,
            base / "annotations_detectron2/validation" / f"{image.stem}.tif",
        )
        jobs.append(Job(targets, (image, image.with_name(f"{image.stem}_seg.png"), *targets)))
    convert_all(jobs, convert, options.workers, "images and labels")


if __name__ == "__main__":
    run(__doc__, prepare, ("ade847",))
