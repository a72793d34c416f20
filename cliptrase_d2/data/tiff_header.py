"""Headers of TIFF files: bands, bits and georeferencing, without decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import TiffImagePlugin

_PREFIXES = tuple(
    mark + number for mark, order in ((b"II", 1), (b"MM", -1)) for number in (b"*\0"[::order], b"+\0"[::order])
)
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _BANDS, _PLANES, _EXTRA, _FORMAT, _ORIENTATION = (
    *(256, 257, 258, 262, 277, 284),
    *(338, 339, 274),
)
_GEOREFERENCE = {33550, 33922, 34264, 34735}  # scale, tie points, transformation, keys
_NODATA = 42113  # of GDAL
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
_NOT_BRIGHTNESS = {PALETTE: "a palette", 4: "a mask", CMYK: "the colours CMYK"}
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
_KINDS = {UNSIGNED: "unsigned integers", SIGNED: "signed integers", FLOAT: "floating point numbers"}


@dataclass(frozen=True)
class TiffHeader:
    """The first image of a TIFF file.

    Attributes:
        size: width and height.
        bands: their number, alpha included.
        bits: of the band with the most.
        kind: of the values: ``UNSIGNED``, ``SIGNED``, ``FLOAT`` or another number of the standard.
        photometric: meaning of the bands, by the standard.
        in_planes: whether the bands are stored one after the other.
        extra: meaning of each band beyond the colours: 0 for unknown, 1 or 2 for alpha.
        orientation: 1 for upright, otherwise a number of EXIF.
        is_geographic: whether the file has a georeference or a nodata value.
    """

    size: tuple[int, int]
    bands: int
    bits: int
    kind: int
    photometric: int
    in_planes: bool
    extra: tuple[int, ...]
    orientation: int
    is_geographic: bool

    @property
    def has_alpha(self) -> bool:
        """Whether the last band is alpha."""
        return self.bands in (2, 4) and len(self.extra) == 1 and self.extra[0] in (1, 2)

    @property
    def colours(self) -> int:
        """Number of bands without alpha."""
        return self.bands - self.has_alpha

    @property
    def has_own_colours(self) -> bool:
        """Whether the bands are grey, RGB or CMYK, with at most one more band, so that none must be chosen."""
        return self.colours in (1, 3) or (self.bands == 4 and self.photometric in (RGB, CMYK))

    @property
    def suits_pillow(self) -> bool:
        """Whether Pillow reads the values rightly, if it reads the file at all."""
        is_simple = self.bits <= 8 and self.photometric in (RGB, CMYK, YCBCR) and 0 not in self.extra
        if not self.has_own_colours or (self.in_planes and self.bands > 1 and not is_simple):
            return False
        return self.kind == UNSIGNED or (self.kind == SIGNED and self.bands == 1 and self.bits > 8)

    @property
    def fault(self) -> str:
        """Description of the values if they are no brightness of grey, red, green and blue; otherwise ""."""
        if self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR):
            return ""
        other = f"colours of the photometric interpretation {self.photometric}"
        return _NOT_BRIGHTNESS.get(self.photometric, other)

    def describe(self) -> str:
        """Return a description such as "4 bands of 16-bit unsigned integers, in separate planes"."""
        values = f"{self.bits}-bit {_KINDS.get(self.kind, 'values of another kind')}"
        planes = ", in separate planes" if self.in_planes and self.bands > 1 else ""
        return f"a TIFF file with {self.bands} band{'s' * (self.bands > 1)} of {values}{planes}"


def read_tiff_header(path: str | Path) -> TiffHeader | None:
    """Read the header of a TIFF or BigTIFF file; None for any other file and for a damaged header."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(8)
            if not start.startswith(_PREFIXES):
                return None
            if b"+" in start[2:4]:  # BigTIFF
                start += file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(start)
            file.seek(tags.next)
            tags.load(file)
            return _parse_tags(tags)
    except Exception:  # Pillow raises many kinds for a damaged header, whose fault the reader of the pixels names
        return None


def _parse_tags(tags: Any) -> TiffHeader:
    bands, extra = int(tags.get(_BANDS, 1)), tags.get(_EXTRA, ())
    return TiffHeader(
        size=(int(tags[_WIDTH]), int(tags[_HEIGHT])),
        bands=bands,
        bits=max(tags.get(_BITS, (1,))),
        kind=max(tags.get(_FORMAT, (UNSIGNED,))),
        photometric=int(tags.get(_PHOTOMETRIC, 1)),
        in_planes=tags.get(_PLANES) == 2,
        extra=tuple(extra),
        orientation=int(tags.get(_ORIENTATION, 1)),
        is_geographic=bool(_GEOREFERENCE & tags.keys()) or _NODATA in tags,
    )
