"""Colours of classes: distances, natural colours, and stability."""

from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.visualization.colours import ClassColours, palette, shared_colours
from tests.visualization.colour_difference import MACHADO, VIENOT, ciede2000, least_difference, to_lab

STUFF = ("sky", "grass", "tree", "water", "road", "sand", "snow", "building", "person")
COUNT = 847


def find_hue(colour: np.ndarray) -> float:
    """Return the hue in degrees: 0 is red, 120 green, 240 blue."""
    red, green, blue = (int(channel) for channel in colour)
    return float(np.degrees(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360)


@pytest.mark.parametrize(
    ("one", "two", "difference"),
    [  # of the test data of Sharma et al., 2005
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1, 2), (50, 0, 0), 2.3669),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_difference_is_that_of_the_published_test_data(
    one: tuple[float, ...], two: tuple[float, ...], difference: float
) -> None:
    assert ciede2000(np.array(one), np.array(two)) == pytest.approx(difference, abs=1e-4)
    assert ciede2000(np.array(two), np.array(one)) == pytest.approx(difference, abs=1e-4)


def test_lab_of_known_colours() -> None:
    lab = to_lab(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 0]]))
    np.testing.assert_allclose(lab, [[100, 0, 0], [53.24, 80.09, 67.20], [0, 0, 0]], atol=0.02)
    # Red and green of one lightness look alike without M cones.
    grey = to_lab(np.array([[128, 128, 128]]))
    for simulation in (MACHADO, VIENOT):
        np.testing.assert_allclose(to_lab(np.array([[128, 128, 128]]), simulation), grey, atol=0.1)


@pytest.mark.parametrize("count", range(2, 16))
def test_every_two_of_the_first_colours_differ_for_everybody(count: int) -> None:
    colours = palette(count)
    assert least_difference(colours) >= 25
    assert min(least_difference(colours, simulation) for simulation in (MACHADO, VIENOT)) >= 15


@pytest.mark.parametrize("seed", range(5))
def test_the_classes_of_a_picture_differ_in_a_large_vocabulary(seed: int) -> None:
    # Twelve classes of 165, among them common ones.
    classes = [*STUFF, "sea", "plant", "wall", "rock", "sidewalk", *(f"thing {index}" for index in range(151))]
    present = np.random.default_rng(seed).permutation([*range(6), *range(9, 13), 100, 160])
    colours = ClassColours(classes).assign(present.tolist())[present]
    assert least_difference(colours) >= 25
    assert min(least_difference(colours[:8], simulation) for simulation in (MACHADO, VIENOT)) >= 15


def test_common_classes_have_natural_colours() -> None:
    colours = dict(zip(STUFF, ClassColours(STUFF).assign([]), strict=True))
    for name, low, high in (("sky", 195, 260), ("water", 195, 260), ("grass", 75, 170), ("tree", 75, 170)):
        assert low < find_hue(colours[name]) < high
    assert np.ptp(colours["road"]) < 20  # grey
    assert colours["snow"].mean() > 200
    assert colours["sand"][0] > colours["sand"][2]


@pytest.mark.parametrize("name", ["night sky", "Clouds", "sky-other", "a blue SKY", "sky (clear)", "cloudy sky;clouds"])
def test_natural_colours_are_found_by_the_last_word(name: str) -> None:
    sky = ClassColours(["sky"]).assign([])[0]
    np.testing.assert_array_equal(ClassColours(["dog", name]).assign([])[1], sky)


@pytest.mark.parametrize("name", ["hot dog", "skyline", "street light", "tree house boat", "", "!"])
def test_other_classes_have_none(name: str) -> None:
    natural = ClassColours(STUFF).assign([])
    colour = ClassColours([name]).assign([])[0]
    assert not (natural == colour).all(1).any()


def test_grass_is_green_behind_many_things_and_other_plants() -> None:
    classes = [*(f"thing {index}" for index in range(200)), "plant", "meadow", "grass", "sky"]
    colours = ClassColours(classes)
    natural = ClassColours(["grass", "sky"]).assign([])
    colours.assign(range(10))
    np.testing.assert_array_equal(colours.assign([202, 203])[202:], natural)
    late = ClassColours(classes)
    late.assign([*range(40), 200, 201])  # take all natural colours
    grass, sky = late.assign([202, 203])[202:]
    assert 75 < find_hue(grass) < 170
    assert 195 < find_hue(sky) < 260


def test_classes_keep_their_colours() -> None:
    classes = [f"class {index}" for index in range(COUNT)]
    colours = ClassColours(classes)
    first = colours.assign([5, 3])
    np.testing.assert_array_equal(first[[5, 3]], palette(2))
    assert (first[0] == 128).all()  # not drawn
    second = colours.assign([7, 3, 5])
    np.testing.assert_array_equal(second[[5, 3, 7]], palette(3))
    np.testing.assert_array_equal(first[[5, 3]], palette(2))  # a copy
    assert len(np.unique(colours.assign(range(COUNT)), axis=0)) == COUNT


def test_a_small_vocabulary_has_its_colours_from_the_start() -> None:
    classes = [f"class {index}" for index in range(15)]
    np.testing.assert_array_equal(ClassColours(classes).assign([]), ClassColours(classes).assign([14, 0]))
    assert ClassColours([]).assign([]).shape == (0, 3)


def test_equal_vocabularies_share_their_colours() -> None:
    assert shared_colours(("sky", "dog")) is shared_colours(("sky", "dog"))
    assert shared_colours(("sky", "dog")) is not shared_colours(("dog", "sky"))


def test_colours_of_the_palette_do_not_depend_on_the_count() -> None:
    np.testing.assert_array_equal(palette(COUNT)[:5], palette(5))
    assert palette(0).shape == (0, 3)
    assert palette(0).dtype == palette(5).dtype == palette(COUNT).dtype == np.uint8
    assert palette(5000).shape == (5000, 3)  # repeated
    assert len(np.unique(palette(COUNT), axis=0)) == COUNT
    assert (palette(COUNT) != 0).any(1).all()  # black marks pixels that are not scored
