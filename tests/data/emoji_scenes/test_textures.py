from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.data.emoji_scenes import textures
from cliptrase_d2.data.emoji_scenes.names import STUFF
from cliptrase_d2.data.emoji_scenes.textures import UNITS, draw_texture, noise


def places(height: int, width: int, step: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """x and y [H,W] of the pixels of a picture, in units."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return (x * step + 0.5).astype(np.float32), (y * step + 0.5).astype(np.float32)


def test_every_stuff_has_a_texture() -> None:
    assert tuple(textures._TEXTURES) == STUFF


@pytest.mark.parametrize("name", STUFF)
def test_colours_of_a_texture(name: str) -> None:
    x, y = places(40, 56)
    colours = draw_texture(name, x, y, np.random.default_rng(1))
    assert (colours.shape, colours.dtype) == ((40, 56, 3), np.float32)
    # A pixel may be too light by a little: pictures are clipped once they are complete.
    assert colours.min() >= 0
    assert colours.max() <= 1.25 * 255
    assert colours.std(axis=(0, 1)).max() > 2, "one colour is no texture"


@pytest.mark.parametrize("name", STUFF)
def test_same_place_has_the_same_colour(name: str) -> None:
    x, y = places(32, 32)
    whole = draw_texture(name, x, y, np.random.default_rng(1))
    part = draw_texture(name, x[8:20, 4:30], y[8:20, 4:30], np.random.default_rng(1))
    assert np.array_equal(whole[8:20, 4:30], part)


@pytest.mark.parametrize("name", STUFF)
def test_as_many_random_numbers_are_taken_at_every_size(name: str) -> None:
    left = []
    for size in (8, 40):
        rng = np.random.default_rng(1)
        draw_texture(name, *places(size, size), rng)
        left.append(rng.random())
    assert left[0] == left[1]


def test_textures_differ_by_colour_or_grain() -> None:
    # Mean and spread of the three channels: no two stuffs agree in all six.
    x, y = places(int(UNITS), int(UNITS))
    drawn = [draw_texture(name, x, y, np.random.default_rng(1)) for name in STUFF]
    looks = np.array([[*colours.mean((0, 1)), *colours.std((0, 1))] for colours in drawn])  # [15,6]
    apart = np.abs(looks[:, None] - looks[None]).max(-1) + 1000 * np.eye(len(STUFF))
    assert apart.min() > 10


def test_checkerboard_by_hand() -> None:
    # Squares of five units, black where a picture begins.
    x, y = places(10, 10)
    white = draw_texture("checkerboard", x, y, np.random.default_rng(0))[..., 0] > 127
    expected = np.kron(np.array([[False, True], [True, False]]), np.ones((5, 5), bool))
    assert np.array_equal(white, expected)


def test_noise_is_smooth_and_lies_in_its_range() -> None:
    x, y = places(64, 64, step=0.25)
    values = noise(x, y)
    assert values.min() >= 0
    assert values.max() <= 1
    assert values.std() > 0.1
    # Linear between points one unit apart, so a quarter of a unit changes at most a quarter of the range.
    assert np.abs(np.diff(values, axis=1)).max() <= 0.26


def test_noise_repeats_without_a_seam() -> None:
    x, y = places(16, 16)
    for shift in ((256, 0), (0, 256), (-256, 512)):
        assert np.allclose(noise(x + np.float32(shift[0]), y + np.float32(shift[1])), noise(x, y), atol=1e-3)
    across = noise(np.linspace(254, 258, 41, dtype=np.float32)[None], np.full((1, 41), 3.5, np.float32))
    assert np.abs(np.diff(across)).max() <= 0.11  # a tenth of a unit each
