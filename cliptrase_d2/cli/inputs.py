"""What a user points at: images and videos, by file, folder or pattern."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from cliptrase_d2.data.files import IMAGE_SUFFIXES
from cliptrase_d2.data.image_files import MAX_PIXELS, check_pixels
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.user_files import check_name, fault_of

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")

# What descriptions of videos begin with, which name files or addresses that FFmpeg would open: HLS, concat, DASH, SDP.
_LISTS = (b"#", b"ffconcat", b"<", b"[", b"v=")


class Video(NamedTuple):
    """What a video file says of itself.

    Attributes:
        frames: their number; 0 where the file does not tell.
        rate: frames per second.
    """

    frames: int
    rate: float


def is_video(path: Path) -> bool:
    """Whether a file is read frame by frame."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_inputs(words: Sequence[str]) -> list[Path]:
    """The files that are meant, each once, in the order in which they are named.

    Args:
        words: files, folders (their images and videos, not those of folders in them) and patterns such as ``*.jpg``.
    Raises:
        InputError: a word that nothing answers to, a file that is neither image nor video, or a name that is no text.
    """
    found: dict[Path, None] = {}
    for word in words:
        found |= dict.fromkeys(_files(word))
    for file in found:
        check_name(file)
    return list(found)


def _files(word: str) -> list[Path]:
    allowed = f"images ({' '.join(IMAGE_SUFFIXES)}) or videos ({' '.join(VIDEO_SUFFIXES)})"
    path = Path(word).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _is_known(file))
        if not files:
            raise InputError(path, "a folder without images", "Check the folder.", allowed=allowed)
        return files
    if path.is_file():
        if not _is_known(path):
            raise InputError(path, f"the suffix {path.suffix!r}", "Convert the file, or leave it out.", allowed=allowed)
        return [path]
    files = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if _is_known(Path(match)))
    if not files:
        raise InputError(word, "no such file", "Check the path.", allowed="files, folders or patterns that match some")
    return files


def _is_known(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def describe_video(path: Path, max_pixels: int = MAX_PIXELS) -> Video:
    """Number and rate of the frames of a video.

    Args:
        path: of the file.
        max_pixels: most that a frame may have; 0 for no bound.
    Raises:
        InputError: a file that OpenCV cannot read, or frames that are too large.
    """
    reader = _opened_video(path)
    try:
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        width, height = (int(reader.get(side)) for side in sides)
        check_pixels((width, height), max_pixels, path)
        frames = max(0, int(reader.get(cv2.CAP_PROP_FRAME_COUNT)))
        return Video(frames, float(reader.get(cv2.CAP_PROP_FPS)) or 25.0)
    finally:
        reader.release()


def read_frames(path: Path, every: int) -> Iterator[np.ndarray]:
    """Every n-th frame of a video, the first one first, [H,W,3] uint8 RGB.

    Raises:
        InputError: a file that OpenCV cannot read, or no frame in it.
    """
    reader = _opened_video(path)
    count = 0
    try:
        while reader.grab():
            if count % every == 0:
                is_read, frame = reader.retrieve()
                if not is_read:
                    break
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            count += 1
    finally:
        reader.release()
    if not count:
        raise InputError(path, "no frame", "Check that it plays.", allowed="a video with frames")


def _opened_video(path: Path) -> cv2.VideoCapture:
    """A video that FFmpeg opens as a file: not by a name such as ``concat:a.mp4``, nor a list of further files."""
    fault = fault_of(path)
    if not fault:
        with path.open("rb") as file:
            is_list = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_LISTS)
        if not is_list:
            reader = cv2.VideoCapture(str(path.absolute()))
            if reader.isOpened():
                return reader
            reader.release()
    got = f"a video that cannot be read{f' ({fault})' if fault else ''}"
    raise InputError(path, got, "Convert it, to MP4 with H.264 for example.", allowed="one that OpenCV reads")
