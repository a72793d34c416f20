"""Legends, downloads and error messages as HTML."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.web.html import alert, legend
from cliptrase_d2.web.labelling import Labelling
from cliptrase_d2.web.uploads import Photo

LABELS = np.array([[1, 1, 1], [1, 0, 0]])
PHOTO = Photo("my cat", np.zeros((2, 3, 3), np.uint8), (4, 6))


def render(*classes: str, notes: tuple[str, ...] = ()) -> str:
    confidence = np.linspace(0.25, 0.5, len(classes), dtype=np.float32)
    return legend(Labelling(LABELS, classes, confidence, notes), PHOTO, "clip")


def test_rows_are_the_classes_that_occur_the_largest_first() -> None:
    pattern = r'scope="row">.*?</i>(\w+)</th>.*?([\d.]+) %</td>.*?([\d.]+) %</td>'
    rows = re.findall(pattern, render(*"abc"), re.DOTALL)
    assert rows == [("b", "66.7", "38"), ("a", "33.3", "25")]  # 4 and 2 of 6 pixels


def test_downloads_are_the_label_map_at_full_size_and_the_overlay_with_its_legend() -> None:
    links = re.findall(r'href="data:image/\w+;base64,([^"]+)" download="([^"]+)"', render(*"abc"))
    files = {name: np.array(Image.open(io.BytesIO(base64.b64decode(data)))) for data, name in links}
    np.testing.assert_array_equal(files["my cat_labels.png"], LABELS.repeat(2, 0).repeat(2, 1))
    height, width, _ = files["my cat_overlay.jpg"].shape
    assert height == 2
    assert width > 3


def test_user_text_is_escaped() -> None:
    html = render("<b>x</b>", "\"'&", notes=("<script>",))
    assert "<b>" not in html
    assert "<script" not in html
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<i>" not in alert(InputError("Classes", "<i>", "Change it."))


def test_errors_and_notes_are_complete() -> None:
    message = alert(InputError("Classes", "none", "Name one.", allowed="some"))
    assert "<b>Classes:</b> none. Allowed: some. Name one." in message
    assert "RANDOM WEIGHTS" in render("a", "b", notes=("RANDOM WEIGHTS",))
