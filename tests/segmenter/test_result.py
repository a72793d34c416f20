"""SegmentationResult: shares, overlays and files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.segmenter.result import SegmentationResult, SoftMasks
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.picture import class_colours


def make_result(
    label_map: np.ndarray,
    classes: tuple[str, ...],
    masks: np.ndarray | None = None,
    logits: np.ndarray | None = None,
    scores: np.ndarray | None = None,
) -> SegmentationResult:
    return SegmentationResult(
        image=np.full((*label_map.shape, 3), 90, np.uint8),
        label_map=label_map.astype(np.int64),
        classes=classes,
        masks=np.zeros((0, *label_map.shape), np.float32) if masks is None else masks.astype(np.float32),
        mask_logits=np.zeros((0, len(classes)), np.float32) if logits is None else logits.astype(np.float32),
        scores=None if scores is None else scores.astype(np.float32),
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


# Two grid points side by side. Across four pixels, "sky" has the scores 0.8, 0.7, 0.5 and 0.4, and "tree" the rest.
SCORES = np.array([[[0.8, 0.4]], [[0.2, 0.6]]])
SCORED = make_result(np.array([[0, 0, 0, 1]]), ("sky", "tree"), scores=SCORES)


def test_score_maps_are_upsampled() -> None:
    np.testing.assert_allclose(SCORED.score_map(), [[0.8, 0.7, 0.5, 0.6]], rtol=1e-6)
    for tree in ("tree", 1):
        np.testing.assert_allclose(SCORED.score_map(tree), [[0.2, 0.3, 0.5, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(SCORED.score_map("sky", size=(2, 2)), [[0.8, 0.4]] * 2, rtol=1e-6)
    np.testing.assert_allclose(SCORED.score_rows(0, 1), np.stack([SCORED.score_map(0), SCORED.score_map(1)]))
    with pytest.raises(InputError, match=r"category: 'car'.*sky, tree"):
        SCORED.score_map("car")


def test_the_best_classes_of_the_grid_and_of_a_pixel() -> None:
    index, score = SCORED.top_k(2)
    assert index.tolist() == [[[0, 1]], [[1, 0]]]
    np.testing.assert_allclose(score, [[[0.8, 0.6]], [[0.2, 0.4]]], rtol=1e-6)
    index, score = SCORED.top_k(1, point=(3, 0))
    assert index.tolist() == [1]
    np.testing.assert_allclose(score, [0.6], rtol=1e-6)
    for count, point, match in ((3, None, "count: 3"), (0, None, "count: 0"), (1, (4, 0), "point: 4,0")):
        with pytest.raises(InputError, match=match):
            SCORED.top_k(count, point)


def test_a_threshold_makes_pixels_unknown(tmp_path: Path) -> None:
    result = SCORED.with_threshold(0.55)
    assert result.label_map.tolist() == [[0, 0, -1, 1]]
    assert SCORED.label_map.tolist() == [[0, 0, 0, 1]]
    assert result.shares() == {"sky": 0.5, "tree": 0.25, "unknown": 0.25}
    assert np.isnan(result.score_map()).tolist() == [[False, False, True, False]]
    assert [(segment["category_name"], segment["area"]) for segment in result.to_coco()] == [("sky", 2), ("tree", 1)]
    assert result.to_coco()[0]["score"] == pytest.approx(0.75)
    result.save_labels(tmp_path / "a.png")
    for array in (read_label(tmp_path / "a.png"), np.array(result.to_pil())):
        assert array.tolist() == [[0, 0, 255, 1]]
    with pytest.raises(InputError, match="threshold: 2"):
        SCORED.with_threshold(2)


def test_unknown_pixels_keep_the_photograph_and_have_a_line_in_the_legend() -> None:
    labels = LABELS.repeat(5, 0).repeat(5, 1)  # large enough for a legend
    known = make_result(labels, RESULT.classes)
    result = make_result(np.where(labels == 0, -1, labels), RESULT.classes)
    assert (result.overlay(legend=False)[5:195, 205:] == 90).all()
    assert not np.array_equal(result.overlay()[:, 300:], known.overlay()[:, 300:])


@pytest.mark.parametrize(("count", "value"), [(255, 255), (256, 65535)])
def test_the_largest_value_of_a_png_is_unknown(tmp_path: Path, count: int, value: int) -> None:
    result = make_result(np.array([[0, count - 1, -1]]), tuple(map(str, range(count))))
    result.save_labels(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png").tolist() == [[0, count - 1, value]]
    assert np.array(result.to_pil()).tolist() == [[0, count - 1, value]]


def test_results_without_scores_say_so() -> None:
    with pytest.raises(InputError, match=r"^scores"):
        RESULT.top_k(1)
    assert "score" not in RESULT.to_coco()[0]


def test_masks_are_upsampled_when_they_are_read() -> None:
    maps = torch.tensor([[[0.8, 0.2]], [[0.2, 0.8]]])
    lazy = SegmentationResult(
        np.zeros((1, 4, 3), np.uint8),
        LABELS[:1, :4],
        ("sky", "tree", "road"),
        SoftMasks(maps, (1, 4)),
        np.zeros((2, 3), np.float32),
    )
    assert "2 masks" in repr(lazy)
    assert "masks" not in vars(lazy)
    np.testing.assert_allclose(lazy.masks[0], [[0.8, 0.65, 0.35, 0.2]], rtol=1e-6)
    assert lazy.masks is lazy.masks
    expected = make_result(LABELS[:1, :4], lazy.classes, lazy.masks, lazy.mask_logits).to_instances()
    np.testing.assert_array_equal(lazy.to_instances().pred_masks, expected.pred_masks)
