"""What a segmented image offers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.segmenter.result import SegmentationResult
from cliptrase_d2.utils.errors import InputError


def result(label_map: np.ndarray, classes: tuple[str, ...]) -> SegmentationResult:
    return SegmentationResult(
        image=np.full((*label_map.shape, 3), 90, np.uint8),
        label_map=label_map.astype(np.int64),
        classes=classes,
        masks=np.zeros((2, *label_map.shape), np.float32),
        mask_logits=np.zeros((2, len(classes)), np.float32),
    )


THREE = result(np.array([[2, 2, 0], [2, 2, 0]]).repeat(20, 0).repeat(20, 1), ("sky", "tree", "road"))


def test_shares_name_what_occurs_the_largest_first() -> None:
    assert list(THREE.shares().items()) == [("road", pytest.approx(4 / 6)), ("sky", pytest.approx(2 / 6))]


def test_equal_shares_stay_in_the_order_of_the_classes() -> None:
    assert list(result(np.array([[1, 0]]), ("a", "b")).shares()) == ["a", "b"]


def test_overlay_without_legend_has_the_size_of_the_image() -> None:
    assert THREE.overlay(legend=False).shape == (40, 60, 3)


def test_overlay_with_legend_begins_with_the_one_without() -> None:
    picture = THREE.overlay()
    assert picture.shape[0] == 40
    np.testing.assert_array_equal(picture[:, :60], THREE.overlay(legend=False))
    assert picture.shape[1] > 60


def test_repr_is_short() -> None:
    assert repr(THREE) == "SegmentationResult(60x40 pixels, 2 masks: road 66.7%, sky 33.3%)"
    many = result(np.arange(847)[None], tuple(f"class {index}" for index in range(847)))
    assert repr(many).endswith("class 4 0.1% and 842 more)")


def test_a_notebook_shows_the_overlay() -> None:
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(THREE._repr_png_()))), THREE.overlay())


def test_save_writes_the_overlay(tmp_path: Path) -> None:
    THREE.save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), THREE.overlay())


@pytest.mark.parametrize(("name", "form"), [("a.jpg", "JPEG"), ("a.PNG", "PNG"), ("a.bmp", "BMP")])
def test_the_suffix_decides_the_format(tmp_path: Path, name: str, form: str) -> None:
    THREE.save(str(tmp_path / name))
    with Image.open(tmp_path / name) as image:
        assert image.format == form


@pytest.mark.parametrize("name", ["a.psd", "a.xyz", "a", "missing/a.png"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.webp") as caught:
        THREE.save(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(("count", "depth"), [(255, np.uint8), (256, np.uint16), (847, np.uint16)])
def test_labels_have_16_bits_above_255_classes(tmp_path: Path, count: int, depth: type) -> None:
    labels = np.array([[0, count - 1], [7, 0]])
    result(labels, tuple(map(str, range(count)))).save_labels(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        stored = np.array(image)
    assert stored.dtype == depth
    np.testing.assert_array_equal(stored, labels)


def test_labels_are_not_written_lossily(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.png"):
        THREE.save_labels(tmp_path / "a.jpg")
