"""Every combination of depth, planes, interpretation and bands of a TIFF file is read rightly or refused."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from cliptrase_d2.data.images import read_image
from cliptrase_d2.data.rendering import NO_RENDERING, Rendering
from cliptrase_d2.utils.errors import InputError
from tests.data.test_images import write_tiff

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK = 0, 1, 2, 5
SIZE = (6, 7)
KINDS = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
ALPHA, UNKNOWN = 2, 0
# Photometric interpretation, bands and the meaning of the extra ones.
LAYOUTS = [
    (WHITE_IS_ZERO, 1, ()),
    (BLACK_IS_ZERO, 1, ()),
    (BLACK_IS_ZERO, 2, (UNKNOWN,)),
    (BLACK_IS_ZERO, 2, (ALPHA,)),
    (BLACK_IS_ZERO, 3, (UNKNOWN, UNKNOWN)),
    (BLACK_IS_ZERO, 4, (UNKNOWN, UNKNOWN, UNKNOWN)),
    (BLACK_IS_ZERO, 5, (UNKNOWN,) * 4),
    (BLACK_IS_ZERO, 12, (UNKNOWN,) * 11),
    (RGB, 3, ()),
    (RGB, 4, ()),
    (RGB, 4, (UNKNOWN,)),
    (RGB, 4, (ALPHA,)),
    (RGB, 5, (UNKNOWN, UNKNOWN)),
    (RGB, 6, (UNKNOWN,) * 3),
    (CMYK, 4, ()),
]


def make_shares(bands: int) -> np.ndarray:
    """Return brightnesses [H,W,C] in 0 to 1, different in every band."""
    return np.random.default_rng(bands).integers(0, 256, (*SIZE, bands)) / 255


def get_white(kind: str) -> float:
    """Return the value that stands for 1."""
    return 1.0 if kind[0] == "f" else float(min(np.iinfo(kind).max, 2**52))


def store(shares: np.ndarray, kind: str, photometric: int, extra: tuple[int, ...]) -> np.ndarray:
    """Return the values of a file. Alpha is opaque, and the black of CMYK is 0."""
    shares = shares.copy()
    if extra[-1:] == (ALPHA,):
        shares[..., -1] = 1
    if photometric == CMYK:
        shares[..., 3] = 0
    values = shares * get_white(kind)
    return (values if kind[0] == "f" else np.rint(values)).astype(kind)


def expect(values: np.ndarray, white: float, photometric: int, bands: tuple[int, ...]) -> np.ndarray:
    """Return the picture [H,W,3] of bands counted from 1."""
    shares = values[..., [band - 1 for band in bands]].astype(np.float64) / white
    shares = 1 - shares if photometric in (WHITE_IS_ZERO, CMYK) else shares
    return 255 * (shares if len(bands) == 3 else shares.repeat(3, axis=2))


def try_reading(path: Path) -> np.ndarray | None:
    """Return the picture; None if it is refused for its bands or bits."""
    try:
        return read_image(path)
    except InputError as error:
        if any(word in str(error) for word in ("SyntaxError", "Download", "unreadable")):
            raise
        return None


@pytest.fixture(params=[True, False], ids=["with rasterio", "without rasterio"])
def with_rasterio(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param:
        pytest.importorskip("rasterio")
    else:
        monkeypatch.setitem(sys.modules, "rasterio", None)
    return bool(request.param)


@pytest.mark.parametrize(("photometric", "bands", "extra"), LAYOUTS)
def test_files_without_a_rendering(
    tmp_path: Path, photometric: int, bands: int, extra: tuple[int, ...], with_rasterio: bool
) -> None:
    shares, read = make_shares(bands), set()
    needs_choice = bands - (extra == (ALPHA,)) not in (1, 3) and photometric not in (RGB, CMYK)
    chosen = (1, 2, 3) if bands >= 3 else (1,)
    for kind, separate, order in product(KINDS, (False, True), "<>"):
        values = store(shares, kind, photometric, extra)
        path = write_tiff(tmp_path / "a.tif", values, photometric, separate=separate, order=order, extra=extra)
        pixels = try_reading(path)
        if pixels is None:
            continue
        # Integers of more bits are taken for 16 bits if they fit, which no value here does except those of int16.
        white = 65535.0 if kind == "i2" else get_white(kind)
        np.testing.assert_allclose(
            pixels, expect(values, white, photometric, chosen), atol=1.01, err_msg=f"{kind}{order}"
        )
        read.add((kind, separate))
    if needs_choice or bands > 4:
        assert not read
    elif with_rasterio and photometric != CMYK:
        assert read >= {(kind, separate) for kind in ("u1", "u2") for separate in (False, True)}
    elif bands == 1 or photometric in (RGB, CMYK):
        assert read >= {("u1", False), ("u2", False)}


@pytest.mark.parametrize(("photometric", "bands", "extra"), LAYOUTS)
def test_files_with_bands_and_a_stretch(
    tmp_path: Path, photometric: int, bands: int, extra: tuple[int, ...], with_rasterio: bool
) -> None:
    shares, chosen = make_shares(bands), (3, 1, 2) if bands >= 3 else (1,)
    for kind, separate, order in product(KINDS, (False, True), "<>"):
        values = store(shares, kind, photometric, extra)
        path = write_tiff(tmp_path / "a.tif", values, photometric, separate=separate, order=order, extra=extra)
        rendering = Rendering(chosen, (0, get_white(kind)))
        if photometric == CMYK or not with_rasterio:
            with pytest.raises(InputError, match=r"CMYK|cliptrase_d2\[geo\]"):
                read_image(path, rendering=rendering)
        else:
            pixels = read_image(path, rendering=rendering)
            expected = expect(values, get_white(kind), photometric, chosen)
            np.testing.assert_allclose(pixels, expected, atol=0.51, err_msg=f"{kind}{order}{separate}")


@pytest.mark.parametrize("photometric", [3, 4, 8, 32803, 34892])  # palette, mask, L*a*b*, raw sensors
@pytest.mark.parametrize("rendering", [NO_RENDERING, Rendering(stretch=(0, 255))])
def test_other_interpretations_are_refused(
    tmp_path: Path, photometric: int, rendering: Rendering, with_rasterio: bool
) -> None:
    values = store(make_shares(1 if photometric != 8 else 3), "u1", photometric, ())
    if not rendering and photometric == 8:  # Pillow converts it
        return
    with pytest.raises(InputError, match=r"a\.tif"):
        read_image(write_tiff(tmp_path / "a.tif", values, photometric, separate=False, order="<"), rendering=rendering)
