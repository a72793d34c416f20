"""Pictures of segmented images."""

from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.visualization.overlay import overlay, palette
from cliptrase_d2.visualization.picture import class_shares, evaluation_picture, labelled_picture

CLASSES = ("sky", "tree", "road")
GREY = np.full((320, 320, 3), 90, np.uint8)
LEFT_RIGHT = np.repeat([[0] * 160 + [2] * 160], 320, axis=0)


def _has(picture: np.ndarray, colour: np.ndarray) -> bool:
    return bool((picture == colour).all(2).any())


def _mixed(colour: np.ndarray) -> np.ndarray:
    """What a colour looks like over the grey image."""
    return overlay(GREY[:1, :1], np.zeros((1, 1), np.int64), colour[None])[0, 0]


def test_shares_are_those_of_the_pixels_the_largest_first() -> None:
    assert class_shares(np.array([[2, 0], [2, 2]]), 3) == [(2, 0.75), (0, 0.25)]


def test_equal_shares_stay_in_the_order_of_the_classes() -> None:
    assert class_shares(np.array([[1, 0]]), 3) == [(0, 0.5), (1, 0.5)]


def test_a_labelled_picture_begins_with_the_overlay() -> None:
    picture = labelled_picture(GREY, LEFT_RIGHT, CLASSES)
    np.testing.assert_array_equal(picture[:, :320], overlay(GREY, LEFT_RIGHT, palette(3)))
    legend = picture[:, 320:]
    assert [_has(legend, colour) for colour in palette(3)] == [True, False, True]


def test_without_labels_the_prediction_stands_alone() -> None:
    picture = evaluation_picture(GREY, LEFT_RIGHT, None, CLASSES, 255)
    np.testing.assert_array_equal(picture, labelled_picture(GREY, LEFT_RIGHT, CLASSES))


@pytest.mark.parametrize("ignore_label", [255, -1, 65535])
def test_the_ground_truth_stands_on_the_left_with_black_where_it_is_not_scored(ignore_label: int) -> None:
    truth = np.full((320, 320), 1)
    truth[100:200, 100:200] = ignore_label
    picture = evaluation_picture(GREY, LEFT_RIGHT, truth, CLASSES, ignore_label)
    truth_side = picture[-320:, :320]
    np.testing.assert_array_equal(truth_side[150, 150], [45, 45, 45])
    np.testing.assert_array_equal(truth_side[50, 50], _mixed(palette(3)[1]))
    alone = labelled_picture(GREY, LEFT_RIGHT, CLASSES)
    np.testing.assert_array_equal(picture[-320:, -alone.shape[1] :], alone)
    caption = picture[:-320]
    assert (caption[:, :320] < 128).any()
    assert (caption[:, -alone.shape[1] :] < 128).any()


def test_labels_of_another_size_are_shown_at_that_of_the_image() -> None:
    small = np.array([[0, 2]])  # stretched, it is LEFT_RIGHT
    picture = evaluation_picture(GREY, small, None, CLASSES, 255)
    np.testing.assert_array_equal(picture[:, :320], overlay(GREY, LEFT_RIGHT, palette(3)))
    large = LEFT_RIGHT.repeat(3, 0).repeat(2, 1)
    picture = evaluation_picture(GREY, large, None, CLASSES, 255)
    np.testing.assert_array_equal(picture[:, :320], overlay(GREY, LEFT_RIGHT, palette(3)))


@pytest.mark.parametrize(("side", "shown"), [(320, 320), (319, 638), (224, 448), (112, 336), (8, 320), (500, 500)])
def test_a_small_image_is_enlarged(side: int, shown: int) -> None:
    image, labels = np.zeros((side, side + 8, 3), np.uint8), np.zeros((side, side + 8), np.int64)
    assert len(evaluation_picture(image, labels, None, CLASSES, 255)) == shown


def test_847_classes_of_which_all_occur() -> None:
    labels = np.arange(40 * 40).reshape(40, 40) % 847
    names = [f"class {index}" for index in range(847)]
    picture = evaluation_picture(np.zeros((40, 40, 3), np.uint8), labels, labels, names, -1)
    assert picture.shape[1] > 2 * 320
