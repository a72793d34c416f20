from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.mapper import EvaluationMapper
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary

VOCABULARY = Vocabulary.parse(["sky", "tree", "road"])
ORIENTATION, TURN_RIGHT = 0x0112, 6


def mapper(protocol: str = "whole", short_side: int = 32, max_size: int = 64, **rule: object) -> EvaluationMapper:
    return EvaluationMapper(
        protocol=protocol,
        short_side=short_side,
        max_size=max_size,
        patch_size=16,
        vocabulary=VOCABULARY,
        label_rule=LabelRule(3, **rule),  # type: ignore[arg-type]
    )


def record(
    folder: Path, height: int, width: int, labels: np.ndarray | None = None, **options: object
) -> dict[str, str]:
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (height, width, 3)).astype(np.uint8)).save(folder / "a.png", **options)
    if labels is None:
        labels = random.integers(0, 3, (height, width))
    Image.fromarray(labels.astype(np.uint8)).save(folder / "a_label.png")
    return {"file_name": str(folder / "a.png"), "sem_seg_file_name": str(folder / "a_label.png")}


@pytest.mark.parametrize("size", [(50, 67), (67, 50), (32, 32), (20, 31), (33, 97), (128, 129)])
@pytest.mark.parametrize("side", [32, 48])
def test_center_crop_equals_torchvision(tmp_path: Path, size: tuple[int, int], side: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms", reason="torchvision is the reference here")
    files = record(tmp_path, *size)
    mapped = mapper("center_crop", side)(files)
    for mode, file, key in (("BICUBIC", "file_name", "image"), ("NEAREST", "sem_seg_file_name", "sem_seg")):
        interpolation = getattr(transforms.InterpolationMode, mode)
        reference = transforms.Compose([transforms.Resize(side, interpolation), transforms.CenterCrop(side)])
        expected = torch.from_numpy(np.array(reference(Image.open(files[file]))))
        assert torch.equal(mapped[key], expected.permute(2, 0, 1) if key == "image" else expected.long())
    assert (mapped["height"], mapped["width"]) == (side, side)


def test_whole_resizes_the_image_and_leaves_the_labels(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 3, (50, 67))
    mapped = mapper("whole")(record(tmp_path, 50, 67, labels))
    assert mapped["image"].shape == (3, 32, 48)  # 42.9 is nearer to 3 patches than to 2
    assert mapped["image"].dtype == torch.uint8
    assert (mapped["height"], mapped["width"]) == (50, 67)
    assert torch.equal(mapped["sem_seg"], torch.from_numpy(labels))
    assert mapped["vocabulary"] is VOCABULARY


def test_slide_sees_the_same_image_as_whole(tmp_path: Path) -> None:
    files = record(tmp_path, 50, 67)
    assert torch.equal(mapper("slide")(files)["image"], mapper("whole")(files)["image"])


def test_image_of_the_wanted_size_is_untouched(tmp_path: Path) -> None:
    files = record(tmp_path, 32, 48)
    pixels = torch.from_numpy(np.array(Image.open(files["file_name"]))).permute(2, 0, 1)
    assert torch.equal(mapper("whole")(files)["image"], pixels)


@pytest.mark.parametrize(
    ("protocol", "shape"), [("center_crop", (32, 32)), ("whole", (16, 64)), ("slide", (16, 64)), ("tiles", (16, 64))]
)
def test_thinnest_image(tmp_path: Path, protocol: str, shape: tuple[int, int]) -> None:
    mapped = mapper(protocol)(record(tmp_path, 1, 1000))
    assert mapped["image"].shape == (3, *shape)
    assert mapped["sem_seg"].shape == (mapped["height"], mapped["width"])


def test_record_without_labels(tmp_path: Path) -> None:
    files = record(tmp_path, 20, 20)
    assert "sem_seg" not in mapper()({"file_name": files["file_name"]})


def test_labels_are_mapped(tmp_path: Path) -> None:
    labels = np.full((32, 32), 9)
    labels[0, 0] = 0
    mapped = mapper("center_crop", label_map={0: 255, 9: 2})(record(tmp_path, 32, 32, labels))
    assert mapped["sem_seg"].dtype == torch.int64
    assert mapped["sem_seg"][0, 0] == 255
    assert (mapped["sem_seg"].flatten()[1:] == 2).all()


def test_label_outside_the_classes_is_found_even_where_it_is_cropped_away(tmp_path: Path) -> None:
    labels = np.zeros((32, 96))
    labels[0, 0] = 77
    with pytest.raises(InputError, match=r"a_label\.png: the label values 77"):
        mapper("center_crop")(record(tmp_path, 32, 96, labels))


def test_different_sizes_of_image_and_label(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a_label\.png: 20x10 pixels, its image .*a\.png 40x30"):
        mapper()(record(tmp_path, 30, 40, np.zeros((10, 20))))


def test_exif_rotated_image_fits_a_label_as_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_RIGHT
    mapped = mapper()(record(tmp_path, 20, 40, np.zeros((40, 20)), exif=exif))
    assert mapped["sem_seg"].shape == (40, 20)
    assert mapped["image"].shape == (3, 64, 32)


def test_exif_rotated_image_with_a_label_as_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_RIGHT
    with pytest.raises(InputError, match="EXIF rotation"):
        mapper()(record(tmp_path, 20, 40, np.zeros((20, 40)), exif=exif))


def test_unknown_protocol() -> None:
    with pytest.raises(InputError, match="center_crop, whole, slide, tiles"):
        mapper("centre_crop")


@pytest.mark.parametrize(("protocol", "short_side"), [("center_crop", 225), ("center_crop", 0), ("whole", 15)])
def test_size_that_does_not_fit_the_patches(protocol: str, short_side: int) -> None:
    with pytest.raises(InputError, match=r"INPUT\.MIN_SIZE_TEST"):
        mapper(protocol, short_side, max_size=640)


def test_longest_side_below_the_short_side() -> None:
    with pytest.raises(InputError, match=r"INPUT\.MAX_SIZE_TEST"):
        mapper("slide", 64, 32)


def test_image_is_not_scored_where_only_the_unlabelled_is_left(tmp_path: Path) -> None:
    labels = np.full((32, 96), 9)
    labels[:, 0] = 1  # cropped away
    rule = {"label_map": {1: 1, 9: 2}, "unscored_if_only": 9}
    files = record(tmp_path, 32, 96, labels)
    assert (mapper("center_crop", **rule)(files)["sem_seg"] == 255).all()
    assert (mapper("whole", **rule)(files)["sem_seg"] == torch.where(torch.tensor(labels == 9), 2, 1)).all()
