"""Results as COCO annotations and Detectron2 instances."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from pycocotools.coco import COCO

from cliptrase_d2.segmenter.result import SegmentationResult
from tests.segmenter.test_result import make_result

CLASSES = ("sky", "tree", "road")
# Three masks, in the columns of an image of 4x6 pixels: "road", "sky", "road". "tree" does not occur.
COLUMNS = np.array([0, 0, 0, 1, 1, 2])
HARD = np.eye(3, dtype=bool)[:, None, COLUMNS].repeat(4, axis=1)  # [3,4,6]
MASKS = np.where(HARD, 0.6, 0.3)
SHARES = np.array([[0.2, 0.0, 0.8], [0.9, 0.1, 0.0], [0.25, 0.25, 0.5]])
# Probabilities of the classes in each column of pixels, which differ from the shares of votes.
SCORES = np.array([[0.1, 0.1, 0.1, 0.6, 0.4, 0.1], [0.1] * 6, [0.8, 0.8, 0.8, 0.3, 0.5, 0.2]])[:, None].repeat(
    4, axis=1
)
LABELS = np.broadcast_to(np.array([2, 0, 2])[COLUMNS], (4, 6))


@pytest.fixture
def result() -> SegmentationResult:
    return make_result(LABELS, CLASSES, MASKS, np.log(np.maximum(SHARES, 1e-38)), SCORES)


def test_every_class_that_occurs_is_an_annotation(result: SegmentationResult) -> None:
    sky, road = result.to_coco()
    assert (sky["category_id"], sky["category_name"], sky["area"]) == (0, "sky", 8)
    assert sky["bbox"] == [3.0, 0.0, 2.0, 4.0]
    assert sky["score"] == pytest.approx((0.6 + 0.4) / 2)
    assert (road["category_id"], road["category_name"], road["area"]) == (2, "road", 16)
    assert road["bbox"] == [0.0, 0.0, 6.0, 4.0]
    assert road["score"] == pytest.approx((3 * 0.8 + 0.2) / 4)  # the mean over its pixels
    assert "image_id" not in road


def test_annotations_describe_the_label_map() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (40, 60)).repeat(3, 0).repeat(2, 1)
    labels[20:50, 30:90] = 5
    for segment in make_result(labels, tuple("abcdef")).to_coco():
        inside = labels == segment["category_id"]
        np.testing.assert_array_equal(coco.decode(segment["segmentation"]), inside)  # type: ignore[arg-type]
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert segment["area"] == inside.sum()
        assert segment["bbox"] == [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


def test_pycocotools_loads_annotations_as_results(result: SegmentationResult, tmp_path: Path) -> None:
    results = json.loads(json.dumps(result.to_coco(image_id=7)))
    truth = {"images": [{"id": 7, "height": 4, "width": 6}], "categories": [], "annotations": []}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    loaded = COCO(tmp_path / "truth.json").loadRes(results)
    (road,) = loaded.loadAnns(loaded.getAnnIds(imgIds=[7], catIds=[2]))
    np.testing.assert_array_equal(loaded.annToMask(road), LABELS == 2)


def test_every_mask_with_pixels_is_an_instance(result: SegmentationResult) -> None:
    instances = result.to_instances()
    assert len(instances) == 3
    assert tuple(instances.image_size) == (4, 6)
    assert instances.pred_classes.tolist() == [2, 0, 2]
    torch.testing.assert_close(instances.scores, torch.tensor([0.8, 0.9, 0.5]))
    assert instances.pred_masks.dtype == torch.bool
    np.testing.assert_array_equal(instances.pred_masks.numpy(), HARD)
    assert instances.pred_boxes.tensor.tolist() == [[0, 0, 3, 4], [3, 0, 5, 4], [5, 0, 6, 4]]
    assert instances[instances.scores > 0.7].pred_classes.tolist() == [2, 0]


def test_masks_that_are_nowhere_the_strongest_are_no_instances() -> None:
    masks = np.concatenate([MASKS, np.zeros((1, 4, 6))])
    shares = np.concatenate([SHARES, [[0.1, 0.8, 0.1]]])
    instances = make_result(LABELS, CLASSES, masks, np.log(np.maximum(shares, 1e-38))).to_instances()
    assert instances.pred_classes.tolist() == [2, 0, 2]


def test_without_scores_and_masks_there_are_neither_scores_nor_instances() -> None:
    result = make_result(np.ones((2, 3)), CLASSES)
    (segment,) = result.to_coco()
    assert (segment["category_name"], segment["area"]) == ("tree", 6)
    assert "score" not in segment
    instances = result.to_instances()
    assert len(instances) == 0
    assert instances.pred_masks.shape == (0, 2, 3)
    assert instances.pred_boxes.tensor.shape == (0, 4)
