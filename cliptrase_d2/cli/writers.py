"""Output files of ``cliptrase segment``: overlays, label maps, masks, JSON and videos."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cliptrase_d2.cli.inputs import describe_video, is_video, read_frames
from cliptrase_d2.cli.outputs import require_absent
from cliptrase_d2.segmenter.conversions import make_coco_dataset
from cliptrase_d2.segmenter.result import SegmentationResult
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text, require_writable, wrap_os_errors
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.picture import draw_labels

_CODEC = "mp4v"  # included in OpenCV's wheels


class Writer:
    """Writes results to a folder, which is created if necessary.

    Args:
        folder: for all files.
        masks: also write the mask proposals.
        json: also write classes and masks as JSON.
    Raises:
        InputError: a folder that cannot be written to.
    """

    def __init__(self, folder: Path, *, masks: bool, json: bool):
        self.folder, self.masks, self.json = folder, masks, json
        require_writable(folder, "--output")

    def check_collisions(self, files: Mapping[Path, str]) -> None:
        """Raise an InputError if the results of two files would have the same name.

        Args:
            files: name of the results of each file.
        """
        owners: dict[str, Path] = {}
        for file, name in files.items():
            if name in owners:
                got = f"{owners[name]} and {file}, whose results would overwrite each other"
                raise InputError("IMAGE", got, "Write them to different folders, in two runs.")
            owners[name] = file

    def find_finished(self, files: Mapping[Path, str]) -> set[Path]:
        """Return the files all of whose results exist."""
        return {file for file, name in files.items() if all(path.exists() for path in self._list_results(file, name))}

    def require_absent(self, files: Mapping[Path, str]) -> None:
        """Raise an InputError if a result of a file exists."""
        results = (path for file, name in files.items() for path in self._list_results(file, name))
        require_absent(results, ", or --skip-existing to omit files that have results")

    def write(self, file: Path, name: str, result: SegmentationResult) -> None:
        """Write the result of one image: ``<name>_overlay.png``, ``<name>_labels.png`` and the optional files.

        Args:
            file: of the image.
            name: of the results.
            result: of the image.
        Raises:
            InputError: a file that cannot be written.
        """
        overlay, labels, *_ = self._list_results(file, name)
        self._make_folder(overlay.parent)
        result.save(overlay)
        result.save_labels(labels)
        if self.masks:
            masks, logits, names = result.masks, result.mask_logits, np.array(result.classes)
            write = partial(np.savez_compressed, masks=masks, mask_logits=logits, classes=names)
            atomic_write(self.folder / f"{name}_masks.npz", write)
        if self.json:
            height, width = result.label_map.shape
            content = make_coco_dataset(result.to_coco(image_id=1), result.classes, file.name, (height, width))
            atomic_write_text(self.folder / f"{name}.json", json.dumps(content) + "\n")

    def write_video(
        self,
        file: Path,
        name: str,
        segmenter: Segmenter,
        classes: Sequence[str],
        background: Sequence[str],
        every: int,
        threshold: float = 0.0,
    ) -> None:
        """Segment a video frame by frame. Write ``<name>_overlay.mp4`` and a PNG per frame to ``<name>_labels/``.

        The overlay video exists only if it is complete.

        Raises:
            InputError: an unreadable video, or a file that cannot be written.
        """
        count, rate = describe_video(file, segmenter.max_pixels)
        target, labels = self._list_results(file, name)
        self._make_folder(labels)
        part = target.with_suffix(f".part{target.suffix}")  # OpenCV chooses the format by the suffix
        video: cv2.VideoWriter | None = None
        results = segmenter.stream(read_frames(file, every), classes, background, threshold=threshold)
        bar = tqdm(results, total=-(-count // every) or None, desc=file.name, unit="frame", disable=None)
        try:
            for index, result in enumerate(bar):
                picture = draw_labels(result.image, result.label_map, result.classes, fixed_legend=True)
                video = video or _create_video(part, picture.shape[1], picture.shape[0], rate / every)
                video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                result.save_labels(labels / f"{index * every:06}.png")
            if video is not None:
                video.release()
                part.replace(target)
        finally:
            results.close()
            if video is not None:
                video.release()
            part.unlink(missing_ok=True)

    def _list_results(self, file: Path, name: str) -> list[Path]:
        """Return the paths of the results of a file: overlay and labels first."""
        if is_video(file):
            suffixes = ["_overlay.mp4", "_labels"]
        else:
            optional = [*(["_masks.npz"] if self.masks else []), *([".json"] if self.json else [])]
            suffixes = ["_overlay.png", "_labels.png", *optional]
        return [self.folder / f"{name}{suffix}" for suffix in suffixes]

    def _make_folder(self, folder: Path) -> None:
        with wrap_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)


def _create_video(path: Path, width: int, height: int, rate: float) -> cv2.VideoWriter:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*_CODEC), rate, (width, height))
    if not video.isOpened():
        fix = "Choose another --output, or install opencv-python from PyPI."
        raise InputError(path, "video cannot be written", fix)
    return video
