"""Results as images of indices, COCO's annotations and Detectron2's instances."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from cliptrase_d2.data.images import read_label
from cliptrase_d2.segmenter.result import SegmentationResult
from cliptrase_d2.visualization.overlay import palette

CLASSES = ("sky", "tree", "road")
# Three masks in columns of an image of 4x6: the first and the last are "road", the second is "sky"; "tree" is nowhere.
COLUMNS = np.array([0, 0, 0, 1, 1, 2])
HARD = np.eye(3, dtype=bool)[:, None, COLUMNS].repeat(4, axis=1)  # [3,4,6]
MASKS = np.where(HARD, 0.6, 0.3)
SHARES = np.array([[0.2, 0.0, 0.8], [0.9, 0.1, 0.0], [0.25, 0.25, 0.5]])
LABELS = np.broadcast_to(np.array([2, 0, 2])[COLUMNS], (4, 6))


def result_of(
    label_map: np.ndarray, classes: tuple[str, ...], masks: np.ndarray | None = None, logits: np.ndarray | None = None
) -> SegmentationResult:
    return SegmentationResult(
        image=np.full((*label_map.shape, 3), 90, np.uint8),
        label_map=label_map.astype(np.int64),
        classes=classes,
        masks=np.zeros((0, *label_map.shape), np.float32) if masks is None else masks.astype(np.float32),
        mask_logits=np.zeros((0, len(classes)), np.float32) if logits is None else logits.astype(np.float32),
    )


@pytest.fixture
def result() -> SegmentationResult:
    return result_of(LABELS, CLASSES, MASKS, np.log(np.maximum(SHARES, 1e-38)))


@pytest.mark.parametrize(("count", "mode"), [(1, "P"), (255, "P"), (256, "I;16"), (847, "I;16")])
def test_an_image_of_indices_comes_back_from_its_file(tmp_path: Path, count: int, mode: str) -> None:
    labels = np.array([[0, count - 1], [min(7, count - 1), 0]])
    image = result_of(labels, tuple(map(str, range(count)))).to_pil()
    assert image.mode == mode
    image.save(tmp_path / "a.png")
    for read in (np.array(image), np.array(Image.open(tmp_path / "a.png")), read_label(tmp_path / "a.png")):
        np.testing.assert_array_equal(read, labels)


def test_an_image_of_indices_has_the_colours_of_the_overlay(result: SegmentationResult) -> None:
    np.testing.assert_array_equal(np.array(result.to_pil().convert("RGB")), palette(3)[LABELS])


def test_every_class_that_occurs_is_an_annotation(result: SegmentationResult) -> None:
    sky, road = result.to_coco()
    assert (sky["category_id"], sky["category_name"], sky["area"]) == (0, "sky", 8)
    assert sky["bbox"] == [3.0, 0.0, 2.0, 4.0]
    assert sky["score"] == pytest.approx(0.9)
    assert (road["category_id"], road["category_name"], road["area"]) == (2, "road", 16)
    assert road["bbox"] == [0.0, 0.0, 6.0, 4.0]
    assert road["score"] == pytest.approx((12 * 0.8 + 4 * 0.5) / 16)  # three columns of one mask and one of another
    assert "image_id" not in road


def test_annotations_are_to_the_letter_those_of_pycocotools() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (40, 60)).repeat(3, 0).repeat(2, 1)
    labels[20:50, 30:90] = 5  # a large one, whose differences are far below zero
    for segment in result_of(labels, tuple("abcdef")).to_coco():
        inside = np.asfortranarray(labels == segment["category_id"]).astype(np.uint8)
        expected = coco.encode(inside)
        assert segment["segmentation"] == {"size": [120, 120], "counts": expected["counts"].decode()}
        assert segment["area"] == int(coco.area(expected))
        assert segment["bbox"] == coco.toBbox(expected).tolist()


def test_pycocotools_loads_annotations_as_results(
    result: SegmentationResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(json.dumps(result.to_coco(image_id=7)))
    truth = {"images": [{"id": 7, "height": 4, "width": 6}], "categories": [], "annotations": []}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    loaded = COCO(tmp_path / "truth.json").loadRes(found)
    capsys.readouterr()  # which it prints to
    road = loaded.loadAnns(loaded.getAnnIds(imgIds=[7], catIds=[2]))
    np.testing.assert_array_equal(loaded.annToMask(road[0]), LABELS == 2)


def test_without_masks_an_annotation_has_no_score() -> None:
    (segment,) = result_of(np.ones((2, 3)), CLASSES).to_coco()
    assert (segment["category_name"], segment["area"]) == ("tree", 6)
    assert "score" not in segment


def test_every_mask_with_pixels_is_an_instance(result: SegmentationResult) -> None:
    instances = result.to_instances()
    assert len(instances) == 3
    assert tuple(instances.image_size) == (4, 6)
    assert instances.pred_classes.tolist() == [2, 0, 2]
    torch.testing.assert_close(instances.scores, torch.tensor([0.8, 0.9, 0.5]))
    assert instances.pred_masks.dtype == torch.bool
    np.testing.assert_array_equal(instances.pred_masks.numpy(), HARD)
    assert instances.pred_boxes.tensor.tolist() == [[0, 0, 3, 4], [3, 0, 5, 4], [5, 0, 6, 4]]
    sure = instances[instances.scores > 0.7]
    assert sure.pred_classes.tolist() == [2, 0]


def test_a_mask_that_is_strongest_nowhere_is_no_instance() -> None:
    weak = np.concatenate([MASKS, np.zeros((1, 4, 6))])
    shares = np.concatenate([SHARES, [[0.1, 0.8, 0.1]]])
    instances = result_of(LABELS, CLASSES, weak, np.log(np.maximum(shares, 1e-38))).to_instances()
    assert instances.pred_classes.tolist() == [2, 0, 2]


def test_without_masks_there_is_no_instance() -> None:
    instances = result_of(np.ones((2, 3)), CLASSES).to_instances()
    assert len(instances) == 0
    assert instances.pred_masks.shape == (0, 2, 3)
    assert instances.pred_boxes.tensor.shape == (0, 4)
