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


@pytest.mark.parametrize("suffixes", [{"label_suffix": "_mask"}, {"image_suffix": "_rgb"}, {}])
def test_images_and_labels_in_one_folder(tmp_path: Path, suffixes: dict[str, str]) -> None:
    image, label = (f"{suffixes.get(key, '')}" for key in ("image_suffix", "label_suffix"))
    kind = ".png" if suffixes else ".jpg"
    folder = fill(tmp_path / "both", *(f"{stem}{end}" for stem in "ab" for end in (f"{image}{kind}", f"{label}.png")))
    expected = [(f"{stem}{image}{kind}", f"{stem}{label}.png") for stem in "ab"]
    if image:  # without an ending of its own, each image could be a label
        with pytest.raises(InputError):
            pairs(find_files(folder, folder, **suffixes))
        assert pairs(find_files(folder / "*_rgb*", folder / "?.png*", **suffixes)) == expected
    else:
        assert pairs(find_files(folder, folder, **suffixes)) == expected


def test_files_that_are_both_images_and_labels_are_rejected(tmp_path: Path) -> None:
    folder = fill(tmp_path / "both", "a.png", "b.png")
    with pytest.raises(InputError, match="label_suffix"):
        find_files(folder, folder)


@pytest.mark.parametrize(
    ("images", "labels", "suffixes"),
    [
        ("seq/images/*/*", "seq/labels/*/*", ("", "")),
        ("seq/images/**/*", "seq/labels/**/*", ("", "")),
        ("seq/images/clip*/*.jpg", "seq/labels/clip*/*.png", ("", "")),
        ("rgb/clip*_rgb/*_x", "ids/clip*_ids/*_y", ("_x", "_y")),
        ("samples/*/img.jpg", "samples/*/label.png", ("", "")),
    ],
)
def test_repeated_stems_are_paired_by_the_wildcards(
    tmp_path: Path, images: str, labels: str, suffixes: tuple[str, str]
) -> None:
    for index in (0, 1):
        fill(tmp_path / f"seq/images/clip{index}", "01.jpg", "02.jpg")
        fill(tmp_path / f"seq/labels/clip{index}", "01.png", "02.png")
        fill(tmp_path / f"rgb/clip{index}_rgb", "01_x.jpg", "02_x.jpg")
        fill(tmp_path / f"ids/clip{index}_ids", "01_y.png", "02_y.png")
        fill(tmp_path / f"samples/clip{index}", "img.jpg", "label.png")
    endings = dict(zip(("image_suffix", "label_suffix"), suffixes, strict=True))
    images, labels = (f"{place}.*" if place.endswith(("_x", "_y")) else place for place in (images, labels))
    files = find_files(tmp_path / images, tmp_path / labels, **endings)
    assert not files.unpaired
    found = [[Path(path).relative_to(tmp_path).parts for path in record.values()] for record in files.records]
    assert len(found) == (2 if "samples" in images else 4)
    for image, label in found:
        clip = next(part[:5] for part in image if part.startswith("clip"))
        assert any(part.startswith(clip) for part in label)
        assert "img" in image[-1] or image[-1][:2] == label[-1][:2]


def test_a_missing_frame_is_found_among_repeated_stems(tmp_path: Path) -> None:
    for index in (0, 1):
        fill(tmp_path / f"images/clip{index}", "01.jpg", "02.jpg")
        fill(tmp_path / f"labels/clip{index}", *(["01.png", "02.png"] if index else ["01.png"]))
    files = find_files(tmp_path / "images/*/*", tmp_path / "labels/*/*")
    assert files.unpaired == ((tmp_path / "images/clip0/02.jpg", "label file"),)


def test_a_list_selects_repeated_stems_by_their_paths(tmp_path: Path) -> None:
    for index in (0, 1):
        fill(tmp_path / f"images/clip{index}", "01.jpg", "02.jpg")
        fill(tmp_path / f"labels/clip{index}", "01.png", "02.png")
    images, labels, names = tmp_path / "images/*/*", tmp_path / "labels/*/*", tmp_path / "list.txt"
    for line in ("clip1/02", "clip1/02.jpg", "images/clip1/02.jpg", "images/clip1/02.jpg labels/clip1/02.png"):
        names.write_text(line)
        (record,) = find_files(images, labels, image_list=names).records
        assert [Path(path).parent.name for path in record.values()] == ["clip1", "clip1"]
    names.write_text("02.jpg")
    with pytest.raises(InputError, match="2 images"):
        find_files(images, labels, image_list=names)


def test_annotations_in_the_label_folder_are_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images, labels = fill(tmp_path / "images", "a.jpg"), fill(tmp_path / "labels", "a.json")
    for place in (labels, labels / "a.json"):
        with pytest.raises(InputError, match="cliptrase convert"):
            find_files(images, place)
    (labels / "a.png").touch()
    assert pairs(find_files(images, labels)) == [("a.jpg", "a.png")]
    assert "cliptrase convert" in caplog.text


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
        (("a.heic", "b.gif"), "images", r"2 files, such as a\.heic"),
        (("a.jpg", "a.png"), "images", r"a\.jpg and a\.png"),  # same stem
        ((), "images/*/c*", r"c\.jpg and c\.png"),
    ],
)
def test_unusable_image_folder_is_rejected(tmp_path: Path, names: tuple[str, ...], place: str, match: str) -> None:
    fill(tmp_path / "images", *names)
    fill(tmp_path / "images" / "bonn", "c.jpg")
    fill(tmp_path / "images" / "aachen", "c.jpg", "c.png")
    with pytest.raises(InputError, match=match):
        find_files(tmp_path / place, None)


def test_unusable_label_folder_is_rejected(tmp_path: Path) -> None:
    images, labels = fill(tmp_path / "images", "a.jpg"), fill(tmp_path / "labels", "a.jpg")
    with pytest.raises(InputError, match=r"1 files, such as a\.jpg"):
        find_files(images, tmp_path / "images" / ".." / "images")
    with pytest.raises(InputError, match=r"1 files, such as a\.jpg.*\.png \.tif"):  # JPEG is lossy
        find_files(images, labels)


def test_ignored_files_are_logged_and_hidden_ones_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = fill(tmp_path / "images", "a.jpg", "b.gif", ".DS_Store", "._a.jpg")
    with caplog.at_level(logging.WARNING):
        assert pairs(find_files(images, None)) == [("a.jpg",)]
    (message,) = caplog.messages
    assert "b.gif" in message
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
