"""Random views: sizes, windows, mirrors and colours, of the image and its labels alike."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from cliptrase_d2.san.augment import Augmentation, change_colours
from cliptrase_d2.utils.errors import InputError

# Every pixel says where it is: red its column, green its row; the label the quarter.
COLUMNS, ROWS = np.meshgrid(np.arange(60), np.arange(40))
IMAGE = np.stack([COLUMNS * 4, ROWS * 4, np.zeros_like(ROWS)], axis=2).astype(np.uint8)
LABELS = (COLUMNS >= 30).astype(np.int64) + 2 * (ROWS >= 20)


def view(seed: int = 0, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    arguments = {
        "short_sides": (40,), "sampling": "choice", "max_size": 100, "crop": None, "colours": False, "flip": False,
    }  # fmt: skip
    return Augmentation(**{**arguments, **changes})(IMAGE, LABELS, np.random.default_rng(seed), 255)


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    image, labels = view()
    assert np.array_equal(image, IMAGE)
    assert np.array_equal(labels, LABELS)


def test_the_short_side_is_one_of_those_named() -> None:
    sizes = {view(seed, short_sides=(20, 40))[0].shape[:2] for seed in range(20)}
    assert sizes == {(20, 30), (40, 60)}


def test_a_range_is_drawn_from_with_both_ends() -> None:
    sides = {view(seed, short_sides=(20, 23), sampling="range")[0].shape[0] for seed in range(60)}
    assert sides == {20, 21, 22, 23}


def test_the_long_side_is_bounded() -> None:
    assert view(short_sides=(80,), max_size=90)[0].shape[:2] == (60, 90)


def test_windows_hold_image_and_labels_of_the_same_place() -> None:
    starts = set()
    for seed in range(30):
        image, labels = view(seed, crop=(16, 24))
        assert labels.shape == (16, 24)
        column, row = image[0, 0, 0] // 4, image[0, 0, 1] // 4
        assert np.array_equal(labels, LABELS[row : row + 16, column : column + 24])
        starts.add((row, column))
    assert len(starts) > 20
    assert max(row for row, _ in starts) > 18
    assert max(column for _, column in starts) > 28


def test_small_images_are_padded_with_grey_and_no_label() -> None:
    image, labels = view(crop=(50, 64))
    assert image.shape == (50, 64, 3)
    assert (image[40:] == 128).all()
    assert (image[:, 60:] == 128).all()
    assert (labels[40:] == 255).all()
    assert np.array_equal(labels[:40, :60], LABELS)


def test_half_of_the_views_are_mirrored_with_their_labels() -> None:
    mirrored = 0
    for seed in range(40):
        image, labels = view(seed, flip=True)
        is_mirrored = image[0, 0, 0] > 100
        assert np.array_equal(labels, LABELS[:, ::-1] if is_mirrored else LABELS)
        mirrored += is_mirrored
    assert 10 < mirrored < 30


def test_colours_change_and_places_do_not() -> None:
    image, labels = view(3, colours=True)
    assert not np.array_equal(image, IMAGE)
    assert np.array_equal(labels, LABELS)


def test_every_second_image_keeps_each_of_its_colours() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    same = sum(np.array_equal(change_colours(picture, np.random.default_rng(seed)), picture) for seed in range(400))
    # All four are left out in one of sixteen views. HSV and back loses bits, but not where neither needs it.
    assert 10 < same < 45


def test_colours_stay_in_their_range() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    for seed in range(50):
        changed = change_colours(picture, np.random.default_rng(seed))
        assert changed.dtype == np.uint8
        before, after = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).mean() for p in (picture, changed))
        assert 0.2 * before < after < 2 * before


def test_the_same_numbers_give_the_same_view() -> None:
    first, second = (view(5, colours=True, flip=True, crop=(16, 16)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_labels_beyond_a_byte_stay() -> None:
    labels = LABELS + 40_000
    augmentation = Augmentation((20,), "choice", 100, (32, 32), False, False)
    found = augmentation(IMAGE, labels, np.random.default_rng(0), 65535)[1]
    assert set(np.unique(found)) == {40_000, 40_001, 40_002, 40_003, 65535}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"sampling": "all"}, "MIN_SIZE_TRAIN_SAMPLING"),
        ({"sampling": "range"}, "MIN_SIZE_TRAIN"),
        ({"short_sides": ()}, "MIN_SIZE_TRAIN"),
        ({"short_sides": (0,)}, "MIN_SIZE_TRAIN"),
        ({"crop": (0, 5)}, "CROP.SIZE"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=key):
        view(**changes)
