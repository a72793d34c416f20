"""PAMR against plain loops and known results."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cliptrase_d2.pipeline.refinement import pamr
from cliptrase_d2.utils.pixel_affinity import DILATIONS, pixel_affinity, propagate

RING = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]


def random_image(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width)).float()


def neighbours(y: int, x: int, height: int, width: int) -> list[tuple[int, int]]:
    """The 48 neighbours of a pixel, clamped to the image."""
    offsets = [(dilation * down, dilation * right) for dilation in DILATIONS for down, right in RING]
    return [(min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)) for down, right in offsets]


def slow_affinity(image: np.ndarray) -> np.ndarray:
    """`pixel_affinity`, pixel by pixel, from its definition."""
    channels, height, width = image.shape
    affinity = np.zeros((48, height, width))
    for y in range(height):
        for x in range(width):
            logits = np.zeros(48)
            for channel in range(channels):
                centre = image[channel, y, x]
                values = np.array([image[channel, row, column] for row, column in neighbours(y, x, height, width)])
                deviation = np.concatenate([values, [centre] * len(DILATIONS)]).std(ddof=1)
                logits -= np.abs(values - centre) / (1e-8 + 0.1 * deviation) / channels
            weights = np.exp(logits - logits.max())
            affinity[:, y, x] = weights / weights.sum()
    return affinity


def slow_step(labels: np.ndarray, affinity: np.ndarray, classes: int) -> np.ndarray:
    """One step, pixel by pixel, from one-hot labels."""
    height, width = labels.shape
    shares = np.zeros((classes, height, width))
    for y in range(height):
        for x in range(width):
            for weight, (row, column) in zip(affinity[:, y, x], neighbours(y, x, height, width), strict=True):
                shares[labels[row, column], y, x] += weight
    return shares


@pytest.mark.parametrize(("height", "width"), [(5, 7), (9, 4), (1, 6)])
def test_one_step_equals_plain_loops(height: int, width: int) -> None:
    image, labels = random_image(height, width), torch.arange(height * width).view(height, width) * 7 % 3
    affinity = slow_affinity(image.double().numpy())
    np.testing.assert_allclose(pixel_affinity(image).numpy(), affinity, atol=1e-5)
    refined = pamr(labels, image, steps=1)
    assert refined.classes.tolist() == [0, 1, 2]
    np.testing.assert_allclose(refined.shares.numpy(), slow_step(labels.numpy(), affinity, 3), atol=1e-5)


def test_two_steps_equal_one_step_twice() -> None:
    affinity, maps = pixel_affinity(random_image(6, 8)), torch.rand(2, 6, 8)
    twice = propagate(propagate(maps, affinity, 1), affinity, 1)
    torch.testing.assert_close(propagate(maps, affinity, 2), twice)
    assert torch.equal(propagate(maps, affinity, 0), maps)


def test_the_range_of_the_colours_does_not_matter() -> None:
    image = random_image(6, 8)
    torch.testing.assert_close(pixel_affinity(image), pixel_affinity(image / 255 - 3), atol=1e-4, rtol=1e-3)


def test_a_constant_image_gives_the_plain_mean_of_the_neighbours() -> None:
    image = torch.full((3, 60, 61), 90.0)
    assert torch.equal(pixel_affinity(image), torch.full((48, 60, 61), 1 / 48))
    labels = torch.zeros(60, 61, dtype=torch.int64)
    labels[30, 31] = 1
    shares = pamr(labels, image, steps=1).shares[1]
    # The pixel gives 1/48 to each of the 48 pixels whose neighbour it is, and nothing to itself.
    assert shares.count_nonzero() == 48
    assert shares[30, 31] == 0
    assert shares[30, 32] == shares[30 + 24, 31 - 24] == pytest.approx(1 / 48)
    assert math.isclose(float(shares.sum()), 1, rel_tol=1e-5)


def test_ragged_labels_align_with_the_edge_between_two_colours() -> None:
    image = torch.zeros(3, 40, 56)
    image[:, :, 28:] = 200
    truth = (image[0] > 0).long() * 5
    ragged = truth.clone()
    ragged[::4, 25:28] = 5  # the border of the labels varies by three pixels to either side
    ragged[2::4, 28:31] = 0
    assert torch.equal(pamr(ragged, image).label_map, truth)


def test_a_single_class_stays() -> None:
    refined = pamr(torch.full((7, 9), 846), random_image(7, 9))
    assert torch.equal(refined.label_map, torch.full((7, 9), 846))
    torch.testing.assert_close(refined.shares, torch.ones(1, 7, 9))


def test_scores_of_all_classes() -> None:
    refined = pamr(torch.tensor([[3, 3, 9], [9, 3, 100]]), random_image(2, 3), steps=2)
    assert refined.classes.tolist() == [3, 9, 100]
    torch.testing.assert_close(refined.shares.sum(0), torch.ones(2, 3))
    scores = refined.to_scores(847)
    assert scores.shape == (847, 2, 3)
    assert scores.flatten(1).any(1).nonzero().flatten().tolist() == [3, 9, 100]
    assert torch.equal(scores.argmax(0), refined.label_map)


@pytest.mark.parametrize("values_at_once", [1, 2 * 11 * 13, 10**9])
def test_chunks_do_not_change_the_result(values_at_once: int) -> None:
    image, labels = random_image(11, 13), torch.randint(0, 7, (11, 13))
    refined = pamr(labels, image, 3, values_at_once=values_at_once)
    torch.testing.assert_close(refined.shares, pamr(labels, image, 3).shares, atol=0, rtol=0)
