"""Pictures of segmented images."""

from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.visualization.names import draw_names
from cliptrase_d2.visualization.overlay import overlay
from cliptrase_d2.visualization.picture import class_colours, class_shares, draw_evaluation, draw_labels

CLASSES = ("sky", "tree", "road")
GREY = np.full((320, 320, 3), 90, np.uint8)
LEFT_RIGHT = np.repeat([[0] * 160 + [2] * 160], 320, axis=0)
COLOURS = class_colours(CLASSES, LEFT_RIGHT)
TINTED = overlay(GREY, LEFT_RIGHT, COLOURS)


def test_shares_are_sorted_by_size_and_then_by_class() -> None:
    assert class_shares(np.array([[2, 0], [2, 2]]), 3) == [(2, 0.75), (0, 0.25)]
    assert class_shares(np.array([[1, 0]]), 3) == [(0, 0.5), (1, 0.5)]


def test_unknown_pixels_are_last() -> None:
    assert class_shares(np.array([[-1, -1, 1, -1]]), 3) == [(1, 0.25), (-1, 0.75)]
    assert class_shares(np.full((2, 2), -1), 3) == [(-1, 1.0)]
    assert class_shares(np.array([[255, 0]], np.uint8), 256) == [(0, 0.5), (255, 0.5)]


def test_labelled_picture_is_the_overlay_with_names_and_a_legend_of_the_classes_that_occur() -> None:
    picture = draw_labels(GREY, LEFT_RIGHT, CLASSES)
    np.testing.assert_array_equal(picture[:, :320], draw_names(TINTED, LEFT_RIGHT, CLASSES))
    assert [(picture[:, 320:] == colour).all(2).any() for colour in COLOURS] == [True, False, True]


def test_legend_and_names_can_be_left_out() -> None:
    np.testing.assert_array_equal(draw_labels(GREY, LEFT_RIGHT, CLASSES, legend=False, names=False), TINTED)
    with_names = draw_labels(GREY, LEFT_RIGHT, CLASSES, legend=False)
    assert with_names.shape == GREY.shape
    assert (with_names != TINTED).any()


def test_unknown_pixels_are_in_the_legend() -> None:
    labels = np.where(LEFT_RIGHT == 2, -1, LEFT_RIGHT)
    picture = draw_labels(GREY, labels, CLASSES)
    np.testing.assert_array_equal(picture[:, 170:320], GREY[:, 170:])
    both = draw_labels(GREY, labels, [*CLASSES[:2], "unknown"])[:, 320:]
    assert picture[:, 320:].shape == both.shape  # as wide as with a class of that name


def test_pictures_of_a_large_vocabulary_share_their_colours() -> None:
    classes = tuple(f"shared {index}" for index in range(150))
    first = class_colours(classes, np.array([[149, 149, 3]]))
    second = class_colours(classes, np.array([[7, 3]]))
    np.testing.assert_array_equal(first[[149, 3]], second[[149, 3]])
    assert len(np.unique(second[[149, 3, 7]], axis=0)) == 3


@pytest.mark.parametrize("ignore_label", [255, -1, 65535])
def test_ground_truth_is_on_the_left_with_ignored_pixels_in_black(ignore_label: int) -> None:
    truth = np.full((320, 320), 1)
    truth[100:200, 100:200] = ignore_label
    picture = draw_evaluation(GREY, LEFT_RIGHT, truth, CLASSES, ignore_label)
    tree = overlay(GREY[:1, :1], np.zeros((1, 1), np.int64), COLOURS[1:2])[0, 0]
    np.testing.assert_array_equal(
        picture[-320:][110, 110], overlay(GREY[:1, :1], np.zeros((1, 1), int), np.zeros((1, 3)))[0, 0]
    )  # black over grey
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
    np.testing.assert_array_equal(picture[:, :320], draw_names(TINTED, LEFT_RIGHT, CLASSES))


@pytest.mark.parametrize(("side", "height"), [(320, 320), (319, 638), (224, 448), (112, 336), (8, 320), (500, 500)])
def test_small_images_are_enlarged(side: int, height: int) -> None:
    image, labels = np.zeros((side, side + 8, 3), np.uint8), np.zeros((side, side + 8), np.int64)
    assert len(draw_evaluation(image, labels, None, CLASSES, 255)) == height
