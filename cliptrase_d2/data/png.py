"""What a PNG file says of its own soundness, which Pillow does not ask: checksums, and whether all rows are there."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_SIGNATURE = 8  # bytes
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# First column and row, steps to the right and down, of the seven passes of an interlaced image.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PLAIN = ((0, 0, 1, 1),)


def check_png(path: str | Path, *, all_pixels: bool) -> None:
    """Compare every chunk with its checksum, so that no bit of it has changed since it was written.

    Args:
        path: of a file that begins as PNG does.
        all_pixels: also count the pixels, for a writer may have left some out, and Pillow takes these for 0.
    Raises:
        OSError: it is broken.
    """
    with Path(path).open("rb") as file:
        header, inflate, left = b"", zlib.decompressobj(), 0
        for kind, data in _chunks(file):
            if kind == b"IHDR":
                header = data
                left = _raw_bytes(header) if all_pixels else 0
            elif kind == b"IDAT" and left > 0 and not inflate.eof:
                left -= len(inflate.decompress(data, left))
                while left > 0 and inflate.unconsumed_tail:
                    left -= len(inflate.decompress(inflate.unconsumed_tail, left))
    if left > 0:
        raise OSError("not all of its rows are in it")


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of every chunk up to the end of the image."""
    kind, end = b"", file.seek(0, os.SEEK_END)
    file.seek(_SIGNATURE)
    while kind != b"IEND":
        start = file.read(8)
        if len(start) < 8:
            raise OSError("the file ends before the image does")
        length, kind = struct.unpack(">I4s", start)
        if length > end - file.tell():
            raise OSError("the file ends before the image does")
        data = file.read(length)
        (expected,) = struct.unpack(">I", file.read(4).ljust(4, b"\0"))
        if zlib.crc32(kind + data) != expected:
            raise OSError(f"another checksum than that of its part {kind!r}")
        yield kind, data


def _raw_bytes(header: bytes) -> int:
    """Bytes of all rows before compression, each with the one that names its filter."""
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    total = 0
    for column, row, right, down in _PASSES if interlaced else _PLAIN:
        columns, rows = -(-(width - column) // right), -(-(height - row) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits * _CHANNELS[colour] // 8))
    return total
