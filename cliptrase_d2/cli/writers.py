"""Output files of ``cliptrase segment``: overlays, label maps, masks, JSON and videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from cliptrase_d2.cli.inputs import describe_video, read_frames
from cliptrase_d2.segmenter.result import SegmentationResult
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.unknown import UNKNOWN
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text, require_writable
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.picture import class_shares

_CODEC = "mp4v"  # included in OpenCV's wheels


class Writer:
    """Writes results to a folder, which is created if necessary.

    Args:
        folder: for all files.
        masks: also write the mask proposals.
        json: also write classes, shares and masks as JSON.
    Raises:
        InputError: a folder that cannot be written to.
    """

    def __init__(self, folder: Path, *, masks: bool, json: bool):
        self.folder, self.masks, self.json = folder, masks, json
        require_writable(folder, "--output")

    def check_collisions(self, files: Sequence[Path]) -> None:
        """Raise an InputError if the results of two files would have the same name."""
        stems: dict[str, Path] = {}
        for file in files:
            if file.stem in stems:
                got = f"{stems[file.stem]} and {file}, whose results would overwrite each other"
                raise InputError("IMAGE", got, "Write them to different folders, in two runs.")
            stems[file.stem] = file

    def write(self, stem: str, result: SegmentationResult) -> None:
        """Write the result of one image: ``<stem>_overlay.png``, ``<stem>_labels.png`` and the optional files.

        Raises:
            InputError: a file that cannot be written.
        """
        result.save(self.folder / f"{stem}_overlay.png")
        result.save_labels(self.folder / f"{stem}_labels.png")
        if self.masks:
            masks, logits, names = result.masks, result.mask_logits, np.array(result.classes)
            write = partial(np.savez_compressed, masks=masks, mask_logits=logits, classes=names)
            atomic_write(self.folder / f"{stem}_masks.npz", write)
        if self.json:
            atomic_write_text(self.folder / f"{stem}.json", json.dumps(to_plain_values(result)) + "\n")

    def write_video(
        self,
        path: Path,
        segmenter: Segmenter,
        classes: Sequence[str],
        background: Sequence[str],
        every: int,
        threshold: float = 0.0,
    ) -> None:
        """Segment a video frame by frame. Write ``<stem>_overlay.mp4`` and a PNG per frame to ``<stem>_labels/``.

        Raises:
            InputError: an unreadable video, or a file that cannot be written.
        """
        count, rate = describe_video(path, segmenter.max_pixels)
        labels = self.folder / f"{path.stem}_labels"
        labels.mkdir(exist_ok=True)
        target = self.folder / f"{path.stem}_overlay.mp4"
        video: cv2.VideoWriter | None = None
        results = segmenter.stream(read_frames(path, every), classes, background, threshold=threshold)
        bar = tqdm(results, total=-(-count // every) or None, desc=path.name, unit="frame")
        try:
            for index, result in enumerate(bar):
                picture = result.overlay(legend=False)
                video = video or _create_video(target, picture.shape[1], picture.shape[0], rate / every)
                video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                result.save_labels(labels / f"{index * every:06}.png")
        finally:
            results.close()
            if video is not None:
                video.release()


def to_plain_values(result: SegmentationResult) -> dict[str, Any]:
    """Return the size, the class names and, for each class that occurs, its share and its mask as uncompressed RLE.

    Unknown pixels belong to no class.
    """
    segments = []
    for index, share in class_shares(result.label_map, len(result.classes)):
        if index == UNKNOWN:
            continue
        name = result.classes[index]
        mask = {"size": list(result.label_map.shape), "counts": count_runs(result.label_map == index)}
        segments.append({"class": name, "index": index, "share": share, "segmentation": mask})
    return {"size": list(result.label_map.shape), "classes": list(result.classes), "segments": segments}


def count_runs(mask: np.ndarray) -> list[int]:
    """Return the run lengths of COCO's uncompressed RLE: column by column, beginning with pixels outside the mask.

    Args:
        mask: [H,W] bool.
    """
    starts = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=False))  # pixels that differ from the one before
    return np.diff(starts, prepend=0, append=mask.size).tolist()


def _create_video(path: Path, width: int, height: int, rate: float) -> cv2.VideoWriter:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*_CODEC), rate, (width, height))
    if not video.isOpened():
        fix = "Choose another --output, or install opencv-python from PyPI."
        raise InputError(path, "video cannot be written", fix)
    return video
