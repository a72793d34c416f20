"""What an evaluation leaves for its page beside metrics.json: the confusion matrix and pictures of some images.

``confusion.npz`` holds the matrix; ``gallery/<image stem>_<part>.webp`` the pictures, ``gallery/<image stem>.json`` the
classes that they show. The last is written when all of its pictures are there.
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

from cliptrase_d2.utils.atomic_files import atomic_write
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.overlay import labels_at_size, overlay, palette
from cliptrase_d2.visualization.picture import class_shares
from cliptrase_d2.visualization.stages import cluster_picture

PARTS = ("image", "truth", "prediction", "masks")
_LONG_SIDE = 480  # pixels of a picture on the page
_QUALITY = 80
_OPACITY = 0.7  # the image stands beside it, so the colours may be those of the legend
_BLACK = (0, 0, 0)  # not scored; a colour that no class has


@dataclass(frozen=True)
class GalleryEntry:
    """One image of the gallery.

    Attributes:
        stem: of the image's file.
        pictures: file by part, of those of ``PARTS`` that there are.
        size: (width, height) of each picture in pixels.
        classes: index and share of the pixels, 0 to 1, by part, "truth" or "prediction", the largest first; in the
            truth those that are not scored have the index C.
    """

    stem: str
    pictures: dict[str, Path]
    size: tuple[int, int]
    classes: dict[str, list[tuple[int, float]]]


def write_confusion(folder: Path, confusion: Tensor) -> None:
    """Write the matrix [C,C], rows truth, columns prediction, of an evaluation's folder."""
    counts = confusion.cpu().numpy()
    atomic_write(_confusion_file(folder), lambda file: np.savez_compressed(file, confusion=counts))


def read_confusion(folder: Path) -> np.ndarray | None:
    """The matrix [C,C] of an evaluation's folder; None where an earlier version of this project wrote none.

    Raises:
        InputError: the file is broken.
    """
    path = _confusion_file(folder)
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["confusion"]
    except Exception as error:  # NumPy, zipfile and zlib each fail on damage in many ways, which all mean the same
        raise _broken(path, error) from error


def read_report(folder: Path) -> dict[str, Any]:
    """The content of an evaluation's metrics.json.

    Raises:
        InputError: the file is broken.
    """
    return _read_json(folder / "metrics.json")


def write_gallery_entry(
    folder: Path, given: Mapping[str, Any], output: Mapping[str, Tensor], count: int, ignore_label: int
) -> None:
    """Draw what the model saw, the ground truth and the prediction over it, and the masks where there are any.

    Args:
        folder: of the evaluation.
        given: ``file_name``, ``image`` [3,h,w] in 0 to 255 and, with labels, ``sem_seg`` [H,W].
        output: ``label_map`` [H,W] and, of a model with masks, ``pred_masks`` [Q,H,W].
        count: C.
        ignore_label: in ``sem_seg``, of pixels that are not scored; they are black.
    """
    image = _at_gallery_size(given["image"].permute(1, 2, 0).to(torch.uint8).cpu().numpy())
    labels = {"prediction": output["label_map"].cpu().numpy()}
    if "sem_seg" in given:
        truth = given["sem_seg"].cpu().numpy()
        labels["truth"] = np.where(truth == ignore_label, count, truth)
    colours = np.vstack([palette(count), _BLACK]).astype(np.uint8)
    pictures = {
        part: overlay(image, labels_at_size(of, image.shape[:2]), colours, _OPACITY) for part, of in labels.items()
    }
    masks = output.get("pred_masks")
    if masks is not None and len(masks):
        pictures["masks"] = cluster_picture(image, masks.argmax(0).cpu().numpy())
    stem = Path(given["file_name"]).stem
    for part, pixels in {"image": image, **pictures}.items():
        _write_picture(_picture_file(folder, stem, part), pixels)
    entry = {
        "parts": ["image", *pictures],
        "size": image.shape[1::-1],
        "classes": {part: class_shares(of, count + 1) for part, of in labels.items()},
    }
    atomic_write(_entry_file(folder, stem), lambda file: file.write(json.dumps(entry).encode()))


def read_gallery(folder: Path, stems: Sequence[str]) -> list[GalleryEntry]:
    """The pictures of an evaluation's folder, in the order of ``stems``; those that are not there are left out.

    Raises:
        InputError: a broken file.
    """
    entries = []
    for stem in stems:
        if not _entry_file(folder, stem).is_file():
            continue
        values = _read_json(_entry_file(folder, stem))
        pictures = {part: _picture_file(folder, stem, part) for part in PARTS if part in values["parts"]}
        classes = {part: [(index, share) for index, share in of] for part, of in values["classes"].items()}
        entries.append(GalleryEntry(stem, pictures, tuple(values["size"]), classes))
    return entries


def _at_gallery_size(image: np.ndarray) -> np.ndarray:
    """Small images enlarged by a whole number, large ones shrunk."""
    long_side = max(image.shape[:2])
    factor = _LONG_SIDE // long_side if long_side <= _LONG_SIDE else _LONG_SIDE / long_side
    size = tuple(max(1, round(side * factor)) for side in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)


def _write_picture(path: Path, pixels: np.ndarray) -> None:
    picture = Image.fromarray(pixels)
    atomic_write(path, lambda file: picture.save(file, format="WEBP", quality=_QUALITY))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(path, f"a broken file ({error})", "Evaluate anew.", allowed="what an evaluation wrote")


def _confusion_file(folder: Path) -> Path:
    return folder / "confusion.npz"


def _picture_file(folder: Path, stem: str, part: str) -> Path:
    return folder / "gallery" / f"{stem}_{part}.webp"


def _entry_file(folder: Path, stem: str) -> Path:
    return folder / "gallery" / f"{stem}.json"
