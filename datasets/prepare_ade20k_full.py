"""Prepare ADE20K with 847 classes from ADE20K_2021_17_01.zip.

    python datasets/prepare_ade20k_full.py [ROOT] [--archives FOLDER]

writes ROOT/ADE20K_2021_17_01/images_detectron2/validation and …/annotations_detectron2/validation (16 bits, 65535 for
other pixels). As in MaskFormer, which chose the classes, images with a short side of more than 512 pixels are resized
together with their labels. Run it again to continue after an interruption.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cliptrase_d2.data.benchmarks import read_numbers
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
MAX_SHORT_SIDE = 512
QUALITY = 95  # of resized JPEG files
OBJECTS = read_numbers("ade20k_full_ids.txt")
TABLE = np.full(256 * 26, OTHER, dtype=np.int64)
TABLE[OBJECTS] = range(len(OBJECTS))


def decode_objects(colours: np.ndarray) -> np.ndarray:
    """Decode the object numbers in the [H,W,3] colours of a ``*_seg.png``: [H,W] class indices 0..846 or 65535."""
    red, green = colours[..., 0].astype(np.int64), colours[..., 1].astype(np.int64)
    return TABLE[red // 10 * 256 + green]


def reduce_size(width: int, height: int) -> tuple[int, int]:
    """Return width and height with a short side of at most 512 pixels."""
    scale = min(1.0, MAX_SHORT_SIDE / min(width, height))
    return round(width * scale), round(height * scale)


def convert(image: Path, colours: Path, image_target: Path, label_target: Path) -> None:
    """Write an image and its labels with a short side of at most 512 pixels."""
    labels, pixels = decode_objects(read_image(colours)), read_image(image)
    if labels.shape != pixels.shape[:2]:
        got = f"{labels.shape} pixels, but {image} has {pixels.shape[:2]}"
        raise InputError(colours, got, "Delete both files and unpack the archive again.")
    size = reduce_size(labels.shape[1], labels.shape[0])
    # With OpenCV, as in MaskFormer: Pillow samples the nearest label at another point of each pixel.
    write_label(label_target, cv2.resize(labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST))
    if size == (labels.shape[1], labels.shape[0]):
        content = image.read_bytes()  # not compressed a second time
    else:
        buffer = io.BytesIO()
        reduced = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        Image.fromarray(reduced).save(buffer, "JPEG", quality=QUALITY)
        content = buffer.getvalue()
    atomic_write(image_target, lambda file: file.write(content))


def pick(name: str) -> str | None:
    """Select the images and label files of the validation set, which are in nested folders."""
    is_selected = name.startswith(RAW) and name.endswith((".jpg", "_seg.png")) and "/ADE_val_" in name
    return name if is_selected and "_parts_" not in name else None


def prepare(options: Options) -> None:
    """Extract the files and convert images and labels."""
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


def main() -> None:
    """Prepare the data set."""
    run(__doc__, prepare, ("ade847",))


if __name__ == "__main__":
    main()
