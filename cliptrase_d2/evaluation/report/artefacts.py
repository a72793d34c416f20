"""Files of an evaluation that the report page reads: confusion matrix, time and gallery, beside metrics.json.

``confusion.npz`` holds the matrix. ``timing.json`` has the date and duration, which would make ``metrics.json`` differ
between equal runs. ``gallery/<image name>_<part>`` are the image and the masks (.webp), and the labels of truth and
prediction (.png), which the page draws, because all its pictures share their colours.
``gallery/<image name>.json`` has the classes; it is written last, when all other files of the image exist.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cliptrase_d2.evaluation.confusion import count_correct
from cliptrase_d2.unknown import UNKNOWN
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.overlay import labels_at_size
from cliptrase_d2.visualization.panels import draw_clusters
from cliptrase_d2.visualization.picture import class_shares

# Suffixes of the files of an image.
PARTS = {"image": ".webp", "truth": ".png", "prediction": ".png", "masks": ".webp"}
LABELS = ("truth", "prediction")
_LONG_SIDE = 480  # pixels of a picture on the page
_QUALITY = 80


@dataclass(frozen=True)
class GalleryEntry:
    """One image of the gallery.

    Attributes:
        stem: name of the image's files, which may contain folders.
        files: by part; some of ``PARTS``.
        size: (width, height) of each picture in pixels.
        classes: class index and share of the pixels, 0 to 1, by part of ``LABELS``, the largest first. Pixels of the
            truth that are not scored have the index C, unknown ones of the prediction -1.
        accuracy: percent of the scored pixels that are correct; None without any.
    """

    stem: str
    files: dict[str, Path]
    size: tuple[int, int]
    classes: dict[str, list[tuple[int, float]]]
    accuracy: float | None

    def read_picture(self, part: str) -> np.ndarray:
        """Read the image or the masks, [H,W,3] uint8 RGB.

        Raises:
            InputError: a damaged file.
        """
        return np.array(_read_image(self.files[part]).convert("RGB"))

    def read_labels(self, part: str) -> np.ndarray:
        """Read the labels of truth or prediction, [H,W] int64 with indices as in ``classes``.

        Raises:
            InputError: a damaged file.
        """
        return np.array(_read_image(self.files[part])).astype(np.int64) + UNKNOWN  # stored without negative numbers


def write_confusion(folder: Path, confusion: Tensor) -> None:
    """Write the confusion matrix [C,C] or [C,C+1], rows truth, columns prediction, to the folder of an evaluation."""
    counts = confusion.cpu().numpy()
    atomic_write(folder / "confusion.npz", lambda file: np.savez_compressed(file, confusion=counts))


def read_confusion(folder: Path) -> np.ndarray | None:
    """Read the confusion matrix of an evaluation; None if it was evaluated by a version that wrote none.

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


def write_timing(folder: Path, seconds: float, saved: float, images: int) -> None:
    """Write the time of the loop over the images of an evaluation that has just ended.

    Args:
        folder: of the evaluation.
        seconds: of this run.
        saved: seconds that it would have taken in addition, without results that other evaluations computed.
        images: number of images of this run; those that an earlier run finished are not part of its time.
    """
    finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
    times = {"seconds": round(seconds, 3), "saved": round(saved, 3)}
    text = json.dumps({"finished": finished, **times, "images": images})
    atomic_write_text(folder / "timing.json", text)


def read_timing(folder: Path) -> dict[str, Any] | None:
    """Read ``finished`` (ISO 8601), ``seconds``, ``saved`` and ``images``; None if nothing was measured.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / "timing.json"
    return read_json(path) if path.is_file() else None


def write_gallery_entry(
    folder: Path,
    name: str,
    image: Mapping[str, Any],
    output: Mapping[str, Tensor],
    num_classes: int,
    ignore_label: int,
) -> None:
    """Write the model's input, the labels of truth and prediction, and a picture of the masks if the model has any.

    Args:
        folder: of the evaluation.
        name: of the image's files.
        image: ``image`` [3,h,w] in 0 to 255 and, with labels, ``sem_seg`` [H,W].
        output: ``label_map`` [H,W] and, of a model with masks, ``pred_masks`` [Q,H,W].
        num_classes: C.
        ignore_label: of pixels in ``sem_seg`` that are not scored.
    """
    pixels = _resize(image["image"].permute(1, 2, 0).to(torch.uint8).cpu().numpy())  # [h,w,3]
    labels = {"prediction": output["label_map"].cpu().numpy()}
    if "sem_seg" in image:
        truth = image["sem_seg"].cpu().numpy()
        labels["truth"] = np.where(truth == ignore_label, num_classes, truth)
    size = pixels.shape[:2]
    depth = np.uint8 if num_classes < 255 else np.uint16
    pictures = {"image": pixels}
    pictures |= {part: (labels_at_size(m, size) - UNKNOWN).astype(depth) for part, m in labels.items()}
    masks = output.get("pred_masks")
    if masks is not None and len(masks):
        pictures["masks"] = draw_clusters(pixels, masks.argmax(0).cpu().numpy())
    for part, picture in pictures.items():
        _write_picture(_picture_file(folder, name, part), picture)
    entry = {
        "parts": list(pictures),
        "size": size[::-1],
        "classes": {part: class_shares(label_map, num_classes + 1) for part, label_map in labels.items()},
        "pAcc": _measure_accuracy(image, output, ignore_label),
    }
    atomic_write_text(folder / "gallery" / f"{name}.json", json.dumps(entry))


def read_gallery(folder: Path, stems: Sequence[str]) -> list[GalleryEntry]:
    """Read the gallery of an evaluation in the order of ``stems``; images without pictures are left out.

    Raises:
        InputError: a damaged file.
    """
    entries = []
    for stem in stems:
        path = folder / "gallery" / f"{stem}.json"
        if not path.is_file():
            continue
        values = read_json(path)
        files = {part: _picture_file(folder, stem, part) for part in PARTS if part in values["parts"]}
        if all(file.is_file() for file in files.values()):  # earlier versions wrote other files
            classes = {part: [(index, share) for index, share in shares] for part, shares in values["classes"].items()}
            entries.append(GalleryEntry(stem, files, tuple(values["size"]), classes, values.get("pAcc")))
    return entries


def _measure_accuracy(image: Mapping[str, Any], output: Mapping[str, Tensor], ignore_label: int) -> float | None:
    if "sem_seg" not in image:
        return None
    scored, correct = count_correct(image["sem_seg"].cpu(), output["label_map"].cpu(), ignore_label).tolist()
    return 100 * correct / scored if scored else None


def _resize(image: np.ndarray) -> np.ndarray:
    """Enlarge a small image [h,w,3] by a whole number, or shrink a large one."""
    long_side = max(image.shape[:2])
    factor = _LONG_SIDE // long_side if long_side <= _LONG_SIDE else _LONG_SIDE / long_side
    size = tuple(max(1, round(side * factor)) for side in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)


def encode_picture(pixels: np.ndarray) -> bytes:
    """Encode a picture, [H,W,3] uint8 RGB, as WebP."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", quality=_QUALITY)
    return buffer.getvalue()


def _write_picture(path: Path, pixels: np.ndarray) -> None:
    kind = {".webp": "WEBP", ".png": "PNG"}[path.suffix]
    atomic_write(path, lambda file: Image.fromarray(pixels).save(file, format=kind, quality=_QUALITY))


def _read_image(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise _damaged(path, error) from error
    return image


def _picture_file(folder: Path, stem: str, part: str) -> Path:
    return folder / "gallery" / f"{stem}_{part}{PARTS[part]}"


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
