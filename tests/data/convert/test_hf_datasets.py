"""Data sets of Hugging Face, made here: columns, class names, formats of pictures and faults. The hub is replaced."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.utils.errors import InputError
from tests.data.convert.sets import convert, labels, write_json

datasets = pytest.importorskip("datasets", reason="needs the extra [hf]")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [hf]")
pyarrow = pytest.importorskip("pyarrow")

LABELS = [[0, 1, 255], [1, 1, 0]]
NAMES = ("cat", "sky")


def encode(values: Any, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.array(values, np.uint8)).save(stream, kind)
    return stream.getvalue()


MAP = encode(LABELS)
PICTURE = encode(np.full((2, 3, 3), 7))


def build(pictures: Any = (PICTURE,), maps: Any = (MAP,), feature: Any = None, **columns: Any) -> Any:
    """Return a table of pictures and label maps."""
    features = datasets.Features(
        {"image": datasets.Image(), "annotation": feature or datasets.Image()}
        | {name: datasets.Value("string") for name in columns}
    )

    def wrap(values: Any) -> list[Any]:
        return [{"bytes": value, "path": None} if isinstance(value, bytes) else value for value in values]

    return datasets.Dataset.from_dict({"image": wrap(pictures), "annotation": wrap(maps), **columns}, features=features)


def save(folder: Path, table: Any) -> Path:
    table.save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize("names", ["--classes", "id2label.json"])
def test_saved_data_set(tmp_path: Path, names: str) -> None:
    folder = save(tmp_path / "set", build(scene=["a"]))
    if names == "id2label.json":
        write_json(folder / names, dict(enumerate(NAMES)))
    source, conversion = convert(folder, tmp_path / "out", classes=NAMES if names == "--classes" else None)
    assert source.format == "hf-datasets"
    assert conversion.spec.classes == NAMES
    assert labels(tmp_path / "out", "0") == LABELS
    assert (tmp_path / "out" / "images" / "0.png").read_bytes() == PICTURE
    assert conversion.findings.ignored == 1


@pytest.mark.parametrize("place", ["a.parquet", "data/validation-00000-of-00001.parquet"])
def test_parquet(tmp_path: Path, place: str) -> None:
    path = tmp_path / "set" / place
    path.parent.mkdir(parents=True)
    build().to_parquet(str(path))
    convert(tmp_path / "set", tmp_path / "folder", classes=NAMES)
    convert(path, tmp_path / "file", classes=NAMES)
    assert labels(tmp_path / "folder", "0") == labels(tmp_path / "file", "0") == LABELS


def test_rows_of_named_classes(tmp_path: Path) -> None:
    rows = datasets.Sequence(datasets.Sequence(datasets.ClassLabel(names=list(NAMES))))
    folder = save(tmp_path / "set", build(maps=([[0, 1, 1], [1, 1, 0]],), feature=rows))
    _, conversion = convert(folder, tmp_path / "out")
    assert conversion.spec.classes == NAMES
    assert labels(tmp_path / "out", "0") == [[0, 1, 1], [1, 1, 0]]
    _, conversion = convert(folder, tmp_path / "ordered", classes=("sky", "cat"))
    assert labels(tmp_path / "ordered", "0") == [[1, 0, 0], [0, 0, 1]]


def test_array_column(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", build(maps=(LABELS,), feature=datasets.Array2D((2, 3), "int32")))
    convert(folder, tmp_path / "out", classes=NAMES)
    assert labels(tmp_path / "out", "0") == LABELS


def test_ids_with_gaps(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", build(maps=(encode([[4, 9, 255], [9, 9, 4]]),)))
    write_json(folder / "id2label.json", {"9": "sky", "4": "cat"})
    _, conversion = convert(folder, tmp_path / "out")
    assert conversion.spec.classes == NAMES
    assert labels(tmp_path / "out", "0") == LABELS


def test_pictures_keep_their_files_or_become_png(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3))
    contents = [encode(pixels, kind) for kind in ("JPEG", "BMP", "WEBP")]
    folder = save(tmp_path / "set", build(contents, [encode(LABELS)] * 3))
    convert(folder, tmp_path / "out", classes=NAMES)
    images = tmp_path / "out" / "images"
    assert (images / "0.jpg").read_bytes() == contents[0]
    assert np.array_equal(np.asarray(Image.open(images / "1.png")), pixels)
    assert (images / "2.webp").read_bytes() == contents[2]


def test_paths_in_a_table_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    build([{"bytes": None, "path": str(tmp_path / "a.png")}]).to_parquet(str(tmp_path / "a.parquet"))
    content = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    content[0]["image"] = {"bytes": None, "path": str(tmp_path / "a.png")}
    schema = parquet.read_schema(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(content, schema), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"row 0, image: only the path of a file"):
        convert(tmp_path / "a.parquet", tmp_path / "out", classes=NAMES)


def test_row_without_labels_is_left_out_or_background(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", build([PICTURE] * 2, [encode(LABELS), None]))
    _, conversion = convert(folder, tmp_path / "out", classes=NAMES)
    assert (conversion.pictures, conversion.empty) == (1, 1)
    convert(folder, tmp_path / "background", classes=NAMES, background="other")
    assert labels(tmp_path / "background", "1") == [[2] * 3] * 2


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ({}, {"classes": None}, "without class names"),
        ({}, {"classes": ("cat",)}, "row 0: the label value 1"),
        ({"maps": (encode([[0, 1]]),)}, {}, r"shape \(1, 2\).*3 x 2"),
        ({"maps": (b"text",)}, {}, "row 0, labels: unreadable"),
        ({"pictures": (b"text",)}, {}, "row 0, picture: unreadable"),
        ({"pictures": (None,)}, {}, "row 0, image: None in place of a picture"),
        ({}, {"columns": ("photo", "")}, "--image-column: 'photo'.*image, annotation"),
        ({"extra": ["a"]}, {"columns": ("image", "extra")}, "labels 'a'"),
    ],
)
def test_faults_are_one_line(tmp_path: Path, table: Any, options: Any, message: str) -> None:
    folder = save(tmp_path / "set", build(**table))
    with pytest.raises(InputError, match=message):
        convert(folder, tmp_path / "out", **{"classes": NAMES, **options})


def test_unclear_columns_must_be_named(tmp_path: Path) -> None:
    table = build().add_column("second", [{"bytes": PICTURE, "path": None}], feature=datasets.Image())
    folder = save(tmp_path / "set", table)
    with pytest.raises(InputError, match="--image-column"):
        convert(folder, tmp_path / "out", classes=NAMES)
    convert(folder, tmp_path / "out", classes=NAMES, columns=("image", "annotation"))
    assert labels(tmp_path / "out", "0") == LABELS


def test_several_splits(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": build(), "validation": build()}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(InputError, match=r"train, validation.*set/train"):
        convert(tmp_path / "set", tmp_path / "out", classes=NAMES)
    convert(tmp_path / "set" / "validation", tmp_path / "out", classes=NAMES)
    assert labels(tmp_path / "out", "0") == LABELS


def test_damaged_table(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", build())
    next(folder.glob("*.arrow")).write_bytes(b"damaged")
    with pytest.raises(InputError, match="set: a data set that cannot be read"):
        convert(folder, tmp_path / "out", classes=NAMES)


def test_hub_says_the_size_before_it_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def describe(name: str) -> Any:
        assert name == "owner/name"
        return SimpleNamespace(info=SimpleNamespace(splits={"train": 1, "validation": 2}, download_size=12_000_000))

    def fetch(name: str, split: str) -> Any:
        assert "12 MB" in capsys.readouterr().out
        assert (name, split) == ("owner/name", "validation")
        return build()

    monkeypatch.setattr(datasets, "load_dataset_builder", describe)
    monkeypatch.setattr(datasets, "load_dataset", fetch)
    with pytest.raises(InputError, match=r"several splits: train, validation.*:validation"):
        convert("hf-datasets:owner/name", tmp_path / "out", classes=NAMES)
    convert("hf-datasets:owner/name:validation", tmp_path / "out", classes=NAMES)
    assert labels(tmp_path / "out", "0") == LABELS


def test_package_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "set", build())
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"datasets is not installed.*\[hf\]"):
        convert(folder, tmp_path / "out", classes=NAMES)
