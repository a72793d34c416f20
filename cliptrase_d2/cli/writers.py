"""Output files of ``cliptrase segment``: overlays, label maps, masks, JSON and videos."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from cliptrase_d2.cli.inputs import describe_video, is_video, read_frames
from cliptrase_d2.cli.outputs import require_absent
from cliptrase_d2.data.rasters import open_label_raster, open_raster, read_georeference
from cliptrase_d2.data.tiff_header import read_tiff_header
from cliptrase_d2.segmenter.conversions import make_coco_dataset
from cliptrase_d2.segmenter.result import SegmentationResult, write_picture
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.atomic_files import atomic_write, atomic_write_text, require_writable, wrap_os_errors
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.picture import class_colours, draw_labels
from cliptrase_d2.vocabulary import Vocabulary

_MAX_OVERLAY = 2048  # pixels; long side of the overlay of a large raster
_CODEC = "mp4v"  # included in OpenCV's wheels


class Writer:
    """Writes results to a folder, which is created if necessary.

    Args:
        folder: for all files.
        masks: also write the mask proposals.
        json: also write classes and masks as JSON.
        label_format: "png", or "tif" for label maps of images with the georeference of the image.
        large: rasters that are read and written in parts, with label maps as "tif".
    Raises:
        InputError: a folder that cannot be written to.
    """

    def __init__(
        self, folder: Path, *, masks: bool, json: bool, label_format: str = "png", large: Collection[Path] = ()
    ):
        self.folder, self.masks, self.json = folder, masks, json
        self.label_format, self.large = label_format, large
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
        """Write the result of one image: ``<name>_overlay.png``, ``<name>_labels.png`` or .tif, and the optional files.

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
        if labels.suffix == ".tif":
            size = (result.label_map.shape[0], result.label_map.shape[1])
            colours = class_colours(result.classes, result.label_map)
            georeference = read_georeference(file, size) if read_tiff_header(file) else {}
            with open_label_raster(labels, size, result.classes, colours, georeference) as write_rows:
                write_rows(0, result.label_map)
        else:
            result.save_labels(labels)
        if self.masks:
            masks, logits, names = result.masks, result.mask_logits, np.array(result.classes)
            write = partial(np.savez_compressed, masks=masks, mask_logits=logits, classes=names)
            atomic_write(self.folder / f"{name}_masks.npz", write)
        if self.json:
            height, width = result.label_map.shape
            content = make_coco_dataset(result.to_coco(image_id=1), result.classes, file.name, (height, width))
            atomic_write_text(self.folder / f"{name}.json", json.dumps(content) + "\n")

    def write_large(
        self, file: Path, name: str, segmenter: Segmenter, classes: Sequence[str], background: Sequence[str]
    ) -> None:
        """Segment a raster from top to bottom. Write ``<name>_labels.tif`` and a reduced ``<name>_overlay.png``.

        Raises:
            InputError: an unreadable raster, or a file that cannot be written.
        """
        overlay, labels, *_ = self._list_results(file, name)
        names = Vocabulary.parse(classes, background, where="classes").classes
        colours = class_colours(names, np.arange(len(names)))
        with open_raster(file, segmenter.rendering) as raster:
            georeference = read_georeference(file, raster.size)
            step = -(-max(raster.size) // _MAX_OVERLAY)
            reduced: list[tuple[np.ndarray, np.ndarray]] = []
            bar = tqdm(total=raster.size[0], desc=file.name, unit="row", disable=None)
            with bar, open_label_raster(labels, raster.size, names, colours, georeference) as write_rows:
                for first, pixels, label_map in segmenter.segment_rows(raster, classes, background):
                    write_rows(first, label_map)
                    start = -first % step
                    reduced.append((pixels[start::step, ::step].copy(), label_map[start::step, ::step].copy()))
                    bar.update(len(label_map))
        picture, drawn = (np.concatenate(parts) for parts in zip(*reduced, strict=True))
        write_picture(draw_labels(picture, drawn, names, colours), overlay)

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
            label_format = "tif" if file in self.large else self.label_format
            suffixes = ["_overlay.png", f"_labels.{label_format}", *optional]
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
