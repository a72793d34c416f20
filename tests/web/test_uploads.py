"""Uploaded photos and class names: accepted and rejected input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.web.uploads import MAX_SIDE, MAX_WORDS, read_photo, read_vocabulary

MAX_PIXELS = 10**7


def save(path: Path, width: int, height: int, **options: object) -> str:
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path, **options)
    return str(path)


def test_small_photos_keep_their_size_and_large_ones_are_reduced(tmp_path: Path) -> None:
    photo = read_photo(save(tmp_path / "cat.png", 40, 30), MAX_PIXELS)
    assert (photo.name, photo.size, photo.pixels.shape) == ("cat", (30, 40), (30, 40, 3))
    photo = read_photo(save(tmp_path / "dog.png", 2 * MAX_SIDE, 1000), MAX_PIXELS)
    assert (photo.size, photo.pixels.shape) == ((1000, 2 * MAX_SIDE), (500, MAX_SIDE, 3))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "mpo"])
def test_formats_of_the_web_and_of_phones_are_read(tmp_path: Path, suffix: str) -> None:
    assert read_photo(save(tmp_path / f"a.{suffix}", 40, 30), MAX_PIXELS).size == (30, 40)


def test_photos_with_too_many_pixels_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "cat.png", 40, 30)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"^Photo: 40 x 30 .*1,199 pixels"):
        read_photo(path, 1199)


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "BMP", "text"])
def test_other_formats_are_rejected_without_revealing_the_folder(tmp_path: Path, kind: str) -> None:
    if kind == "text":
        (tmp_path / "a.png").write_text("not a picture")
    else:
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png", kind)
    with pytest.raises(InputError, match=r"^Photo: .*JPEG, PNG or WebP") as caught:
        read_photo(str(tmp_path / "a.png"), MAX_PIXELS)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("path", [None, "", "deleted.png"])
def test_missing_photos_are_rejected(path: str | None) -> None:
    with pytest.raises(InputError, match=r"^Photo: (missing|expired)"):
        read_photo(path, MAX_PIXELS)


@pytest.mark.parametrize("classes", ["", " , ", "a, a", "a;;b", "a,,b", "@voc"])
def test_invalid_class_names_are_rejected(classes: str) -> None:
    with pytest.raises(InputError, match=r"^Classes: "):
        read_vocabulary(classes, "")


def test_the_number_of_words_is_limited() -> None:
    most = ",".join(map(str, range(MAX_WORDS)))
    assert len(read_vocabulary(most, "").prompts) == MAX_WORDS
    with pytest.raises(InputError, match=rf"^Classes: {MAX_WORDS + 1} words"):
        read_vocabulary(most, "background word")


def test_a_ready_background_does_not_count_as_typed_words() -> None:
    most = ",".join(f"thing {index}" for index in range(MAX_WORDS))
    assert len(read_vocabulary(most, "@coco").prompts) == MAX_WORDS + 171
    assert read_vocabulary("sky, a\n", "@common, lava,").words[2][-1] == "lava"
    with pytest.raises(InputError, match=r"^Background: .*'vox'.*'voc'"):
        read_vocabulary("a", "@vox")
