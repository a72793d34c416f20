"""Input images and videos, given as files, folders or glob patterns."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.data.files import IMAGE_SUFFIXES
from cliptrase_d2.data.images import MAX_PIXELS, check_pixels
from cliptrase_d2.data.tiff_header import read_tiff_header
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import check_address, check_name, check_readable

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")

# First bytes of playlists (HLS, concat, DASH, SDP), through which FFmpeg would open further files or addresses.
_PLAYLISTS = (b"#", b"ffconcat", b"<", b"[", b"v=")


def is_video(path: Path) -> bool:
    """Return whether the suffix is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_inputs(patterns: Sequence[str], recursive: bool = False, output: Path | None = None) -> dict[Path, str]:
    """Return the matching files, in the order of the arguments, and the name of the results of each.

    Args:
        patterns: files, folders and patterns such as ``*.jpg``.
        recursive: search the subfolders of folders too. The names of results then contain the subfolders.
        output: folder of results, which is not searched.
    Returns:
        The stem of the file by its path, below the subfolders: "street" or "monday/street".
    Raises:
        InputError: a pattern without a match, a file that is neither image nor video, or an unprintable name.
    """
    files: dict[Path, str] = {}
    for pattern in patterns:
        for file, name in _expand(pattern, recursive, output).items():
            files.setdefault(file, name)
    for file in files:
        check_name(file)
    return files


def _expand(pattern: str, recursive: bool, output: Path | None) -> dict[Path, str]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        matches = list(path.rglob("*") if recursive else path.iterdir())
        if recursive and output:
            matches = [file for file in matches if not file.resolve().is_relative_to(output.resolve())]
    else:
        matches = [path] if path.exists() else [Path(match) for match in glob.glob(str(path), recursive=True)]
    files = sorted(filter(_is_supported, matches))
    if not files and path.exists():
        got = "folder without images or videos" if path.is_dir() else f"unsupported suffix {path.suffix!r}"
        allowed = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        raise InputError(path, got, "Choose another one, or convert the files.", allowed=allowed)
    if not files:
        check_address(pattern)
        raise InputError(pattern, "no such file", "Check the path or pattern.")
    names = [file.relative_to(path) if path.is_dir() else Path(file.name) for file in files]
    return {file: name.with_suffix("").as_posix() for file, name in zip(files, names, strict=True)}


def _is_supported(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def find_large_rasters(files: Iterable[Path], cfg: CfgNode, label_format: str) -> set[Path]:
    """Return the TIFF files that are read and written in parts.

    They have more pixels than INPUT.MAX_PIXELS, or their labels become TIFF files, and the model segments tiles at the
    original size.

    Args:
        files: images and videos.
        cfg: of the model.
        label_format: "png" or "tif".
    """
    if cfg.TEST.PROTOCOL != "tiles" or cfg.INPUT.MIN_SIZE_TEST:
        return set()
    headers = {file: read_tiff_header(file) for file in files}
    limit = 0 if label_format == "tif" else cfg.INPUT.MAX_PIXELS or math.inf
    return {
        file
        for file, header in headers.items()
        if header is not None and header.orientation == 1 and math.prod(header.size) > limit
    }


def describe_video(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, float]:
    """Return the number of frames of a video, 0 if unknown, and the frames per second.

    Args:
        path: video file.
        max_pixels: largest number of pixels per frame; 0 for no limit.
    Raises:
        InputError: an unreadable file, or frames that are too large.
    """
    with _open_video(path) as reader:
        width, height = (int(reader.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        check_pixels((width, height), max_pixels, path)
        frames = max(0, int(reader.get(cv2.CAP_PROP_FRAME_COUNT)))
        return frames, float(reader.get(cv2.CAP_PROP_FPS)) or 25.0


def read_frames(path: Path, every: int) -> Iterator[np.ndarray]:
    """Yield every n-th frame, starting with the first, as [H,W,3] uint8 RGB.

    Raises:
        InputError: an unreadable file, or a video without frames.
    """
    count = 0
    with _open_video(path) as reader:
        while reader.grab():
            if count % every == 0:
                is_decoded, frame = reader.retrieve()
                if not is_decoded:
                    break
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            count += 1
    if not count:
        raise InputError(path, "video without frames", "Check that the video plays.")


@contextmanager
def _open_video(path: Path) -> Iterator[cv2.VideoCapture]:
    """Open a video by its absolute path: FFmpeg would read a name such as ``concat:a.mp4`` as a command."""
    check_readable(path)
    with path.open("rb") as file:
        is_playlist = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_PLAYLISTS)
    reader = cv2.VideoCapture() if is_playlist else cv2.VideoCapture(str(path.absolute()))
    try:
        if not reader.isOpened():
            got = "a playlist, not a video" if is_playlist else "a video that OpenCV cannot read"
            raise InputError(path, got, "Convert the video, for example to MP4 with H.264.")
        yield reader
    finally:
        reader.release()
