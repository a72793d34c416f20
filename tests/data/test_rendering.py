"""Rendering of raw values as colours, and warnings about narrow ranges."""

from __future__ import annotations

import numpy as np
import pytest

from cliptrase_d2.data.rendering import (
    NO_RENDERING,
    RawRange,
    Rendering,
    describe_narrow_range,
    find_range,
    join_ranges,
    render_values,
    stretch_values,
)
from cliptrase_d2.utils.errors import InputError


def test_a_stretch_is_linear_and_clips() -> None:
    # 0 + 255 * (value - 100) / 200
    assert stretch_values(np.array([0, 100, 150, 200, 300, 999]), (100, 300)).tolist() == [0, 0, 64, 128, 255, 255]
    assert stretch_values(np.array([4, 5, 6]), (5, 5)).tolist() == [0, 0, 255]


def test_percentiles_are_those_of_all_chosen_bands_together() -> None:
    values = np.zeros((4, 1, 101), np.uint16)
    values[0], values[3] = np.arange(101), 9999  # the last band is not chosen
    values[1] = values[2] = values[0]
    picture = render_values(values, Rendering((1, 2, 3), ("10%", "90%")), "image")
    np.testing.assert_array_equal(picture.pixels[0, :, 0], np.rint((np.arange(101) - 10) * 255 / 80).clip(0, 255))
    assert Rendering(stretch=("50%", 400)).get_limits(np.arange(101)) == (50, 400)


def test_bands_are_counted_from_1_and_one_band_is_grey() -> None:
    values = np.arange(5, dtype=np.uint8)[:, None, None]
    assert render_values(values, Rendering((4, 3, 1)), "image").pixels.tolist() == [[[3, 2, 0]]]
    assert render_values(values, Rendering((5,)), "image").pixels.tolist() == [[[4, 4, 4]]]
    with pytest.raises(InputError, match=r"image: band 6 of an image of 5 bands.*1 to 5"):
        render_values(values, Rendering((1, 2, 6)), "image")
    with pytest.raises(InputError, match=r"image: 5 bands.*bands: \[3, 2, 1\]"):
        render_values(values, Rendering(stretch=(0, 9)), "image")


def test_nodata_is_black_and_invalid_where_all_bands_lack_a_value() -> None:
    values = np.array([[[1, np.nan, np.nan]], [[1, 1, np.inf]], [[1, 1, np.nan]]])
    picture = render_values(values, Rendering(stretch=(0, 1)), "image")
    assert picture.pixels.tolist() == [[[255] * 3, [0, 255, 255], [0, 0, 0]]]
    assert picture.valid is not None
    assert picture.valid.tolist() == [[True, True, False]]
    empty = render_values(np.full((1, 2, 2), np.nan), Rendering(stretch=("2%", "98%")), "image")
    assert not empty.pixels.any()


def test_floats_without_a_stretch_name_their_range() -> None:
    with pytest.raises(InputError, match=r"image: float32 values -2 to 5.*stretch: \[-2, 5\]"):
        render_values(np.array([[[-2, 5, np.nan]]], np.float32), Rendering((1,)), "image")


@pytest.mark.parametrize("bands", [(1, 2), (0, 1, 2), (1, 2, 3, 4), ("1", "2", "3"), (1.0, 2, 3), "321", 3, (True,)])
def test_faulty_bands(bands: object) -> None:
    with pytest.raises(InputError, match=r"^bands: "):
        Rendering(bands)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "stretch",
    [(1,), (1, 2, 3), (5, 5), (6, 5), ("9%", "2%"), ("2", "x%"), (0, "101%"), (0, float("nan")), "0", 7, (None, 1)],
)
def test_faulty_stretches(stretch: object) -> None:
    with pytest.raises(InputError, match=r"^stretch: "):
        Rendering(stretch=stretch)  # type: ignore[arg-type]


def test_own_keys_win() -> None:
    assert not NO_RENDERING
    assert Rendering((1,)).over(Rendering((3, 2, 1), (0, 9))) == Rendering((1,), (0, 9))
    assert Rendering([4, 3, 2], ["0", "2%"]) == Rendering((4, 3, 2), (0.0, "2%"))  # type: ignore[arg-type]


def test_narrow_ranges_are_described() -> None:
    assert "16-bit values 0..3000 of 0..65535" in describe_narrow_range(RawRange(0, 3000, 65535))
    assert "stretch: [0, 3000]" in describe_narrow_range(RawRange(0, 3000, 65535))
    assert "12-bit values 7..900 of 0..4095" in describe_narrow_range(RawRange(7, 900, 4095))
    for wide in (None, RawRange(0, 16384, 65535), RawRange(0, 65535, 65535)):
        assert describe_narrow_range(wide) == ""
    # One bright image is enough: the others may be dark scenes.
    assert not describe_narrow_range(join_ranges([RawRange(0, 3000, 65535), None, RawRange(9, 60000, 65535)]))
    assert join_ranges([None, None]) is None


def test_single_hot_pixels_do_not_widen_a_range() -> None:
    values = np.full(10_000, 3000)
    values[0], values[1] = 65535, 0
    assert find_range(values, 65535) == RawRange(3000, 3000, 65535)
