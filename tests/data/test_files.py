from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

from cliptrase_d2.cli.inputs import find_inputs
from cliptrase_d2.data.files import find_files
from cliptrase_d2.utils.errors import InputError


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_images_come_in_natural_order(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "img10.jpg", "img2.JPG", "img1.webp", "9.jpeg", "a.PNG", "b.tif", "c.TIFF")
    found = find_files(images, None)
    names = [Path(record["file_name"]).name for record in found.records]
    assert names == ["9.jpeg", "a.PNG", "b.tif", "c.TIFF", "img1.webp", "img2.JPG", "img10.jpg"]
    assert all(record.keys() == {"file_name"} for record in found.records)


def test_labels_are_paired_by_stem(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "a.b.jpg", "c.png")
    labels = fill(tmp_path / "labels", "a.b.png", "c.tif")
    assert find_files(images, labels).records == [
        {"file_name": str(images / "a.b.jpg"), "sem_seg_file_name": str(labels / "a.b.png")},
        {"file_name": str(images / "c.png"), "sem_seg_file_name": str(labels / "c.tif")},
    ]


def test_files_without_partner_are_told_apart(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "a.jpg", "b.jpg")
    labels = fill(tmp_path / "labels", "b.png", "c.png")
    found = find_files(images, labels)
    assert [Path(record["file_name"]).name for record in found.records] == ["b.jpg"]
    assert found.images_without_label == (images / "a.jpg",)
    assert found.labels_without_image == (labels / "c.png",)


def test_pattern_takes_a_part_of_a_folder(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "train_1.jpg", "val_1.jpg", "val_2.png", ".val_3.jpg")
    labels = fill(tmp_path / "labels", "train_1.png", "val_1.png", "val_2.png")
    found = find_files(images / "val_*", labels / "val_*.png")
    assert [Path(record["file_name"]).name for record in found.records] == ["val_1.jpg", "val_2.png"]
    assert not found.images_without_label
    assert not found.labels_without_image


def test_patterns_part_images_from_labels_in_one_folder(tmp_path: Path) -> None:
    both = fill(tmp_path / "both", "a.jpg", "a.png")
    assert find_files(both / "*.jpg", both / "*.png").records == [
        {"file_name": str(both / "a.jpg"), "sem_seg_file_name": str(both / "a.png")}
    ]


def test_pattern_that_nothing_matches(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "train_1.jpg")
    with pytest.raises(InputError, match=r"val_\*: no image\."):
        find_files(images / "val_*", None)
    with pytest.raises(InputError, match="none: no such folder"):
        find_files(tmp_path / "none" / "val_*", None)


def test_folder_with_a_star_in_its_name(tmp_path: Path) -> None:
    images = fill(tmp_path / "val*1", "a.jpg")
    assert len(find_files(images, None).records) == 1


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_files(tmp_path / "images", None)


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images").touch()
    with pytest.raises(InputError, match="not a folder"):
        find_files(tmp_path / "images", None)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image"):
        find_files(fill(tmp_path / "images"), None)


def test_folder_of_other_files_says_what_came(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image among 2 files, such as a\.bmp"):
        find_files(fill(tmp_path / "images", "a.bmp", "b.gif"), None)


def test_jpeg_labels_are_refused(tmp_path: Path) -> None:
    images, labels = fill(tmp_path / "images", "a.jpg"), fill(tmp_path / "labels", "a.jpg")
    with pytest.raises(InputError, match=r"no label file among 1 files, such as a\.jpg"):
        find_files(images, labels)


def test_two_images_of_one_stem(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"two images of one stem, a\.jpg and a\.png"):
        find_files(fill(tmp_path / "images", "a.jpg", "a.png"), None)


def test_images_and_labels_in_one_folder(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "a.jpg")
    with pytest.raises(InputError, match="in one folder"):
        find_files(images, tmp_path / "images" / ".." / "images")


def test_left_out_files_are_said_and_hidden_ones_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = fill(tmp_path / "images", "a.jpg", "b.bmp", ".DS_Store", "._a.jpg")
    with caplog.at_level(logging.WARNING):
        assert len(find_files(images, None).records) == 1
    assert "1 files are no images and left out: b.bmp" in caplog.text


def test_pattern_takes_folders_of_folders(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for city in ("bonn", "aachen"):
            fill(tmp_path / kind / city, f"{city}_{kind}.png", "notes.txt")
    images, labels = tmp_path / "images/*/*.png", tmp_path / "labels/*/*.png"
    found = find_files(images, labels, image_suffix="_images", label_suffix="_labels")
    assert [Path(record["file_name"]).name for record in found.records] == ["aachen_images.png", "bonn_images.png"]
    assert [Path(record["sem_seg_file_name"]).parent.name for record in found.records] == ["aachen", "bonn"]


def test_files_without_the_suffix_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = fill(tmp_path / "images", "a_rgb.jpg", "a_depth.jpg", "b_rgb.jpg")
    labels = fill(tmp_path / "labels", "a_ids.png", "a_colour.png", "b_ids.png", "b_ids.txt")
    with caplog.at_level(logging.WARNING):
        found = find_files(images, labels, image_suffix="_rgb", label_suffix="_ids")
    assert [Path(record["sem_seg_file_name"]).name for record in found.records] == ["a_ids.png", "b_ids.png"]
    assert not found.images_without_label
    assert not found.labels_without_image
    assert [record.getMessage() for record in caplog.records] == [
        f"{labels}: 1 files are no label files and left out: b_ids.txt"
    ]


def test_only_what_a_list_names_is_taken(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "a_rgb.jpg", "b_rgb.jpg", "c_rgb.jpg")
    labels = fill(tmp_path / "labels", "a.png", "c.png", "d.png")
    (tmp_path / "list.txt").write_text("c\na\n")
    found = find_files(images, labels, image_suffix="_rgb", image_list=tmp_path / "list.txt")
    assert [Path(record["file_name"]).name for record in found.records] == ["a_rgb.jpg", "c_rgb.jpg"]
    assert not found.images_without_label
    assert not found.labels_without_image  # "d" is none of the data set


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nq\nz", "2 of 3 stems without an image, such as q. Allowed: stems of images"),
        ("", "no stem"),
        (None, "no such file"),
    ],
)
def test_a_list_that_does_not_fit(tmp_path: Path, text: str | None, message: str) -> None:
    images = fill(tmp_path / "images", "a.jpg")
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=rf"list\.txt: {message}"):
        find_files(images, None, image_list=tmp_path / "list.txt")


def test_no_file_with_the_suffix(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", "a.jpg")
    with pytest.raises(InputError, match=r"no image\. Allowed: images ending in _rgb\.jpg _rgb\.jpeg"):
        find_files(images, None, image_suffix="_rgb")


def test_one_stem_in_two_folders(tmp_path: Path) -> None:
    for city in ("bonn", "aachen"):
        fill(tmp_path / city, "a.jpg")
    with pytest.raises(InputError, match=r"two images of one stem, a\.jpg and a\.jpg"):
        find_files(tmp_path / "*" / "*", None)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize(
    ("name", "shown"),
    [(b"a\xe9.jpg", r"a\\udce9\.jpg"), (b"a\nb.jpg", r"a\\nb\.jpg"), (b"\x1b[2J.jpg", r"\\x1b\[2J\.jpg")],
)
def test_a_name_that_no_report_could_have(tmp_path: Path, name: bytes, shown: str) -> None:
    images = fill(tmp_path / "images", "a.jpg")
    (images / os.fsdecode(name)).touch()
    with pytest.raises(InputError, match=rf"{shown}: a name that is not in UTF-8, or has control characters"):
        find_files(images, None)
    with pytest.raises(InputError, match="a name that is not in UTF-8"):
        find_inputs([str(images)])
