import logging
import os
import sys
from pathlib import Path

import pytest

from cliptrase_d2.cli.inputs import find_inputs
from cliptrase_d2.data.files import DatasetFiles, find_files
from cliptrase_d2.utils.errors import InputError


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return folder


def pairs(files: DatasetFiles) -> list[tuple[str, ...]]:
    """Return the file names of each record. Check that no file lacks a partner."""
    assert not files.unpaired
    return [tuple(Path(path).name for path in record.values()) for record in files.records]


def test_images_are_in_natural_order(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "img10.jpg", "img2.JPG", "img1.webp", "9.jpeg", "a.PNG", "b.tif", "c.TIFF")
    files = find_files(images, None)
    names = ["9.jpeg", "a.PNG", "b.tif", "c.TIFF", "img1.webp", "img2.JPG", "img10.jpg"]
    assert files.records == [{"file_name": str(images / name)} for name in names]


def test_labels_are_paired_by_stem(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "a.b.jpg", "c.png")
    labels = fill(tmp_path / "labels", "a.b.png", "c.tif")
    assert find_files(images, labels).records == [
        {"file_name": str(images / "a.b.jpg"), "sem_seg_file_name": str(labels / "a.b.png")},
        {"file_name": str(images / "c.png"), "sem_seg_file_name": str(labels / "c.tif")},
    ]


def test_files_without_a_partner_are_listed(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "a.jpg", "b.jpg")
    labels = fill(tmp_path / "labels", "b.png", "c.png")
    files = find_files(images, labels)
    assert [Path(record["file_name"]).name for record in files.records] == ["b.jpg"]
    assert files.unpaired == ((labels / "c.png", "image"), (images / "a.jpg", "label file"))


def test_pattern_selects_a_part_of_a_folder(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "train_1.jpg", "val_1.jpg", "val_2.png", ".val_3.jpg")
    labels = fill(tmp_path / "labels", "train_1.png", "val_1.png", "val_2.png")
    files = find_files(images / "val_*", labels / "val_*.png")
    assert pairs(files) == [("val_1.jpg", "val_1.png"), ("val_2.png", "val_2.png")]


def test_patterns_separate_images_from_labels_in_one_folder(tmp_path: Path) -> None:
    folder = fill(tmp_path / "both", "a.jpg", "a.png")
    assert pairs(find_files(folder / "*.jpg", folder / "*.png")) == [("a.jpg", "a.png")]


def test_pattern_over_several_folders(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        for city in ("bonn", "aachen"):
            fill(tmp_path / kind / city, f"{city}_{kind}.png", "notes.txt")
    images, labels = tmp_path / "images/*/*.png", tmp_path / "labels/*/*.png"
    files = find_files(images, labels, image_suffix="_images", label_suffix="_labels")
    assert pairs(files) == [("aachen_images.png", "aachen_labels.png"), ("bonn_images.png", "bonn_labels.png")]


def test_folder_with_a_star_in_its_name(tmp_path: Path) -> None:
    assert pairs(find_files(fill(tmp_path / "val*1", "a.jpg"), None)) == [("a.jpg",)]


@pytest.mark.parametrize(
    ("names", "place", "match"),
    [
        ((), "images", r"images: no image\."),
        (("train_1.jpg",), "images/val_*", r"val_\*: no image\."),
        (("a.jpg",), "none/val_*", "none: no such folder"),
        (("a.jpg",), "images/a.jpg", "not a folder"),
        (("a.jpg",), "images/**x", "cannot be listed|no image"),  # newer versions of Python accept it
        (("a.bmp", "b.gif"), "images", r"2 files, such as a\.bmp"),
        (("a.jpg", "a.png"), "images", r"a\.jpg and a\.png"),  # same stem
        ((), "images/*/*", r"c\.jpg and c\.jpg"),
    ],
)
def test_unusable_image_folder_is_rejected(tmp_path: Path, names: tuple[str, ...], place: str, match: str) -> None:
    fill(tmp_path / "images", *names)
    fill(tmp_path / "images" / "bonn", "c.jpg")
    fill(tmp_path / "images" / "aachen", "c.jpg")
    with pytest.raises(InputError, match=match):
        find_files(tmp_path / place, None)


def test_unusable_label_folder_is_rejected(tmp_path: Path) -> None:
    images, labels = fill(tmp_path / "images", "a.jpg"), fill(tmp_path / "labels", "a.jpg")
    with pytest.raises(InputError, match="in one folder"):
        find_files(images, tmp_path / "images" / ".." / "images")
    with pytest.raises(InputError, match=r"1 files, such as a\.jpg.*\.png \.tif"):  # JPEG is lossy
        find_files(images, labels)


def test_ignored_files_are_logged_and_hidden_ones_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = fill(tmp_path / "images", "a.jpg", "b.bmp", ".DS_Store", "._a.jpg")
    with caplog.at_level(logging.WARNING):
        assert pairs(find_files(images, None)) == [("a.jpg",)]
    (message,) = caplog.messages
    assert "b.bmp" in message
    assert "DS_Store" not in message


def test_files_without_the_suffix_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = fill(tmp_path / "images", "a_rgb.jpg", "a_depth.jpg", "b_rgb.jpg")
    labels = fill(tmp_path / "labels", "a_ids.png", "a_colour.png", "b_ids.png", "b_ids.txt")
    with caplog.at_level(logging.WARNING):
        files = find_files(images, labels, image_suffix="_rgb", label_suffix="_ids")
    assert pairs(files) == [("a_rgb.jpg", "a_ids.png"), ("b_rgb.jpg", "b_ids.png")]
    (message,) = caplog.messages  # about the only file with the suffix that is not an image
    assert message.startswith(str(labels))
    assert message.endswith("b_ids.txt")
    with pytest.raises(InputError, match=r"no image.*_none\.jpg _none\.jpeg"):
        find_files(images, None, image_suffix="_none")


def test_only_listed_files_are_used(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "a_rgb.jpg", "b_rgb.jpg", "c_rgb.jpg")
    labels = fill(tmp_path / "labels", "a.png", "c.png", "d.png")  # "d" is not part of the data set
    (tmp_path / "list.txt").write_text("c\na\n")
    files = find_files(images, labels, image_suffix="_rgb", image_list=tmp_path / "list.txt")
    assert pairs(files) == [("a_rgb.jpg", "a.png"), ("c_rgb.jpg", "c.png")]


@pytest.mark.parametrize(
    "line",
    [
        "a b",
        "a b_rgb",
        "a b_rgb.jpg",
        "images/a b_rgb.jpg",
        "/images/a b_rgb",
        "  a b \r",
        "FOLDER/images/a b_rgb.jpg",
    ],
)
def test_lines_of_a_list(tmp_path: Path, line: str) -> None:
    images = fill(tmp_path / "images", "a_rgb.jpg", "b_rgb.jpg", "a b_rgb.jpg")
    (tmp_path / "list.txt").write_text(f"{line.replace('FOLDER', str(tmp_path))}\n\n")
    files = find_files(images, None, image_suffix="_rgb", image_list=tmp_path / "list.txt")
    assert [Path(record["file_name"]).name for record in files.records] == ["a b_rgb.jpg"]


@pytest.mark.parametrize(
    "line", ["a.jpg a_ids.png", "images/a.jpg labels/a_ids.png", "/images/a.jpg\t/labels/a_ids.png"]
)
def test_lists_of_pairs(tmp_path: Path, line: str) -> None:
    images = fill(tmp_path / "images", "a.jpg", "b.jpg")
    labels = fill(tmp_path / "labels", "a_ids.png", "b_ids.png")
    (tmp_path / "list.txt").write_text(line)
    files = find_files(images, labels, label_suffix="_ids", image_list=tmp_path / "list.txt")
    assert pairs(files) == [("a.jpg", "a_ids.png")]
    (tmp_path / "list.txt").write_text(line.replace("a_ids", "b_ids"))
    with pytest.raises(InputError, match=r"list\.txt: .*different stems"):
        find_files(images, labels, label_suffix="_ids", image_list=tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a\nq\nz", "2 of 3 lines .* 'q'"),
        ("other/a.jpg", "1 of 1 lines"),  # a file of the same name in another folder
        ("a -1", "1 of 1 lines"),  # a list for one class, in which -1 marks images without it
        ("a.png", "1 of 1 lines"),
        (" \n", "no names"),
        ("", "no names"),
        (None, "no such file"),
    ],
)
def test_invalid_list_is_rejected(tmp_path: Path, text: str | None, match: str) -> None:
    images = fill(tmp_path / "images", "a.jpg")
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=rf"list\.txt: {match}"):
        find_files(images, None, image_list=tmp_path / "list.txt")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
@pytest.mark.parametrize(
    ("name", "escaped"),
    [(b"a\xe9.jpg", r"a\\udce9\.jpg"), (b"a\nb.jpg", r"a\\nb\.jpg"), (b"\x1b[2J.jpg", r"\\x1b\[2J\.jpg")],
)
def test_names_that_are_not_printable_are_rejected(tmp_path: Path, name: bytes, escaped: str) -> None:
    images = fill(tmp_path / "images", "a.jpg")
    (images / os.fsdecode(name)).touch()
    with pytest.raises(InputError, match=escaped):
        find_files(images, None)
    with pytest.raises(InputError, match=escaped):
        find_inputs([str(images)])
