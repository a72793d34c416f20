"""PAMR against plain loops, on places where its result is known, and whatever way its maps are cut into chunks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cliptrase_d2.pipeline.refinement import DILATIONS, pamr, pixel_affinity, propagate

RING = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]


def random_image(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed)).float()


def random_labels(height: int, width: int, classes: int, seed: int = 1) -> Tensor:
    return torch.randint(0, classes, (height, width), generator=torch.Generator().manual_seed(seed))


def neighbour_places(y: int, x: int, height: int, width: int) -> list[tuple[int, int]]:
    """The 48 neighbours of a pixel, those beyond the border brought back to it."""
    offsets = [(dilation * down, dilation * right) for dilation in DILATIONS for down, right in RING]
    return [(min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)) for down, right in offsets]


def slow_affinity(image: np.ndarray) -> np.ndarray:
    """`pixel_affinity`, pixel by pixel, from its definition."""
    channels, height, width = image.shape
    affinity = np.zeros((48, height, width))
    for y in range(height):
        for x in range(width):
            places = neighbour_places(y, x, height, width)
            logits = np.zeros(48)
            for channel in range(channels):
                centre = image[channel, y, x]
                values = np.array([image[channel, row, column] for row, column in places])
                deviation = np.concatenate([values, [centre] * len(DILATIONS)]).std(ddof=1)
                logits -= np.abs(values - centre) / (1e-8 + 0.1 * deviation) / channels
            weights = np.exp(logits - logits.max())
            affinity[:, y, x] = weights / weights.sum()
    return affinity


def slow_round(labels: np.ndarray, affinity: np.ndarray, classes: int) -> np.ndarray:
    """One round, pixel by pixel, from one-hot labels."""
    height, width = labels.shape
    shares = np.zeros((classes, height, width))
    for y in range(height):
        for x in range(width):
            for weight, (row, column) in zip(affinity[:, y, x], neighbour_places(y, x, height, width), strict=True):
                shares[labels[row, column], y, x] += weight
    return shares


@pytest.mark.parametrize(("height", "width"), [(5, 7), (9, 4), (1, 6)])
def test_it_is_what_plain_loops_give(height: int, width: int) -> None:
    image, labels = random_image(height, width), random_labels(height, width, 3)
    affinity = slow_affinity(image.double().numpy())
    np.testing.assert_allclose(pixel_affinity(image).numpy(), affinity, atol=1e-5)
    expected = slow_round(labels.numpy(), affinity, 3)
    found = pamr(labels, image, steps=1)
    assert found.classes.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.shares.numpy(), expected, atol=1e-5)


def test_steps_are_rounds_of_the_same() -> None:
    affinity, maps = pixel_affinity(random_image(6, 8)), torch.rand(2, 6, 8)
    twice = propagate(propagate(maps, affinity, 1), affinity, 1)
    torch.testing.assert_close(propagate(maps, affinity, 2), twice)
    assert torch.equal(propagate(maps, affinity, 0), maps)


def test_the_range_of_the_colours_does_not_matter() -> None:
    image = random_image(6, 8)
    torch.testing.assert_close(pixel_affinity(image), pixel_affinity(image / 255 - 3), atol=1e-4, rtol=1e-3)


def test_a_constant_image_smooths_labels_by_a_plain_mean_of_the_neighbours() -> None:
    image = torch.full((3, 60, 61), 90.0)
    assert torch.equal(pixel_affinity(image), torch.full((48, 60, 61), 1 / 48))
    labels = torch.zeros(60, 61, dtype=torch.int64)
    labels[30, 31] = 1
    shares = pamr(labels, image, steps=1).shares[1]
    # Each of the 48 pixels that have this one as a neighbour gives it a 48th, itself nothing, for it is not its own.
    assert shares.count_nonzero() == 48
    assert shares[30, 31] == 0
    assert shares[30, 32] == shares[30 + 24, 31 - 24] == pytest.approx(1 / 48)
    assert math.isclose(float(shares.sum()), 1, rel_tol=1e-5)


def test_ragged_labels_snap_to_the_edge_between_two_colours() -> None:
    image = torch.zeros(3, 40, 56)
    image[:, :, 28:] = 200
    truth = (image[0] > 0).long() * 5
    ragged = truth.clone()
    ragged[::4, 25:28] = 5  # the border of the labels wavers by three pixels to either side
    ragged[2::4, 28:31] = 0
    assert not torch.equal(ragged, truth)
    assert torch.equal(pamr(ragged, image).label_map, truth)


def test_one_class_stays_everywhere() -> None:
    found = pamr(torch.full((7, 9), 846), random_image(7, 9))
    assert torch.equal(found.label_map, torch.full((7, 9), 846))
    torch.testing.assert_close(found.shares, torch.ones(1, 7, 9))


def test_shares_are_of_the_classes_that_occur() -> None:
    labels = torch.tensor([[3, 3, 9], [9, 3, 100]])
    found = pamr(labels, random_image(2, 3), steps=2)
    assert found.classes.tolist() == [3, 9, 100]
    torch.testing.assert_close(found.shares.sum(0), torch.ones(2, 3))
    everywhere = found.of_all(847)
    assert everywhere.shape == (847, 2, 3)
    assert everywhere.flatten(1).any(1).nonzero().flatten().tolist() == [3, 9, 100]
    assert torch.equal(everywhere.argmax(0), found.label_map)


@pytest.mark.parametrize("values_at_once", [1, 2 * 11 * 13, 10**9])
def test_chunks_change_nothing(values_at_once: int) -> None:
    image, labels = random_image(11, 13), random_labels(11, 13, 7)
    found = pamr(labels, image, 3, values_at_once=values_at_once)
    torch.testing.assert_close(found.shares, pamr(labels, image, 3).shares, atol=0, rtol=0)
