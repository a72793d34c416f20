"""Pictures of segmented images."""

from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.visualization.overlay import overlay, palette
from cliptrase_d2.visualization.picture import class_shares, draw_evaluation, draw_labels

CLASSES = ("sky", "tree", "road")
GREY = np.full((320, 320, 3), 90, np.uint8)
LEFT_RIGHT = np.repeat([[0] * 160 + [2] * 160], 320, axis=0)


def test_shares_are_sorted_by_size_and_then_by_class() -> None:
    assert class_shares(np.array([[2, 0], [2, 2]]), 3) == [(2, 0.75), (0, 0.25)]
    assert class_shares(np.array([[1, 0]]), 3) == [(0, 0.5), (1, 0.5)]


def test_labelled_picture_is_the_overlay_with_a_legend_of_the_classes_that_occur() -> None:
    picture = draw_labels(GREY, LEFT_RIGHT, CLASSES)
    np.testing.assert_array_equal(picture[:, :320], overlay(GREY, LEFT_RIGHT, palette(3)))
    assert [(picture[:, 320:] == colour).all(2).any() for colour in palette(3)] == [True, False, True]


@pytest.mark.parametrize("ignore_label", [255, -1, 65535])
def test_ground_truth_is_on_the_left_with_ignored_pixels_in_black(ignore_label: int) -> None:
    truth = np.full((320, 320), 1)
    truth[100:200, 100:200] = ignore_label
    picture = draw_evaluation(GREY, LEFT_RIGHT, truth, CLASSES, ignore_label)
    tree = overlay(GREY[:1, :1], np.zeros((1, 1), np.int64), palette(3)[1:2])[0, 0]
    np.testing.assert_array_equal(picture[-320:][150, 150], [45, 45, 45])  # black over grey
    np.testing.assert_array_equal(picture[-320:][50, 50], tree)
    prediction = draw_evaluation(GREY, LEFT_RIGHT, None, CLASSES, ignore_label)
    np.testing.assert_array_equal(prediction, draw_labels(GREY, LEFT_RIGHT, CLASSES))
    left = -prediction.shape[1]
    np.testing.assert_array_equal(picture[-320:, left:], prediction)
    for caption in (picture[:-320, :320], picture[:-320, left:]):
        assert (caption < 128).any()  # text


@pytest.mark.parametrize("labels", [np.array([[0, 2]]), LEFT_RIGHT.repeat(3, 0).repeat(2, 1)], ids=["small", "large"])
def test_labels_are_resized_to_the_image(labels: np.ndarray) -> None:
    picture = draw_evaluation(GREY, labels, None, CLASSES, 255)
    np.testing.assert_array_equal(picture[:, :320], overlay(GREY, LEFT_RIGHT, palette(3)))


@pytest.mark.parametrize(("side", "height"), [(320, 320), (319, 638), (224, 448), (112, 336), (8, 320), (500, 500)])
def test_small_images_are_enlarged(side: int, height: int) -> None:
    image, labels = np.zeros((side, side + 8, 3), np.uint8), np.zeros((side, side + 8), np.int64)
    assert len(draw_evaluation(image, labels, None, CLASSES, 255)) == height
