"""Files of an evaluation that the report page reads: confusion matrix and gallery, beside metrics.json.

``confusion.npz`` holds the matrix, ``gallery/<image stem>_<part>.webp`` the pictures, and ``gallery/<image stem>.json``
the classes that they show. The JSON file is written last, when all pictures of the image exist.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.colours import palette
from cliptrase_d2.visualization.overlay import labels_at_size, overlay
from cliptrase_d2.visualization.panels import draw_clusters
from cliptrase_d2.visualization.picture import class_shares

PARTS = ("image", "truth", "prediction", "masks")
_LONG_SIDE = 480  # pixels of a picture on the page
_QUALITY = 80
_OPACITY = 0.7  # high, so that colours match the legend; the plain image is shown too
_BLACK = (0, 0, 0)  # pixels that are not scored; no class has this colour


@dataclass(frozen=True)
class GalleryEntry:
    """One image of the gallery.

    Attributes:
        stem: of the image's file.
        pictures: file by part; some of ``PARTS``.
        size: (width, height) of each picture in pixels.
        classes: class index and share of the pixels, 0 to 1, by part ("truth" or "prediction"), the largest first.
            Pixels of the truth that are not scored have the index C.
    """

    stem: str
    pictures: dict[str, Path]
    size: tuple[int, int]
    classes: dict[str, list[tuple[int, float]]]


def write_confusion(folder: Path, confusion: Tensor) -> None:
    """Write the confusion matrix [C,C], rows truth, columns prediction, to the folder of an evaluation."""
    counts = confusion.cpu().numpy()
    atomic_write(folder / "confusion.npz", lambda file: np.savez_compressed(file, confusion=counts))


def read_confusion(folder: Path) -> np.ndarray | None:
    """Read the confusion matrix [C,C] of an evaluation; None if it was evaluated by a version that wrote none.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / "confusion.npz"
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["confusion"]
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds of error for a damaged file
        raise _damaged(path, error) from error


def write_gallery_entry(
    folder: Path, image: Mapping[str, Any], output: Mapping[str, Tensor], num_classes: int, ignore_label: int
) -> None:
    """Draw the model's input, the ground truth and the prediction over it, and the masks if the model has any.

    Args:
        folder: of the evaluation.
        image: ``file_name``, ``image`` [3,h,w] in 0 to 255 and, with labels, ``sem_seg`` [H,W].
        output: ``label_map`` [H,W] and, of a model with masks, ``pred_masks`` [Q,H,W].
        num_classes: C.
        ignore_label: of pixels in ``sem_seg`` that are not scored; they are drawn black.
    """
    pixels = _resize(image["image"].permute(1, 2, 0).to(torch.uint8).cpu().numpy())  # [h,w,3]
    labels = {"prediction": output["label_map"].cpu().numpy()}
    if "sem_seg" in image:
        truth = image["sem_seg"].cpu().numpy()
        labels["truth"] = np.where(truth == ignore_label, num_classes, truth)
    colours = np.vstack([palette(num_classes), _BLACK]).astype(np.uint8)  # [C+1,3]
    size = pixels.shape[:2]
    pictures = {"image": pixels}
    pictures |= {part: overlay(pixels, labels_at_size(m, size), colours, _OPACITY) for part, m in labels.items()}
    masks = output.get("pred_masks")
    if masks is not None and len(masks):
        pictures["masks"] = draw_clusters(pixels, masks.argmax(0).cpu().numpy())
    stem = Path(image["file_name"]).stem
    for part, picture in pictures.items():
        _write_picture(_picture_file(folder, stem, part), picture)
    entry = {
        "parts": list(pictures),
        "size": size[::-1],
        "classes": {part: class_shares(label_map, num_classes + 1) for part, label_map in labels.items()},
    }
    atomic_write_text(folder / "gallery" / f"{stem}.json", json.dumps(entry))


def read_gallery(folder: Path, stems: Sequence[str]) -> list[GalleryEntry]:
    """Read the gallery of an evaluation in the order of ``stems``; images without pictures are left out.

    Raises:
        InputError: a damaged file.
    """
    entries = []
    for stem in stems:
        path = folder / "gallery" / f"{stem}.json"
        if path.is_file():
            values = read_json(path)
            pictures = {part: _picture_file(folder, stem, part) for part in PARTS if part in values["parts"]}
            classes = {part: [(index, share) for index, share in shares] for part, shares in values["classes"].items()}
            entries.append(GalleryEntry(stem, pictures, tuple(values["size"]), classes))
    return entries


def _resize(image: np.ndarray) -> np.ndarray:
    """Enlarge a small image [h,w,3] by a whole number, or shrink a large one."""
    long_side = max(image.shape[:2])
    factor = _LONG_SIDE // long_side if long_side <= _LONG_SIDE else _LONG_SIDE / long_side
    size = tuple(max(1, round(side * factor)) for side in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)


def _write_picture(path: Path, pixels: np.ndarray) -> None:
    picture = Image.fromarray(pixels)
    atomic_write(path, lambda file: picture.save(file, format="WEBP", quality=_QUALITY))


def _picture_file(folder: Path, stem: str, part: str) -> Path:
    return folder / "gallery" / f"{stem}_{part}.webp"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of an evaluation.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(path, f"a damaged file ({error})", "Evaluate anew.")
