"""SegmentationResult: shares, overlays and files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.data.images import read_label
from cliptrase_d2.segmenter.result import SegmentationResult
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.picture import class_colours


def make_result(
    label_map: np.ndarray, classes: tuple[str, ...], masks: np.ndarray | None = None, logits: np.ndarray | None = None
) -> SegmentationResult:
    return SegmentationResult(
        image=np.full((*label_map.shape, 3), 90, np.uint8),
        label_map=label_map.astype(np.int64),
        classes=classes,
        masks=np.zeros((0, *label_map.shape), np.float32) if masks is None else masks.astype(np.float32),
        mask_logits=np.zeros((0, len(classes)), np.float32) if logits is None else logits.astype(np.float32),
    )


LABELS = np.array([[2, 2, 0], [2, 2, 0]]).repeat(20, 0).repeat(20, 1)
RESULT = make_result(LABELS, ("sky", "tree", "road"))


def test_repr_is_short() -> None:
    assert repr(RESULT) == "SegmentationResult(60x40 pixels, 0 masks: road 66.7%, sky 33.3%)"
    many = make_result(np.arange(847)[None], tuple(f"class {index}" for index in range(847)))
    assert repr(many).endswith("class 4 0.1% and 842 more)")


def test_the_overlay_has_a_legend_on_its_right() -> None:
    picture = RESULT.overlay(legend=False)
    assert picture.shape == (40, 60, 3)
    np.testing.assert_array_equal(RESULT.overlay()[:, :60], picture)
    assert RESULT.overlay().shape[1] > 60


def test_notebooks_and_png_files_show_the_overlay(tmp_path: Path) -> None:
    RESULT.save(tmp_path / "a.png")
    for file in (tmp_path / "a.png", io.BytesIO(RESULT._repr_png_())):
        np.testing.assert_array_equal(np.array(Image.open(file)), RESULT.overlay())


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "JPEG"), ("a.PNG", "PNG"), ("a.bmp", "BMP")])
def test_the_suffix_selects_the_format(tmp_path: Path, name: str, kind: str) -> None:
    RESULT.save(str(tmp_path / name))
    with Image.open(tmp_path / name) as image:
        assert image.format == kind


@pytest.mark.parametrize("name", ["a.psd", "a.xyz", "a", "missing/a.png"])
def test_unwritable_files_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        RESULT.save(tmp_path / name)
    assert caught.value.where == tmp_path / name
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("count", "mode", "dtype"),
    [(1, "P", np.uint8), (255, "P", np.uint8), (256, "I;16", np.uint16), (847, "I;16", np.uint16)],
)
def test_label_maps_are_stored_exactly(tmp_path: Path, count: int, mode: str, dtype: type) -> None:
    labels = np.array([[0, count - 1], [min(7, count - 1), 0]])
    result = make_result(labels, tuple(map(str, range(count))))
    result.save_labels(tmp_path / "saved.png")
    image, file = result.to_pil(), tmp_path / "pil.png"
    image.save(file)
    assert image.mode == mode
    stored = np.array(Image.open(tmp_path / "saved.png"))
    assert stored.dtype == dtype
    for array in (stored, np.array(image), np.array(Image.open(file)), read_label(file)):
        np.testing.assert_array_equal(array, labels)


def test_pil_images_have_the_colours_of_the_overlay() -> None:
    colours = class_colours(RESULT.classes, LABELS)
    np.testing.assert_array_equal(np.array(RESULT.to_pil().convert("RGB")), colours[LABELS])


def test_label_maps_are_only_saved_as_png(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jpg"):
        RESULT.save_labels(tmp_path / "a.jpg")
