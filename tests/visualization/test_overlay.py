"""Palette, overlay and boundaries."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cliptrase_d2.visualization.overlay import boundaries, labels_at_size, overlay, palette


def _distances(colours: np.ndarray, gap: int) -> np.ndarray:
    """Perceived difference (CIE76) of classes that are ``gap`` apart."""
    lab = cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    return np.linalg.norm(lab[gap:] - lab[:-gap], axis=1)


def test_a_colour_does_not_depend_on_the_number_of_classes() -> None:
    np.testing.assert_array_equal(palette(847)[:5], palette(5))


def test_palette_is_of_rgb_bytes() -> None:
    colours = palette(3)
    assert colours.shape == (3, 3)
    assert colours.dtype == np.uint8
    assert palette(0).shape == (0, 3)


@pytest.mark.parametrize("gap", [1, 2, 3, 4, 5, 6])
def test_near_classes_differ_clearly(gap: int) -> None:
    # A difference of 2 can just be seen; 20 is told apart in small patches far from each other.
    assert _distances(palette(150), gap).min() > 20


def test_the_first_ten_classes_are_very_different() -> None:
    assert min(_distances(palette(10), gap).min() for gap in range(1, 10)) > 40


def test_no_two_of_144_classes_look_the_same() -> None:
    assert min(_distances(palette(144), gap).min() for gap in range(1, 144)) > 2


def test_overlay_mixes_image_and_colour() -> None:
    image = np.full((6, 6, 3), 100, np.uint8)
    colours = np.array([[200, 0, 50]], np.uint8)
    mixed = overlay(image, np.zeros((6, 6), np.int64), colours, opacity=0.25)
    # One class has no border. 0.75·100 + 0.25·(200, 0, 50), halves to the even number.
    np.testing.assert_array_equal(mixed, np.broadcast_to([125, 75, 88], (6, 6, 3)))


def test_overlay_leaves_its_arguments_alone() -> None:
    image, labels = np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=np.int64)
    overlay(image, labels, palette(2))
    assert not image.any()
    np.testing.assert_array_equal(labels, np.eye(4))


def test_a_small_map_has_borders_one_pixel_wide() -> None:
    labels = np.repeat([[0, 0, 300, 300]], 4, axis=0)  # more classes than a byte holds
    np.testing.assert_array_equal(boundaries(labels), np.repeat([[False, False, True, False]], 4, axis=0))


def test_borders_grow_with_the_map() -> None:
    labels = np.repeat([[0] * 500 + [1] * 500], 1000, axis=0)
    assert boundaries(labels)[0].sum() == 2
    assert boundaries(labels)[:, :499].sum() == 0


def test_borders_are_white() -> None:
    labels = np.repeat([[0, 0, 1, 1]], 4, axis=0)
    picture = overlay(np.zeros((4, 4, 3), np.uint8), labels, palette(2))
    np.testing.assert_array_equal((picture == 255).all(2), boundaries(labels))


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5, 3\).*\(5, 4\)"):
        overlay(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.int64), palette(1))


@pytest.mark.parametrize("label", [-1, 2, 255])
def test_a_label_without_a_colour_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match="2 colours"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), label), palette(2))


def test_labels_at_another_size_are_those_under_the_middle_of_every_pixel() -> None:
    labels = np.array([[1, 2, 3], [4, 5, 6]])
    # The middles of two columns among three lie at 0.75 and 2.25 of them, in the first and the third.
    np.testing.assert_array_equal(labels_at_size(labels, (4, 2)), [[1, 3], [1, 3], [4, 6], [4, 6]])
    np.testing.assert_array_equal(labels_at_size(labels, (2, 3)), labels)
