"""Every form of labels in the table of docs/own_data.md: the same label map, written as a tool writes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.data.custom import DatasetSpec, read_dataset_file
from cliptrase_d2.data.inspection import inspect
from cliptrase_d2.data.label_files import read_record_label
from cliptrase_d2.data.register import load_records
from cliptrase_d2.utils.errors import InputError

CLASSES = ("sky", "tree", "road")
TRUTH = np.array([[0, 0, 1, 2], [2, 1, 1, 0], [255, 255, 2, 2]])  # [3,4]
COLORS = {"sky": (70, 130, 180), "tree": (107, 142, 35), "road": (128, 64, 128), "void": (0, 0, 255)}  # 255 if packed
_NAMES = (*CLASSES, "void")
COLORED = np.array([[COLORS[_NAMES[min(index, 3)]] for index in row] for row in TRUTH], dtype=np.uint8)  # [3,4,3]
Write = Callable[[Path], str]


def _save(array: Any, name: str = "labels/a.png", **options: Any) -> Write:
    def write(folder: Path) -> str:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        image = array if isinstance(array, Image.Image) else Image.fromarray(array)
        image.save(path, **options)
        return ""

    return write


def _with(write: Write, yaml: str, **files: str) -> Write:
    """Write the label file and others, whose names have "__" for a dot, and add keys to the data-set file."""

    def write_all(folder: Path) -> str:
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
        return write(folder) + yaml

    return write_all


def _save_numpy(array: np.ndarray) -> Write:
    def write(folder: Path) -> str:
        (folder / "labels").mkdir()
        np.save(folder / "labels" / "a.npy", array)
        return ""

    return write


def _add_alpha(pixels: np.ndarray, alpha: int = 255) -> np.ndarray:
    return np.dstack([pixels, np.full(TRUTH.shape, alpha, dtype=np.uint8)])


def _make_palette(values: np.ndarray, colors: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8), "L")
    image.putpalette([channel for color in colors for channel in color])
    return image


def _write_labelme(folder: Path) -> str:
    """Write the folder of labelme_json_to_dataset, whose values are numbers of the file alone."""
    (folder / "labels" / "a_json").mkdir(parents=True)
    (folder / "pictures" / "a_json").mkdir(parents=True)
    (folder / "labels/a_json/label_names.txt").write_text("_background_\nroad\nsky\ntree\n")
    numbers = np.select([index == TRUTH for index in (2, 0, 1)], [1, 2, 3], 0)
    _make_palette(numbers, [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]).save(
        folder / "labels/a_json/label.png"
    )
    Image.new("RGB", (4, 3)).save(folder / "pictures/a_json/img.png")
    return "images: pictures/*/img.png\nlabels: labels/*/label.png\n"


def _write_panoptic(folder: Path) -> str:
    ids = np.array([[0, 0, 1, 2], [2, 1, 3, 0], [9, 9, 2, 2]])  # two segments of trees
    identities = np.array([5, 70_000, 256, 3, 0, 0, 0, 0, 0, 0])[ids]  # 0 is void
    segments = [(5, 7), (70_000, 9), (256, 200), (3, 9)]
    pixels = np.stack([identities % 256, identities // 256 % 256, identities // 65536], axis=2).astype(np.uint8)
    _save(pixels)(folder)
    content = {
        "categories": [{"id": 200, "name": "road"}, {"id": 7, "name": "sky"}, {"id": 9, "name": "tree"}],
        "annotations": [
            {"file_name": "a.png", "segments_info": [{"id": i, "category_id": c, "area": 1} for i, c in segments]}
        ],
    }
    (folder / "panoptic.json").write_text(json.dumps(content))
    return "panoptic_json: panoptic.json\n"


def _write_ade20k(folder: Path) -> str:
    ids = np.where(TRUTH == 255, 0, np.array([2978, 255, 12])[TRUTH % 255 % 3])  # 255 is a class here
    pixels = np.stack([ids // 256 * 10 + 3, ids % 256, np.full_like(ids, 9)], axis=2).astype(np.uint8)  # + objects
    _save(pixels)(folder)
    return "label_coding: ade20k_full\nlabel_map: {0: 255, 2978: 0, 255: 1, 12: 2}\n"


_BYTES = TRUTH.astype(np.uint8)
_MAP = "label_map: {0: 255, 7: 0, 8: 1, 21: 2}\n"
_IDS = np.where(TRUTH == 255, 0, np.array([7, 8, 21])[TRUTH % 255 % 3])
_BACKGROUND = "background: [road]\nclasses: [sky, tree]\nlabel_map: {0: 0, 1: 1, 20: 2}\n"
_BINARY = "label_map: {0: 0, 9: 1, 255: 2, 247: 255}\n"  # 9 · 255 modulo 256 is 247
_COLORS_BY_HAND = (
    "label_colors: {[70, 130, 180]: sky, '107,142,35': 1, '#804080': road, [0, 0, 255]: 255}\n"  # each form once
)
_CVAT = "# label:color_rgb:parts:actions\nvoid:0,0,255::\n" + "".join(
    f"{name}:{','.join(map(str, COLORS[name]))}::\n" for name in CLASSES
)
_SUPERVISELY = json.dumps({name: list(color) for name, color in COLORS.items()})
_CSV = "name,r,g,b\n" + "".join(f"{name},{','.join(map(str, color))}\n" for name, color in COLORS.items())
_CAMVID = "".join(f"{red} {green} {blue}\t{name}\n" for name, (red, green, blue) in COLORS.items())
_VOC = ((128, 0, 0), (192, 128, 0), (0, 64, 128), (224, 224, 192))  # the last is the border
_CITYSCAPES_FILE = COLORED.copy()
_CITYSCAPES_FILE[TRUTH == 255] = (111, 74, 0)  # "dynamic", which is not evaluated

FORMS: dict[str, Write] = {
    "8-bit grey PNG": _save(_BYTES),
    "16-bit grey PNG": _save(TRUTH.astype(np.uint16)),
    "palette indices": _save(_make_palette(TRUTH, [(9, 9, 9)] * 256)),
    "8-bit TIFF": _save(_BYTES, "labels/a.tif"),
    "32-bit TIFF": _save(TRUTH.astype(np.int32), "labels/a.tif"),
    "signed 8-bit TIFF": _with(
        _save(Image.fromarray(np.where(TRUTH == 255, 255, TRUTH).astype(np.uint8)), "labels/a.tif", tiffinfo={339: 2}),
        "ignore_label: -1\n",
    ),
    "float TIFF": _save(TRUTH.astype(np.float32), "labels/a.tif"),
    "float TIFF with nodata": _save(
        np.where(TRUTH == 255, -9999, TRUTH).astype(np.float32), "labels/a.tif", tiffinfo={42113: "-9999"}
    ),
    "float TIFF with nodata NaN": _save(
        np.where(TRUTH == 255, np.nan, TRUTH).astype(np.float32), "labels/a.tif", tiffinfo={42113: "nan"}
    ),
    "BMP": _save(_BYTES, "labels/a.bmp"),
    "BMP with a palette": _save(_make_palette(TRUTH, [(index, 9, 9) for index in range(256)]), "labels/a.bmp"),
    "colour BMP of one index": _save(np.dstack([_BYTES] * 3), "labels/a.bmp"),
    "int64 NumPy": _save_numpy(TRUTH),
    "float NumPy with an axis of one": _save_numpy(TRUTH.astype(np.float64)[None]),
    "colours in NumPy": _with(_save_numpy(COLORED), _COLORS_BY_HAND),
    "index in three channels": _save(np.dstack([_BYTES] * 3)),
    "index with alpha": _save(_add_alpha(_BYTES), "labels/a.png"),
    "index in RGBA": _save(_add_alpha(np.dstack([_BYTES] * 3))),
    "label_map": _with(_save(_IDS.astype(np.uint8)), _MAP),
    "background": _with(_save(np.where(TRUTH == 2, 20, _BYTES).astype(np.uint8)), _BACKGROUND),
    "binary masks": _with(_save(np.where(TRUTH == 2, 255, 9 * _BYTES).astype(np.uint8)), _BINARY),
    "255 is a class": _with(
        _save(np.select([TRUTH == 255, TRUTH == 1], [65535, 255], TRUTH).astype(np.uint16)),
        "ignore_label: 65535\nlabel_map: {0: 0, 255: 1, 2: 2}\n",
    ),
    "reduce_zero_label": _with(
        _save(np.where(TRUTH == 255, 0, TRUTH + 1).astype(np.uint8)), "reduce_zero_label: true\n"
    ),
    "colours by hand": _with(_save(COLORED), _COLORS_BY_HAND),
    "colours with alpha": _with(_save(_add_alpha(COLORED)), _COLORS_BY_HAND),
    "colours of a palette": _with(
        _save(_make_palette(np.where(TRUTH == 255, 3, TRUTH), list(COLORS.values()))), _COLORS_BY_HAND
    ),
    "palettes of each file": _with(
        _save(Image.fromarray(COLORED).convert("P", palette=Image.Palette.ADAPTIVE, colors=4)), _COLORS_BY_HAND
    ),
    "CVAT": _with(_save(COLORED), "label_colors: labelmap.txt\n", labelmap__txt=_CVAT),
    "Supervisely": _with(_save(COLORED), "label_colors: colors.json\n", colors__json=_SUPERVISELY),
    "CSV of colours": _with(_save(COLORED), "label_colors: class_dict.csv\n", class_dict__csv=_CSV),
    "CamVid": _with(_save(COLORED), "label_colors: label_colors.txt\n", label_colors__txt=_CAMVID),
    "Pascal VOC": _with(
        _save(np.array([_VOC[min(index, 3)] for index in TRUTH.ravel()], dtype=np.uint8).reshape(3, 4, 3)),
        "label_colors: '@voc'\nclasses: [aeroplane, dining table, tv monitor]\n",
    ),
    "Cityscapes colours": _with(
        _save(_CITYSCAPES_FILE), "label_colors: '@cityscapes'\nclasses: [sky, vegetation, road]\n"
    ),
    "COCO panoptic": _write_panoptic,
    "ADE20K full": _write_ade20k,
    "labelme_json_to_dataset": _write_labelme,
}


def write_form(folder: Path, write: Write) -> Path:
    """Write an image, its labels and the data-set file, and return the latter."""
    (folder / "images").mkdir()
    Image.new("RGB", (4, 3)).save(folder / "images" / "a.png")
    keys = {"name": "forms", "images": "images", "labels": "labels", "classes": "[sky, tree, road]"}
    for line in write(folder).splitlines():
        key, value = line.split(": ", 1)
        keys[key] = value
    path = folder / "set.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    return path


def read_labels(path: Path) -> tuple[DatasetSpec, np.ndarray]:
    """Return a data set of one image, and its class indices [H,W]."""
    spec = read_dataset_file(path)
    (record,) = load_records(spec)
    rule = spec.label_rule
    return spec, rule.apply(read_record_label(record, (4, 3), rule), record["sem_seg_file_name"])


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_are_read(tmp_path: Path, form: str) -> None:
    spec, labels = read_labels(write_form(tmp_path, FORMS[form]))
    expected = np.where(TRUTH == 255, spec.ignore_label, TRUTH)
    assert labels.tolist() == expected.tolist()
    findings = inspect(spec, workers=1)
    assert (findings.problems, findings.warnings, findings.pixels.tolist()) == ([], [], [3, 3, 4])
    assert findings.ignored == 2


def _sixteen_bit_colors(folder: Path) -> str:
    import cv2

    (folder / "labels").mkdir()
    cv2.imwrite(str(folder / "labels" / "a.png"), np.dstack([TRUTH] * 3).astype(np.uint16) * 300)
    return ""


def _break_checksum(folder: Path) -> str:
    _save(_BYTES)(folder)
    content = bytearray((folder / "labels" / "a.png").read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    (folder / "labels" / "a.png").write_bytes(content)
    return ""


_FLOATS = TRUTH + np.float32(0.5)
_TRANSPARENT = _add_alpha(np.dstack([_BYTES] * 3), 128)
# Form, what the message contains.
REFUSED: dict[str, tuple[Write, str]] = {
    "colours without a key": (_save(COLORED), "label_colors"),
    "16 bits in three channels": (_sixteen_bit_colors, "16 bits"),
    "transparent pixels": (_save(_TRANSPARENT), "transparent"),
    "fractions": (_save(_FLOATS, "labels/a.tif"), "whole numbers"),
    "NaN": (_save(np.where(TRUTH == 255, np.nan, TRUTH).astype(np.float32), "labels/a.tif"), "whole numbers"),
    "nodata that is a class": (_save(TRUTH.astype(np.uint8), "labels/a.tif", tiffinfo={42113: "0"}), "label_map"),
    "JPEG": (_save(_BYTES, "labels/a.jpg"), "no label file"),
    "other colours": (_with(_save(COLORED // 2), _COLORS_BY_HAND), r"\(35, 65, 90\)"),
    "numbers with label_colors": (_with(_save_numpy(TRUTH), _COLORS_BY_HAND), "label_colors"),
    "colours as keys of label_map": (_with(_save(COLORED), "label_map: {'70,130,180': 0}\n"), "label_colors"),
    "two keys": (_with(_save(_BYTES), "reduce_zero_label: true\n" + _MAP), "label_map and reduce_zero_label"),
    "a class without a colour": (
        _with(_save(COLORED), "label_colors: a.csv\nclasses: [sky, tree, rood]\n", a__csv=_CSV),
        "'rood'.*Did you mean 'road'",
    ),
    "a colour of two classes": (_with(_save(COLORED), "label_colors: {[1, 2, 3]: 0, '1,2,3': 1}\n"), "two classes"),
    "counted from 1": (_save(_BYTES + np.uint8(1)), "reduce_zero_label"),
    "annotations": (_with(lambda folder: "", "labels: a.json\n", a__json="{}"), "cliptrase convert"),
    "JPEG in TIFF": (_save(_BYTES, "labels/a.tif", compression="jpeg"), "lossy"),
    "JPEG named PNG": (_save(_BYTES, format="JPEG"), "unsupported format"),
    "wrong checksum": (_break_checksum, "unreadable"),
    "several pages": (
        _save(_BYTES, "labels/a.tif", save_all=True, append_images=[Image.fromarray(_BYTES)]),
        "several images",
    ),
    "objects in NumPy": (_save_numpy(np.array([None])), "NumPy"),
    "three axes in NumPy": (_save_numpy(np.zeros((3, 3, 4, 2))), "shape"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_forms_that_are_refused(tmp_path: Path, form: str) -> None:
    write, match = REFUSED[form]
    path = write_form(tmp_path, write)
    with pytest.raises(InputError, match=match):
        read_labels(path)


def test_nodata_may_be_a_class_if_the_label_map_says_so(tmp_path: Path) -> None:
    write = _with(_save(_IDS.astype(np.uint8), "labels/a.tif", tiffinfo={42113: "7"}), _MAP)
    assert np.array_equal(read_labels(write_form(tmp_path, write))[1], TRUTH)


# Rows of the guide, and the forms above or the tests below and elsewhere that prove them.
ROWS: dict[str, Sequence[str]] = {
    "8-bit or 16-bit grey values, palette indices, 32-bit TIFF, BMP": (
        *("8-bit grey PNG", "16-bit grey PNG", "palette indices", "8-bit TIFF", "32-bit TIFF", "signed 8-bit TIFF"),
        *("BMP", "BMP with a palette"),
    ),
    "class index in three equal channels, or with an opaque alpha channel": (
        *("index in three channels", "index with alpha", "index in RGBA", "colour BMP of one index"),
    ),
    "floating-point TIFF with whole numbers, NumPy `.npy` [height, width]": (
        *("float TIFF", "int64 NumPy", "float NumPy with an axis of one", "colours in NumPy"),
    ),
    "TIFF of 64 bits, or with other options of GDAL": ("test_geotiff_of_many_types",),
    "GeoTIFF with a nodata value": (
        *("float TIFF with nodata", "float TIFF with nodata NaN", "nodata that is a class"),
        *("test_nodata_may_be_a_class_if_the_label_map_says_so", "test_geotiff_of_64_bits_whose_nodata_is_a_class"),
    ),
    "0 is unlabelled, and classes count from 1": ("reduce_zero_label", "counted from 1", "two keys"),
    "0 is a background that you want to score": ("background",),
    "binary masks of 0 and 255": ("binary masks",),
    "255 is a class, since the files have 16 bits": ("255 is a class",),
    "other numbers, such as the `labelIds` of Cityscapes": ("label_map",),
    "colours: CVAT, CamVid, Supervisely, Pascal VOC, Cityscapes": (
        *("colours by hand", "colours with alpha", "CVAT", "CSV of colours", "CamVid", "Supervisely", "Pascal VOC"),
        *("Cityscapes colours", "a class without a colour", "a colour of two classes", "other colours"),
        *("numbers with label_colors", "colours as keys of label_map"),
    ),
    "palette files whose numbers differ from file to file": ("colours of a palette", "palettes of each file"),
    "full annotations of ADE20K": ("ADE20K full",),
    "COCO panoptic: PNG and JSON": ("COCO panoptic", "test_panoptic_files_that_do_not_fit"),
    "folders of `labelme_json_to_dataset`": ("labelme_json_to_dataset",),
    "polygons and masks in JSON, one file per label, Hugging Face data sets": ("annotations",),
    "colours without a key, 16 bits in several channels, transparent pixels, fractions": (
        *("colours without a key", "16 bits in three channels", "transparent pixels", "fractions", "NaN"),
        *("objects in NumPy", "three axes in NumPy"),
    ),
    "JPEG, also as compression of a TIFF file or named `.png`": ("JPEG", "JPEG in TIFF", "JPEG named PNG"),
    "wrong checksums, missing rows, several pages": ("wrong checksum", "several pages"),
}


def test_every_row_of_the_guide_is_tested() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "own_data.md").read_text(encoding="utf-8")
    table = guide.split("| Labels | How |\n|---|---|\n")[1].split("\n\n")[0]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()] == list(ROWS)
    proofs = [proof for proofs in ROWS.values() for proof in proofs]
    assert {proof for proof in proofs if not proof.startswith("test_")} == FORMS.keys() | REFUSED.keys()
    assert all(proof in globals() for proof in proofs if proof.startswith("test_"))


@pytest.mark.parametrize("fault", ["no file", "no annotation", "no category", "not a class", "no segment"])
def test_panoptic_files_that_do_not_fit(tmp_path: Path, fault: str) -> None:
    path = write_form(tmp_path, _write_panoptic)
    json_path = tmp_path / "panoptic.json"
    content = json.loads(json_path.read_text())
    segments = content["annotations"][0]["segments_info"]
    if fault == "no annotation":
        content["annotations"][0]["file_name"] = "b.png"
    elif fault == "no category":
        segments[0]["category_id"] = 1000
    elif fault == "not a class":
        content["categories"][0]["name"] = "rood"
    elif fault == "no segment":
        segments.pop()
    json_path.write_text(json.dumps(content))
    if fault == "no file":
        json_path.unlink()
    with pytest.raises(InputError):
        read_labels(path)


def test_a_data_set_file_in_json(tmp_path: Path) -> None:
    path = write_form(tmp_path, _with(_save(_IDS.astype(np.uint8)), _MAP))
    content = {"name": "json", "images": "images", "labels": "labels", "classes": list(CLASSES)}
    content["label_map"] = {"0": 255, "7": 0, "8": 1, "21": 2}
    other = path.with_suffix(".json")
    for indent in (None, "\t"):
        other.write_text(json.dumps(content, indent=indent))
        assert read_dataset_file(other).label_map == {0: 255, 7: 0, 8: 1, 21: 2}
    content["label_map"] = {"sky": 0}
    other.write_text(json.dumps(content))
    with pytest.raises(InputError, match="'sky'"):
        read_dataset_file(other)


def test_labels_of_two_forms_in_one_data_set(tmp_path: Path) -> None:
    path = write_form(tmp_path, FORMS["8-bit grey PNG"])
    Image.new("RGB", (4, 3)).save(tmp_path / "images" / "b.png")
    Image.fromarray(np.dstack([_BYTES] * 3)).save(tmp_path / "labels" / "b.tif")
    assert inspect(read_dataset_file(path), workers=1).pixels.tolist() == [6, 6, 8]


@pytest.mark.parametrize("kind", [np.int64, np.float64, np.uint32])
@pytest.mark.parametrize("nodata", [None, -5, 9, 255])
def test_geotiff_of_many_types(tmp_path: Path, kind: type, nodata: int | None) -> None:
    rasterio = pytest.importorskip("rasterio")
    if nodata == -5 and kind is np.uint32:
        pytest.skip("unsigned integers have no -5")

    def write(folder: Path) -> str:
        (folder / "labels").mkdir()
        values = np.where(TRUTH == 255, nodata or 255, TRUTH).astype(kind)
        options = {"width": 4, "height": 3, "count": 1, "dtype": kind, "nodata": nodata}
        with rasterio.open(folder / "labels" / "a.tif", "w", driver="GTiff", **options) as dataset:
            dataset.write(values, 1)
        return ""

    assert np.array_equal(read_labels(write_form(tmp_path, write))[1], TRUTH)


def test_geotiff_of_64_bits_whose_nodata_is_a_class(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")

    def write(folder: Path, keys: str = "") -> str:
        (folder / "labels").mkdir()
        options = {"width": 4, "height": 3, "count": 1, "dtype": np.int64, "nodata": 0}
        with rasterio.open(folder / "labels" / "a.tif", "w", driver="GTiff", **options) as dataset:
            dataset.write(TRUTH.astype(np.int64), 1)
        return keys

    path = write_form(tmp_path, write)
    with pytest.raises(InputError, match="label_map"):
        read_labels(path)
    for zero in (0, 255):
        path.write_text(path.read_text().split("label_map")[0] + f"label_map: {{0: {zero}, 1: 1, 2: 2}}\n")
        expected = np.where(TRUTH == 0, zero, TRUTH)
        assert np.array_equal(read_labels(path)[1], expected)
