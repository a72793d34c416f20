"""Rasters read by rasterio: forms of files, nodata, labels, and label maps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.data.images import read_image, read_picture
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.data.labels import NO_LABEL
from cliptrase_d2.data.rasters import (
    open_label_raster,
    open_raster,
    read_georeference,
    read_raster,
    read_raster_label,
)
from cliptrase_d2.data.rendering import RawRange, Rendering
from cliptrase_d2.data.tiff_header import read_tiff_header
from cliptrase_d2.utils.errors import InputError
from tests.data.test_images import rotate_right, save, write_tiff

rasterio = pytest.importorskip("rasterio")
RGB = Rendering((1, 2, 3), (0, 255))
PLACE = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}


def write(path: Path, values: np.ndarray, **options: Any) -> Path:
    """Write [B,H,W] with rasterio."""
    mask = options.pop("mask", None)
    colours = options.pop("colours", None)
    descriptions = options.pop("descriptions", ())
    shape = {"count": values.shape[0], "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as dataset:
        dataset.write(values)
        if mask is not None:
            dataset.write_mask(mask)
        if colours is not None:
            dataset.colorinterp = colours
        for index, description in enumerate(descriptions, 1):
            dataset.set_band_description(index, description)
    return path


def values(bands: int = 3, kind: type = np.uint16, side: int = 5) -> np.ndarray:
    return np.random.default_rng(bands).integers(1, 101, (bands, side, side)).astype(kind)


def expect(raw: np.ndarray) -> np.ndarray:
    return raw[:3].transpose(1, 2, 0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"BIGTIFF": "YES"},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        *({"compress": name} for name in ("lzw", "deflate", "zstd", "packbits")),
        {"interleave": "band", "compress": "lzw"},
        {"interleave": "pixel", "ENDIANNESS": "BIG"},
        {"compress": "deflate", "predictor": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64])
def test_forms_of_files(tmp_path: Path, options: dict[str, Any], kind: type) -> None:
    if options.get("predictor") and np.dtype(kind).kind == "f":
        options = {**options, "predictor": 3}
    raw = values(12, kind, 20)
    path = write(tmp_path / "a.tif", raw, **options)
    picture = read_picture(path, rendering=RGB)
    np.testing.assert_array_equal(picture.pixels, expect(raw))
    assert picture.valid is None


def test_twelve_bits_have_their_own_full_scale(tmp_path: Path) -> None:
    raw = np.array([[[0, 2048, 4095, 4095]]], np.uint16)
    for path in (
        write(tmp_path / "grey.tif", raw, nbits=12),  # Pillow reads this one
        write(tmp_path / "colour.tif", raw.repeat(3, 0), nbits=12, interleave="band"),
    ):
        picture = read_picture(path)
        assert picture.pixels[0, :, 0].tolist() == [0, 128, 255, 255]
        assert picture.raw_range is not None
        assert picture.raw_range.full == 4095


def test_many_bands_must_be_chosen_and_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values(5), descriptions=["B02", "B03", "B04", "B08", "B11"])
    with pytest.raises(InputError, match=r"a\.tif: 5 bands \(B02, B03, B04, B08, B11\).*bands: \[3, 2, 1\]"):
        read_image(path)
    with pytest.raises(InputError, match=r"band 6 .*B11"):
        read_image(path, rendering=Rendering((6,)))


def test_the_bands_of_four_are_a_choice_unless_the_file_names_its_colours(tmp_path: Path) -> None:
    raw = values(4, np.uint8)
    with pytest.raises(InputError, match=r"4 bands, and no choice"):
        read_image(write(tmp_path / "a.tif", raw, photometric="MINISBLACK"))
    np.testing.assert_array_equal(
        read_image(write(tmp_path / "b.tif", raw, photometric="RGB", alpha="UNSPECIFIED")), raw[:3].transpose(1, 2, 0)
    )


def test_a_band_that_is_marked_as_alpha_can_be_chosen(tmp_path: Path) -> None:
    raw = values(4, np.uint8)
    raw[3, 0, 0] = 0
    path = write(tmp_path / "a.tif", raw, photometric="RGB", alpha="YES")  # GDAL's default for four 8-bit bands
    picture = read_picture(path, rendering=Rendering((4, 1, 2)))
    np.testing.assert_array_equal(picture.pixels, raw[[3, 0, 1]].transpose(1, 2, 0))
    assert picture.valid is None


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("source", ["nodata", "alpha", "mask", "nan"])
def test_nodata_is_black_and_invalid(tmp_path: Path, kind: type, source: str) -> None:
    if source == "nan" and kind is not np.float32:
        pytest.skip("integers have no NaN")
    raw, mask = values(3, kind), np.ones((5, 5), bool)
    mask[1, 2] = mask[4, 4] = False
    options: dict[str, Any] = {**PLACE, "photometric": "RGB"}
    if source in ("nodata", "nan"):
        raw[:, ~mask] = 0 if source == "nodata" else np.nan
        raw[0, 0, 0] = 0 if source == "nodata" else np.nan  # one band is not enough
        options |= {"nodata": 0} if source == "nodata" else {}
    elif source == "alpha":
        raw, options["alpha"] = np.concatenate([raw, mask[None].astype(kind) * 200]), "YES"
    else:
        options["mask"] = mask
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(tmp_path / "a.tif", raw, **options)
    for rendering in (RGB, Rendering()) if kind is np.uint8 else (RGB,):
        picture = read_picture(path, rendering=rendering)
        assert picture.valid is not None
        np.testing.assert_array_equal(picture.valid, mask)
        assert not picture.pixels[~mask].any()
        scaled = expect(np.nan_to_num(raw)) if rendering else raw[:3].transpose(1, 2, 0)
        np.testing.assert_array_equal(picture.pixels[mask], scaled[mask])


def test_percentiles_leave_out_nodata(tmp_path: Path) -> None:
    raw = np.arange(100, dtype=np.int16).reshape(1, 10, 10)
    raw[0, :5] = -9999
    picture = read_picture(write(tmp_path / "a.tif", raw, nodata=-9999), rendering=Rendering(stretch=("0%", "100%")))
    assert picture.pixels[5, 0, 0] == 0
    assert picture.pixels[9, 9, 0] == 255


def test_rows_equal_the_whole_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tif", values(4, np.float32, 50), nodata=7)
    rendering = Rendering((4, 2, 1), ("5%", "95%"))
    whole = read_raster(path, rendering)
    monkeypatch.setattr("cliptrase_d2.data.rasters._ROWS_OF_PIXELS", 120)
    with open_raster(path, rendering) as raster:
        parts = [raster.read(slice(start, start + 10)).pixels for start in range(0, 50, 10)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.pixels)
    np.testing.assert_array_equal(read_raster(path, rendering).pixels, whole.pixels)


def test_orientation_is_applied(tmp_path: Path) -> None:
    raw = np.arange(6, dtype=np.uint16).reshape(1, 2, 3) * 10
    upright = read_image(save(tmp_path / "a.png", raw[0], exif=rotate_right()), rendering=Rendering(stretch=(0, 50)))
    np.testing.assert_array_equal(upright[..., 0], np.rot90(raw[0], -1) * 255 // 50)
    path = tmp_path / "b.tif"
    Image.fromarray(raw[0]).save(path, exif=rotate_right())
    np.testing.assert_array_equal(read_image(path, rendering=Rendering(stretch=(0, 50))), upright)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_narrow_ranges_are_found(tmp_path: Path, suffix: str) -> None:
    raw = np.linspace(5, 3000, 30_000).reshape(100, 100, 3).astype(np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        write_tiff(path, raw, 2, separate=False, order="<")
    else:
        import cv2

        cv2.imwrite(str(path), raw)
    found = read_picture(path).raw_range
    assert found is not None
    assert (found.full, abs(found.low - 8) < 3, abs(found.high - 2997) < 3) == (65535, True, True)
    assert read_picture(path, rendering=Rendering(stretch=(0, 3000))).raw_range is None
    grey = read_picture(save(tmp_path / "grey.png", raw[..., 0])).raw_range
    assert grey is not None
    assert grey.high < 3000


def test_without_rasterio_the_upper_bytes_bound_the_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    path = write_tiff(tmp_path / "a.tif", np.full((9, 9, 3), 3000, np.uint16), 2, separate=False, order="<")
    assert read_picture(path).raw_range == RawRange(11 * 256, 12 * 256 - 1, 65535)
    with pytest.raises(InputError, match=r"cliptrase_d2\[geo\]"):
        read_raster(path)


@pytest.mark.parametrize("compress", [None, "deflate"])
def test_damaged_files(tmp_path: Path, compress: str | None) -> None:
    path = write(tmp_path / "a.tif", values(5, side=40), compress=compress)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"a\.tif: unreadable"):
        read_image(path, rendering=RGB)


def test_the_size_is_checked_before_decoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values(5))
    with pytest.raises(InputError, match="5 x 5 = 25 pixels"):
        read_image(path, 24, rendering=RGB)
    with pytest.raises(InputError, match="5 x 5 = 25 pixels"):
        read_raster_label(path, 24)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("nodata", [None, 7])
def test_labels_of_every_type(tmp_path: Path, kind: type, nodata: int | None) -> None:
    raw = np.array([[[0, 1], [7, 100]]], kind)
    labels, valid, found = read_raster_label(write(tmp_path / "a.tif", raw, nodata=nodata))
    assert found == nodata
    assert labels.dtype == np.int64
    assert labels.tolist() == [[0, 1], [7, 100]]
    assert valid.tolist() == [[True, True], [nodata is None, True]]


def test_large_negative_and_missing_labels(tmp_path: Path) -> None:
    large = write(tmp_path / "a.tif", np.array([[[2**40, -3]]], np.int64))
    assert read_raster_label(large)[0].tolist() == [[2**40, -3]]
    labels, valid, _ = read_raster_label(write(tmp_path / "b.tif", np.array([[[np.nan, 2]]], np.float32)))
    assert (labels.tolist(), valid.tolist()) == ([[0, 2]], [[False, True]])


def test_labels_that_are_not_whole_or_have_other_faults(tmp_path: Path) -> None:
    for name, raw, options, match in (
        ("half", np.array([[[0.5, 1]]], np.float32), {}, "label value 0.5"),
        ("infinite", np.array([[[1e300, 1]]]), {}, r"label value 1e\+300"),
        ("bands", values(2), {}, "2 bands"),
        ("lossy", values(1, np.uint8, 16), {"compress": "jpeg"}, "lossy"),
        ("white", values(1, np.uint8), {"photometric": "MINISWHITE"}, "white to black"),
        ("complex", np.ones((1, 2, 2), np.complex64), {}, "complex"),
    ):
        path = write(tmp_path / f"{name}.tif", raw, **options)
        with pytest.raises(InputError, match=rf"{name}\.tif: .*{match}"):
            read_raster_label(path)
    page = Image.new("L", (4, 4), 1)
    with pytest.raises(InputError, match="several images"):
        read_raster_label(save(tmp_path / "pages.tif", page, save_all=True, append_images=[page]))


@pytest.mark.parametrize("classes", [3, 300])
def test_label_maps_keep_the_georeference_and_name_their_classes(tmp_path: Path, classes: int) -> None:
    source = write(tmp_path / "a.tif", values(3, np.uint8, 40), **PLACE)
    names, colours = [f"class {index}" for index in range(classes)], np.arange(3 * classes).reshape(-1, 3) % 256
    labels = np.random.default_rng(0).integers(-1, classes, (40, 40))
    place = read_georeference(source, (40, 40))
    with open_label_raster(tmp_path / "out" / "labels.tif", (40, 40), names, colours, place) as write_rows:
        write_rows(0, labels[:17])
        write_rows(17, labels[17:])
    unknown = 255 if classes < 256 else 65535
    with rasterio.open(tmp_path / "out" / "labels.tif") as dataset:
        assert (dataset.crs, dataset.transform, dataset.nodata) == (PLACE["crs"], PLACE["transform"], unknown)
        assert dataset.tags()["CLASS_2"] == "class 2"
        assert dataset.profile["tiled"]
        if classes < 256:
            assert dataset.colormap(1)[2] == (6, 7, 8, 255)
    np.testing.assert_array_equal(read_label(tmp_path / "out" / "labels.tif"), np.where(labels < 0, NO_LABEL, labels))
    read, valid, _ = read_raster_label(tmp_path / "out" / "labels.tif")
    np.testing.assert_array_equal(np.where(valid, read, -1), labels)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["labels.tif"]


def test_a_label_map_that_is_interrupted_does_not_appear(tmp_path: Path) -> None:
    arguments = (4, 4), ["a"], np.zeros((1, 3), int), {}
    with pytest.raises(KeyboardInterrupt), open_label_raster(tmp_path / "a.tif", *arguments):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"), open_label_raster(tmp_path / "file" / "a.tif", *arguments):
        pass


def test_images_without_a_georeference_or_of_another_size_have_none(tmp_path: Path) -> None:
    assert read_georeference(write(tmp_path / "a.tif", values()), (5, 5)) == {}
    assert read_georeference(write(tmp_path / "b.tif", values(), **PLACE), (4, 5)) == {}


@pytest.mark.parametrize("options", [{}, {"ENDIANNESS": "BIG"}, {"BIGTIFF": "YES"}], ids=str)
def test_headers(tmp_path: Path, options: dict[str, str]) -> None:
    header = read_tiff_header(write(tmp_path / "a.tif", values(4, np.int16), nodata=3, **options))
    assert header is not None
    assert (header.size, header.bands, header.bits, header.is_geographic) == ((5, 5), 4, 16, True)
    assert header.describe() == "a TIFF file with 4 bands of 16-bit signed integers"
    (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:6])
    assert read_tiff_header(tmp_path / "b.tif") is None
    assert read_tiff_header(tmp_path / "absent.tif") is None


def test_a_big_endian_bigtiff_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ENDIANNESS=LITTLE"):
        read_image(write(tmp_path / "a.tif", values(), ENDIANNESS="BIG", BIGTIFF="YES"))


def test_a_mask_beside_an_image_cannot_open_an_address(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values(5))
    (tmp_path / "a.tif.msk").write_text(
        '<VRTDataset rasterXSize="5" rasterYSize="5"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        "<SourceFilename>/vsicurl/http://127.0.0.1:9/mask.tif</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    picture = read_picture(path, rendering=RGB)  # the mask is not read
    np.testing.assert_array_equal(picture.pixels, expect(values(5)))
