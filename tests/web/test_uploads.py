"""Photographs and words that are handed in: what is read of them, and what is refused, in words for the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.web.uploads import MOST_WORDS, SHOWN_SIDE, read_photo, read_words

MOST = 10**7


def saved(path: Path, width: int, height: int, **settings: object) -> str:
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path, **settings)
    return str(path)


def test_a_small_photograph_stays_as_it_is(tmp_path: Path) -> None:
    photo = read_photo(saved(tmp_path / "cat.png", 40, 30), MOST)
    assert (photo.name, photo.size, photo.pixels.shape) == ("cat", (30, 40), (30, 40, 3))


def test_a_large_one_is_worked_on_smaller(tmp_path: Path) -> None:
    photo = read_photo(saved(tmp_path / "cat.png", 2 * SHOWN_SIDE, 1000), MOST)
    assert photo.size == (1000, 2 * SHOWN_SIDE)
    assert photo.pixels.shape == (500, SHOWN_SIDE, 3)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    assert read_photo(saved(tmp_path / "a.jpg", 40, 30, exif=turned), MOST).size == (40, 30)


def test_too_many_pixels_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "cat.png", 40, 30)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"Photograph: 40 x 30 pixels\. Allowed: 1,199 pixels"):
        read_photo(path, 1199)


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "BMP"])
def test_other_formats_are_not_opened_whatever_their_name(tmp_path: Path, kind: str) -> None:
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png", kind)
    with pytest.raises(InputError, match=r"Photograph: unreadable .* Allowed: a whole JPEG, PNG or WebP file"):
        read_photo(str(tmp_path / "a.png"), MOST)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "mpo"])
def test_the_formats_of_the_web_and_of_phones_are_read(tmp_path: Path, suffix: str) -> None:
    assert read_photo(saved(tmp_path / f"a.{suffix}", 40, 30), MOST).size == (30, 40)


def test_messages_do_not_name_the_servers_folders(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(InputError) as caught:
        read_photo(str(tmp_path / "notes.png"), MOST)
    assert "another kind of file" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(("path", "got"), [(None, "none"), ("", "none"), ("gone.png", "not kept any more")])
def test_no_photograph_is_said_to_be_none(path: str | None, got: str) -> None:
    with pytest.raises(InputError, match=got):
        read_photo(path, MOST)


def test_words_are_read_between_commas_and_lines() -> None:
    words = read_words("sky , tree;bush\nroad,\n", " wall, floor")
    assert words.classes == ("sky", "tree", "road", "background")
    assert words.words[1] == ("tree", "bush")
    assert words.words[3] == ("wall", "floor")


@pytest.mark.parametrize(
    ("classes", "got"), [("", "no class"), (" , ", "no class"), ("a, a", "twice"), ("a;;b", "a;;b")]
)
def test_words_that_cannot_be_told_apart_are_refused(classes: str, got: str) -> None:
    with pytest.raises(InputError, match=got):
        read_words(classes, "")


def test_there_is_a_bound_on_words() -> None:
    most = ",".join(map(str, range(MOST_WORDS)))
    assert len(read_words(most, "").prompts) == MOST_WORDS
    with pytest.raises(InputError, match=f"{MOST_WORDS + 1} words"):
        read_words(most, "background word")
