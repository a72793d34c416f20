"""Overlay, boundaries and resized label maps."""

from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.visualization.colours import palette
from cliptrase_d2.visualization.overlay import find_boundaries, labels_at_size, overlay


def test_overlay_blends_image_and_colour() -> None:
    image, labels = np.full((6, 6, 3), 100, np.uint8), np.zeros((6, 6), np.int64)
    blended = overlay(image, labels, np.array([[200, 0, 50]], np.uint8), opacity=0.25)
    # A single class has no boundary. 0.75·100 + 0.25·(200, 0, 50), with halves rounded to even.
    np.testing.assert_array_equal(blended, np.broadcast_to([125, 75, 88], (6, 6, 3)))
    assert (image == 100).all()


def test_unknown_pixels_have_no_tint() -> None:
    image = np.full((6, 8, 3), 100, np.uint8)
    labels = np.repeat([[0] * 4 + [-1] * 4], 6, axis=0)
    drawn = overlay(image, labels, np.array([[200, 200, 200]], np.uint8), opacity=0.5)
    assert [drawn[0, column].tolist() for column in (0, 4, 7)] == [[150] * 3, [255] * 3, [100] * 3]  # a white boundary
    assert (overlay(image, np.full((6, 8), -1), np.zeros((0, 3), np.uint8)) == 100).all()


def test_boundaries_are_one_pixel_wide_in_small_maps_and_white_in_overlays() -> None:
    labels = np.repeat([[0, 0, 300, 300]], 4, axis=0)  # more classes than a byte can hold
    np.testing.assert_array_equal(find_boundaries(labels), np.repeat([[False, False, True, False]], 4, axis=0))
    picture = overlay(np.zeros((4, 4, 3), np.uint8), labels, palette(301))
    np.testing.assert_array_equal((picture == 255).all(2), find_boundaries(labels))


def test_boundaries_are_wider_in_large_maps() -> None:
    labels = np.repeat([[0] * 500 + [1] * 500], 1000, axis=0)
    assert find_boundaries(labels)[0].sum() == 2
    assert find_boundaries(labels)[:, :499].sum() == 0


def test_different_sizes_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5, 3\).*\(5, 4\)"):
        overlay(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.int64), palette(1))


@pytest.mark.parametrize("label", [-2, 2, 255])
def test_a_label_without_a_colour_is_rejected(label: int) -> None:
    with pytest.raises(ValueError, match="2 colours"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), label), palette(2))


def test_resized_labels_are_those_under_the_pixel_centres() -> None:
    labels = np.array([[1, 2, 3], [4, 5, 6]])
    # The centres of two columns over three lie at 0.75 and 2.25, in the first and the third.
    np.testing.assert_array_equal(labels_at_size(labels, (4, 2)), [[1, 3], [1, 3], [4, 6], [4, 6]])
    np.testing.assert_array_equal(labels_at_size(labels, (2, 3)), labels)
