"""The proposal for each layout of public data sets and tools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.proposal import propose, render
from cliptrase_d2.utils.errors import InputError
from tests.data.proposal.folders import write_colors, write_masks, write_pictures, write_text

FOUR = ["a", "b", "c", "d"]
ABC = ("a", "b", "c")
CITYSCAPES_ROAD, CITYSCAPES_SKY, CITYSCAPES_CAR = (128, 64, 128), (70, 130, 180), (0, 0, 142)


def names(folder: str, suffix: str, stems: tuple[str, ...] = ABC) -> list[str]:
    return [f"{folder}/{stem}{suffix}" for stem in stems]


def placeholders(*values: int) -> list[str]:
    return [f"class_{value}" for value in values]


def check(root: Path, **expected: Any) -> None:
    """Compare the keys of a proposal, without the name, with the expected ones."""
    keys = propose(root).keys
    keys.pop("name")
    assert keys == expected


def pair_count(root: Path) -> int:
    """Return the number of pairs that the proposed file finds; all files must have a partner."""
    file = root / "proposal.yaml"
    file.write_text(render(propose(root), root, root), encoding="utf-8")
    files = read_dataset_file(file).find_files()
    assert not files.unpaired
    return len(files.records)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("JPEGImages", "SegmentationClass"),
        ("rgb", "gt"),
        ("photos", "masks"),
        ("img_dir", "ann_dir"),
        ("data/imgs", "data/annotations"),
        ("x", "y"),
        ("train", "trainannot"),
    ],
)
def test_two_folders(tmp_path: Path, images: str, labels: str) -> None:
    write_pictures(tmp_path, *names(images, ".jpg"))
    write_masks(tmp_path, names(labels, ".png"), [0, 1, 2, 255])
    check(tmp_path, images=images, labels=labels, classes=placeholders(0, 1, 2))
    assert pair_count(tmp_path) == 3


def test_drawings_of_few_colours_are_known_by_their_folder(tmp_path: Path) -> None:
    write_colors(tmp_path, names("images", ".png"), [(9, 9, 200), (200, 0, 9)])
    write_masks(tmp_path, names("labels", ".png"), [0, 1, 2])
    check(tmp_path, images="images", labels="labels", classes=placeholders(0, 1, 2))


def test_png_pictures_are_told_from_masks_by_their_content(tmp_path: Path) -> None:
    write_pictures(tmp_path, *names("one", ".png"))
    write_masks(tmp_path, names("two", ".png"), [0, 1])
    check(tmp_path, images="one", labels="two", classes=placeholders(0, 1))


def test_stems_that_start_differently(tmp_path: Path) -> None:
    write_pictures(tmp_path, *names("images", ".jpg", ("img_1", "img_2", "img_12")))
    write_masks(tmp_path, names("labels", ".png", ("label_1", "label_2", "label_12")), [0, 1])
    check(tmp_path, images="images/img_*.jpg", labels="labels/label_*.png", classes=placeholders(0, 1))


def test_folders_of_different_depth(tmp_path: Path) -> None:
    stems = ("a", "x/b", "x/y/c")
    write_pictures(tmp_path, *names("images", ".jpg", stems))
    write_masks(tmp_path, names("labels", ".png", stems), [0, 1])
    check(tmp_path, images="images/**/*", labels="labels/**/*", classes=placeholders(0, 1))
    assert pair_count(tmp_path) == 3


@pytest.mark.parametrize("suffix", [".tif", ".bmp", ".npy"])
def test_label_files_of_other_formats(tmp_path: Path, suffix: str) -> None:
    write_pictures(tmp_path, *names("images", ".jpg"))
    write_masks(tmp_path, names("labels", suffix), [0, 1, 2])
    check(tmp_path, images="images", labels="labels", classes=placeholders(0, 1, 2))


def test_files_directly_in_the_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path, "a.jpg", "b.jpg")
    write_masks(tmp_path, ["a.png", "b.png"], [0, 1, 2])
    check(tmp_path, images="*.jpg", labels="*.png", classes=placeholders(0, 1, 2))
    assert pair_count(tmp_path) == 2


def test_png_pictures_and_masks_in_one_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path, *names("data", ".png"))
    write_masks(tmp_path, names("data", "_mask.png"), [0, 1, 2])
    keys = propose(tmp_path).keys
    assert keys["label_suffix"] == "_mask"
    assert {keys["images"], keys["labels"]} == {"data/*.png"}


def test_roboflow(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        stems = tuple(f"{stem}_jpg.rf.{digit}e1f{split}" for stem, digit in zip(ABC, "a7b", strict=True))
        write_pictures(tmp_path, *names(split, ".jpg", stems))
        write_masks(tmp_path, names(split, "_mask.png", stems), [0, 1, 2])
        write_text(tmp_path, f"{split}/_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n2, dog\n")
    draft = propose(tmp_path)
    check(tmp_path, images="valid/*.jpg", labels="valid/*.png", label_suffix="_mask", classes="valid/_classes.csv")
    assert any("train" in note and "test" in note for note in draft.notes)
    assert pair_count(tmp_path) == 3


def test_roboflow_without_its_background(tmp_path: Path) -> None:
    write_pictures(tmp_path, *names("valid", ".jpg"))
    write_masks(tmp_path, names("valid", "_mask.png"), [1, 2])
    write_text(tmp_path, "valid/_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n2, dog\n")
    keys = propose(tmp_path).keys
    assert (keys["classes"], keys["reduce_zero_label"]) == (["cat", "dog"], True)


def test_isic(tmp_path: Path) -> None:
    stems = ("ISIC_0000010", "ISIC_0000011", "ISIC_0000013")
    write_pictures(tmp_path, *names("data", ".jpg", stems), *names("data", "_superpixels.png", stems))
    write_masks(tmp_path, names("gt", "_segmentation.png", stems), [0, 255])
    check(
        tmp_path, images="data/*.jpg", labels="gt", label_suffix="_segmentation", classes=placeholders(0, 255),
        label_map={0: 0, 255: 1},
    )  # fmt: skip
    assert pair_count(tmp_path) == 3


def test_cvat(tmp_path: Path) -> None:
    write_pictures(tmp_path, *names("JPEGImages", ".jpg"))
    write_colors(tmp_path, names("SegmentationClass", ".png"), [(51, 221, 255), (250, 50, 83)])
    write_colors(tmp_path, names("SegmentationObject", ".png"), [(128, 0, 0), (0, 128, 0)])
    write_text(tmp_path, "ImageSets/Segmentation/default.txt", "a\nb\nc\n")
    table = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nwater:51,221,255::\nball:250,50,83::\n"
    write_text(tmp_path, "labelmap.txt", table)
    labels = {"labels": "SegmentationClass", "label_colors": "labelmap.txt"}
    check(tmp_path, images="JPEGImages", classes=["water", "ball"], **labels)


def test_voc(tmp_path: Path) -> None:
    stems = tuple(f"2007_00000{index}" for index in range(5))
    write_pictures(tmp_path, *names("JPEGImages", ".jpg", stems), "JPEGImages/2008_000001.jpg")
    write_masks(tmp_path, names("SegmentationClass", ".png", stems), [0, 3, 15, 255])
    for name, listed in (("train", stems[:2]), ("val", stems[2:]), ("trainval", stems)):
        write_text(tmp_path, f"ImageSets/Segmentation/{name}.txt", "\n".join(listed))
    keys = propose(tmp_path).keys
    assert keys["image_list"] == "ImageSets/Segmentation/val.txt"
    assert len(keys["classes"]) == 21
    assert keys["classes"][3] == "bird"
    assert pair_count(tmp_path) == 3


@pytest.mark.parametrize("double", ["", ".jpg"])
def test_supervisely(tmp_path: Path, double: str) -> None:
    write_pictures(tmp_path, *names("ds/img", ".jpg"))
    write_colors(tmp_path, names("ds/masks_machine", f"{double}.png"), [(1, 1, 1), (2, 2, 2)])
    write_colors(tmp_path, names("ds/masks_human", f"{double}.png"), [(1, 200, 1), (2, 2, 99)])
    write_text(tmp_path, "obj_class_to_machine_color.json", {"cat": [1, 1, 1], "dog": [2, 2, 2]})
    keys = propose(tmp_path).keys
    assert (keys["images"], keys["labels"]) == ("ds/img", "ds/masks_machine")
    assert keys.get("label_suffix", "") == double
    assert keys["label_colors"] == keys["classes"] == "obj_class_to_machine_color.json"


@pytest.mark.parametrize("samples", [("cat_json", "dog_json", "sky_json"), ("img1", "img2", "img3", "img12")])
def test_samples_in_folders_of_their_own(tmp_path: Path, samples: tuple[str, ...]) -> None:
    for name in samples:
        write_pictures(tmp_path, f"{name}/img.png", f"{name}/label_viz.png")
        write_masks(tmp_path, [f"{name}/label.png"], [0, 1, 2])
        write_text(tmp_path, f"{name}/label_names.txt", "_background_\ncat\ndog\n")
    keys = propose(tmp_path).keys
    assert (keys["images"], keys["labels"]) == ("*/img.png", "*/label.png")
    assert keys["classes"] == ["cat", "dog"]


def test_samples_that_number_their_classes_differently(tmp_path: Path) -> None:
    for name, classes in (("one", "cat"), ("two", "dog")):
        write_pictures(tmp_path, f"{name}/img.png")
        write_masks(tmp_path, [f"{name}/label.png"], [0, 1])
        write_text(tmp_path, f"{name}/label_names.txt", f"_background_\n{classes}\n")
    keys = propose(tmp_path).keys
    assert keys["classes"] == ["cat", "dog"]
    assert not {"label_map", "label_colors", "reduce_zero_label"} & set(keys)


@pytest.mark.parametrize("clips", [("clip0", "clip1", "clip10"), ("beach", "forest", "street")])
def test_frames_of_one_name_in_many_folders(tmp_path: Path, clips: tuple[str, ...]) -> None:
    for clip in clips:
        write_pictures(tmp_path, *names(f"seq/images/{clip}", ".png", ("0001", "0002")))
        write_masks(tmp_path, names(f"seq/labels/{clip}", ".png", ("0001", "0002")), [0, 1])
    check(tmp_path, images="seq/images/*/*", labels="seq/labels/*/*", classes=placeholders(0, 1))


def test_folders_of_samples_with_images_and_masks(tmp_path: Path) -> None:
    for scene in ("scene1", "scene2", "scene3"):
        write_pictures(tmp_path, f"{scene}/images/{scene}.png")
        write_masks(tmp_path, [f"{scene}/masks/{scene}.png"], [0, 1])
    check(tmp_path, images="*/images/*", labels="*/masks/*", classes=placeholders(0, 1))
    assert pair_count(tmp_path) == 3


@pytest.mark.parametrize("is_real", [False, True])
def test_cityscapes(tmp_path: Path, is_real: bool) -> None:
    for split in ("train", "val"):
        for city in ("frankfurt", "lindau") if is_real else ("a", "b"):
            stems = tuple(f"{city}_00000{index}_000019" for index in range(2))
            write_pictures(tmp_path, *names(f"leftImg8bit/{split}/{city}", "_leftImg8bit.png", stems))
            for ending, values in (("labelTrainIds", [0, 10, 255]), ("labelIds", [7, 23, 0]), ("instanceIds", [7, 9])):
                write_masks(tmp_path, names(f"gtFine/{split}/{city}", f"_gtFine_{ending}.png", stems), values)
            write_colors(tmp_path, names(f"gtFine/{split}/{city}", "_gtFine_color.png", stems), [CITYSCAPES_SKY])
    keys = propose(tmp_path).keys
    classes = keys.pop("classes")
    del keys["name"]
    assert keys == {
        "images": "leftImg8bit/val/*/*",
        "labels": "gtFine/val/*/*",
        "image_suffix": "_leftImg8bit",
        "label_suffix": "_gtFine_labelTrainIds",
    }
    assert classes[10] == ("sky" if is_real else "class_10")
    assert pair_count(tmp_path) == 4


def test_cityscapes_label_ids(tmp_path: Path) -> None:
    stems = ("lindau_000000_000019", "lindau_000001_000019")
    write_pictures(tmp_path, *names("leftImg8bit/val/lindau", "_leftImg8bit.png", stems))
    write_masks(tmp_path, names("gtFine/val/lindau", "_gtFine_labelIds.png", stems), [0, 7, 23, 33])
    keys = propose(tmp_path).keys
    assert keys["label_map"][23] == keys["classes"].index("sky") == 10
    assert keys["label_map"][0] == keys["label_map"][-1] == 255


def test_gta5_is_named_by_its_palette(tmp_path: Path) -> None:
    palette = [0] * 768
    for value, color in ((7, CITYSCAPES_ROAD), (23, CITYSCAPES_SKY), (26, CITYSCAPES_CAR)):
        palette[3 * value : 3 * value + 3] = color
    write_pictures(tmp_path, *names("images", ".jpg"))
    write_masks(tmp_path, names("labels", ".png"), [0, 7, 23, 26], palette)
    keys = propose(tmp_path).keys
    assert len(keys["classes"]) == 19
    assert (keys["label_map"][23], keys["label_map"][26], keys["label_map"][0]) == (10, 13, 255)


@pytest.mark.parametrize(
    ("images", "labels", "ending"),
    [("val", "val_labels", ""), ("val", "val_labels", "_L"), ("701_StillsRaw_full", "LabeledApproved_full", "_L")],
)
def test_camvid(tmp_path: Path, images: str, labels: str, ending: str) -> None:
    write_pictures(tmp_path, *names(images, ".png", ("0016E5_00390", "0016E5_00391")))
    masks = names(labels, f"{ending}.png", ("0016E5_00390", "0016E5_00391"))
    write_colors(tmp_path, masks, [(64, 128, 64), (192, 0, 128)])
    write_text(tmp_path, "class_dict.csv", "name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\nVoid,0,0,0\n")
    keys = propose(tmp_path).keys
    assert (keys["images"], keys["labels"], keys.get("label_suffix", "")) == (images, labels, ending)
    assert (keys["classes"], keys["label_colors"]) == (["Animal", "Archway"], "class_dict.csv")


def test_ade20k(tmp_path: Path) -> None:
    rows = "\n".join(f"{index}\t0.1\t10\t1\t0\t{name}, thing" for index, name in enumerate(FOUR, 1))
    write_text(tmp_path, "objectInfo150.txt", f"Idx\tRatio\tTrain\tVal\tStuff\tName\n{rows}\n")
    for split, stem in (("training", "ADE_train_0000000"), ("validation", "ADE_val_0000000")):
        stems = tuple(f"{stem}{index}" for index in range(3))
        write_pictures(tmp_path, *names(f"images/{split}", ".jpg", stems))
        write_masks(tmp_path, names(f"annotations/{split}", ".png", stems), [0, 1, 3])
    check(
        tmp_path, images="images/validation", labels="annotations/validation", classes="objectInfo150.txt",
        reduce_zero_label=True,
    )  # fmt: skip


def test_full_ade20k(tmp_path: Path) -> None:
    for index, scene in enumerate(("street", "kitchen", "beach")):
        folder = f"images/validation/{scene}"
        write_pictures(tmp_path, f"{folder}/ADE_val_0000000{index}.jpg")
        write_colors(tmp_path, [f"{folder}/ADE_val_0000000{index}_seg.png"], [(0, 0, 0), (10, 7, 1), (140, 20, 2)])
        write_colors(tmp_path, [f"{folder}/ADE_val_0000000{index}_parts_1.png"], [(0, 0, 0), (10, 3, 1)])
    keys = propose(tmp_path).keys
    assert (keys["images"], keys["labels"]) == ("images/validation/*/*.jpg", "images/validation/*/*.png")
    assert (keys["label_suffix"], keys["label_coding"]) == ("_seg", "ade20k_full")


def test_coco_panoptic(tmp_path: Path) -> None:
    write_pictures(tmp_path, *names("val2017", ".jpg"))
    write_colors(tmp_path, names("annotations/panoptic_val2017", ".png"), [(1, 2, 3), (7, 8, 9)])
    categories = [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}]
    for split in ("train2017", "val2017"):
        annotations = [{"image_id": 1, "file_name": "a.png", "segments_info": []}]
        content = {"images": [], "annotations": annotations, "categories": categories}
        write_text(tmp_path, f"annotations/panoptic_{split}.json", content)
    path = "annotations/panoptic_val2017.json"
    check(tmp_path, images="val2017", labels="annotations/panoptic_val2017", classes=path, panoptic_json=path)


def write_coco(root: Path) -> None:
    write_pictures(root, *names("images", ".jpg"))
    content = {"images": [], "annotations": [{"image_id": 1, "segmentation": []}], "categories": []}
    write_text(root, "instances.json", content)


def write_labelme(root: Path) -> None:
    write_pictures(root, *names("annotated", ".jpg"))
    for name in names("annotated", ".json"):
        write_text(root, name, {"shapes": [], "imagePath": "a.jpg"})


def write_label_studio(root: Path) -> None:
    write_pictures(root, *names("images", ".jpg"))
    write_masks(root, [f"masks/task-{i}-annotation-4-by-1-tag-sky-0.png" for i in range(3)], [0, 255])


@pytest.mark.parametrize("write", [write_coco, write_labelme, write_label_studio])
def test_polygons_and_files_of_single_labels_need_to_be_converted(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path)
    with pytest.raises(InputError, match="cliptrase convert"):
        propose(tmp_path)


def test_mmsegmentation_without_names(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_pictures(tmp_path, *names(f"data/img_dir/{split}", "_img.jpg"))
        write_masks(tmp_path, names(f"data/ann_dir/{split}", "_seg.png"), [1, 2, 3])
        write_text(tmp_path, f"data/splits/{split}.txt", "a\nb\nc\n")
    check(
        tmp_path, images="data/img_dir/val", image_suffix="_img", labels="data/ann_dir/val", label_suffix="_seg",
        classes=placeholders(1, 2, 3), reduce_zero_label=True,
    )  # fmt: skip


def test_pascal_context(tmp_path: Path) -> None:
    stems = ("2008_000002", "2008_000003")
    write_pictures(tmp_path, *names("JPEGImages", ".jpg", stems))
    write_masks(tmp_path, names("SegmentationClassContext", ".png", stems), [0, 1, 4])
    write_text(tmp_path, "classes.txt", "\n".join(FOUR))
    check(
        tmp_path, images="JPEGImages", labels="SegmentationClassContext", classes="classes.txt", reduce_zero_label=True
    )


def test_splits_above_the_roles(tmp_path: Path) -> None:
    for split in ("test", "train", "val"):
        write_pictures(tmp_path, *names(f"{split}/images", ".jpg"))
        write_masks(tmp_path, names(f"{split}/masks", ".png"), [0, 1])
    check(tmp_path, images="val/images", labels="val/masks", classes=placeholders(0, 1))
    assert any("train/images" in note for note in propose(tmp_path).notes)
