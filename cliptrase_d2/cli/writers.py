"""Writes what ``cliptrase segment`` finds: overlays, label maps, masks, JSON, videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from tqdm import tqdm

from cliptrase_d2.cli.inputs import describe_video, is_video, read_frames
from cliptrase_d2.segmenter.result import SegmentationResult
from cliptrase_d2.segmenter.rle import encode
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text, require_writable
from cliptrase_d2.utils.errors import InputError

_CODEC = "mp4v"  # which OpenCV's own wheels can write


class Writer:
    """A folder of results, made where it is missing.

    Args:
        folder: for everything.
        masks: whether the mask proposals are written too.
        json: whether classes, shares and masks are.
    Raises:
        InputError: a place that cannot be written.
    """

    def __init__(self, folder: Path, *, masks: bool, json: bool):
        self.folder, self.masks, self.json = folder, masks, json
        require_writable(folder, "--output")

    def refuse_collisions(self, files: Sequence[Path]) -> None:
        """Refuse two files whose results would have one name.

        Raises:
            InputError: there are two.
        """
        seen: dict[str, Path] = {}
        for file in files:
            if file.stem in seen:
                got = f"{seen[file.stem]} and {file}, whose results would have one name"
                raise InputError("IMAGE", got, "Segment them into two folders.", allowed="files of different names")
            seen[file.stem] = file

    def write(self, stem: str, result: SegmentationResult) -> None:
        """Write the result of one image, as ``<stem>_overlay.png`` and so on.

        Raises:
            InputError: a place that cannot be written.
        """
        result.save(self.folder / f"{stem}_overlay.png")
        result.save_labels(self.folder / f"{stem}_labels.png")
        if self.masks:
            atomic_write(self.folder / f"{stem}_masks.npz", lambda file: _write_masks(file, result))
        if self.json:
            atomic_write_text(self.folder / f"{stem}.json", json.dumps(described(result)) + "\n")

    def write_video(
        self, path: Path, segmenter: Segmenter, classes: Sequence[str], background: Sequence[str], every: int
    ) -> None:
        """Segment frame by frame: ``<stem>_overlay.mp4``, and ``<stem>_labels/`` with a PNG of each frame.

        Raises:
            InputError: a video that cannot be read, or a place that cannot be written.
        """
        assert is_video(path)
        known = describe_video(path, segmenter.max_pixels)
        labels = self.folder / f"{path.stem}_labels"
        labels.mkdir(exist_ok=True)
        target = self.folder / f"{path.stem}_overlay.mp4"
        video: cv2.VideoWriter | None = None
        results = segmenter.stream(read_frames(path, every), classes, background)
        bar = tqdm(results, total=-(-known.frames // every) or None, desc=path.name, unit="frame")
        try:
            for index, result in enumerate(bar):
                picture = result.overlay(legend=False)
                video = video or _open(target, picture.shape[1], picture.shape[0], known.rate / every)
                video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                result.save_labels(labels / f"{index * every:06}.png")
        finally:
            results.close()
            if video is not None:
                video.release()


def _write_masks(file: BinaryIO, result: SegmentationResult) -> None:
    names = np.array(result.classes)
    np.savez_compressed(file, masks=result.masks, mask_logits=result.mask_logits, classes=names)


def described(result: SegmentationResult) -> dict[str, Any]:
    """A result in plain values: size, classes in the user's order, and of every class that occurs share and mask."""
    shares = result.shares()
    segments = [
        {
            "class": name,
            "index": result.classes.index(name),
            "share": share,
            "segmentation": encode(result.label_map == result.classes.index(name)),
        }
        for name, share in shares.items()
    ]
    return {"size": list(result.label_map.shape), "classes": list(result.classes), "segments": segments}


def _open(path: Path, width: int, height: int, rate: float) -> cv2.VideoWriter:
    code = cv2.VideoWriter.fourcc(*_CODEC)
    video = cv2.VideoWriter(str(path), code, rate, (width, height))
    if not video.isOpened():
        fix = "Choose another --output, or install opencv-python from the package index."
        raise InputError(
            path, "a video that cannot be written", fix, allowed="a folder with room, and OpenCV's MP4 writer"
        )
    return video
