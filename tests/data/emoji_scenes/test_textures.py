import numpy as np
import pytest

from cliptrase_d2.data.emoji_scenes.names import STUFF
from cliptrase_d2.data.emoji_scenes.textures import UNITS, draw_texture, noise


def positions(height: int, width: int, step: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y [H,W] of the pixels of an image, in units."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return (x * step + 0.5).astype(np.float32), (y * step + 0.5).astype(np.float32)


@pytest.mark.parametrize("name", STUFF)
def test_colours_of_a_texture(name: str) -> None:
    x, y = positions(40, 56)
    colours = draw_texture(name, x, y, np.random.default_rng(1))
    assert (colours.shape, colours.dtype) == ((40, 56, 3), np.float32)
    # Colours may exceed 255 a little; images are clipped at the end.
    assert colours.min() >= 0
    assert colours.max() <= 1.25 * 255
    assert colours.std(axis=(0, 1)).max() > 2


@pytest.mark.parametrize("name", STUFF)
def test_colour_depends_on_the_position_only_and_random_values_not_on_the_size(name: str) -> None:
    (x, y), rng, other = positions(32, 32), np.random.default_rng(1), np.random.default_rng(1)
    image, part = draw_texture(name, x, y, rng), draw_texture(name, x[8:20, 4:30], y[8:20, 4:30], other)
    assert np.array_equal(image[8:20, 4:30], part)
    assert rng.random() == other.random()


def test_textures_differ_by_colour_or_grain() -> None:
    # Mean and spread of the three channels: no two textures agree in all six.
    x, y = positions(int(UNITS), int(UNITS))
    images = [draw_texture(name, x, y, np.random.default_rng(1)) for name in STUFF]
    statistics = np.array([[*image.mean((0, 1)), *image.std((0, 1))] for image in images])  # [15,6]
    differences = np.abs(statistics[:, None] - statistics[None]).max(-1) + 1000 * np.eye(len(STUFF))
    assert differences.min() > 10


def test_checkerboard_by_hand() -> None:
    # Squares of five units, the first of them black.
    x, y = positions(10, 10)
    white = draw_texture("checkerboard", x, y, np.random.default_rng(0))[..., 0] > 127
    expected = np.kron(np.array([[False, True], [True, False]]), np.ones((5, 5), bool))
    assert np.array_equal(white, expected)


def test_noise_is_smooth_and_in_its_range() -> None:
    x, y = positions(64, 64, step=0.25)
    values = noise(x, y)
    assert values.min() >= 0
    assert values.max() <= 1
    assert values.std() > 0.1
    # Linear between points one unit apart, so a quarter of a unit changes at most a quarter of the range.
    assert np.abs(np.diff(values, axis=1)).max() <= 0.26


def test_noise_repeats_without_a_seam() -> None:
    x, y = positions(16, 16)
    for shift in ((256, 0), (0, 256), (-256, 512)):
        assert np.allclose(noise(x + np.float32(shift[0]), y + np.float32(shift[1])), noise(x, y), atol=1e-3)
    across = noise(np.linspace(254, 258, 41, dtype=np.float32)[None], np.full((1, 41), 3.5, np.float32))
    assert np.abs(np.diff(across)).max() <= 0.11  # a tenth of a unit each
