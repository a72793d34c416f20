"""Palette, overlay, boundaries and resized label maps."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cliptrase_d2.visualization.overlay import find_boundaries, labels_at_size, overlay, palette


def distances(colours: np.ndarray, gap: int) -> np.ndarray:
    """Perceived differences (CIE76) between classes whose indices differ by ``gap``."""
    lab = cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    return np.linalg.norm(lab[gap:] - lab[:-gap], axis=1)


def test_colours_do_not_depend_on_the_number_of_classes() -> None:
    np.testing.assert_array_equal(palette(847)[:5], palette(5))
    assert palette(0).shape == (0, 3)
    assert palette(0).dtype == palette(5).dtype == np.uint8


@pytest.mark.parametrize(
    ("count", "gaps", "least"),
    [
        (150, range(1, 7), 20),  # distinguishable in small patches that are far apart
        (10, range(1, 10), 40),
        (144, range(1, 144), 2),  # just noticeable
    ],
)
def test_colours_are_distinguishable(count: int, gaps: range, least: float) -> None:
    assert min(distances(palette(count), gap).min() for gap in gaps) > least


def test_overlay_blends_image_and_colour() -> None:
    image, labels = np.full((6, 6, 3), 100, np.uint8), np.zeros((6, 6), np.int64)
    blended = overlay(image, labels, np.array([[200, 0, 50]], np.uint8), opacity=0.25)
    # A single class has no boundary. 0.75·100 + 0.25·(200, 0, 50), with halves rounded to even.
    np.testing.assert_array_equal(blended, np.broadcast_to([125, 75, 88], (6, 6, 3)))
    assert (image == 100).all()


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


@pytest.mark.parametrize("label", [-1, 2, 255])
def test_a_label_without_a_colour_is_rejected(label: int) -> None:
    with pytest.raises(ValueError, match="2 colours"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), label), palette(2))


def test_resized_labels_are_those_under_the_pixel_centres() -> None:
    labels = np.array([[1, 2, 3], [4, 5, 6]])
    # The centres of two columns over three lie at 0.75 and 2.25, in the first and the third.
    np.testing.assert_array_equal(labels_at_size(labels, (4, 2)), [[1, 3], [1, 3], [4, 6], [4, 6]])
    np.testing.assert_array_equal(labels_at_size(labels, (2, 3)), labels)
