"""Legends and messages: what they say, and that what a visitor typed stays text."""

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


def legend_of(*classes: str, notes: tuple[str, ...] = ()) -> str:
    confidence = np.linspace(0.25, 0.5, len(classes), dtype=np.float32)
    return legend(Labelling(LABELS, classes, confidence, notes), PHOTO, "clip")


def files_of(html: str) -> dict[str, np.ndarray]:
    """File name -> pixels."""
    found = re.findall(r'href="data:image/\w+;base64,([^"]+)" download="([^"]+)"', html)
    return {name: np.array(Image.open(io.BytesIO(base64.b64decode(data)))) for data, name in found}


def test_classes_that_occur_have_share_and_confidence_the_largest_first() -> None:
    rows = re.findall(
        r'scope="row">.*?</i>(\w+)</th>.*?([\d.]+) %</td>.*?([\d.]+) %</td>', legend_of(*"abc"), re.DOTALL
    )
    assert rows == [("b", "66.7", "38"), ("a", "33.3", "25")]  # 4 and 2 of 6 pixels


def test_the_label_map_has_the_size_of_the_upload() -> None:
    labels = files_of(legend_of(*"abc"))["my cat_labels.png"]
    np.testing.assert_array_equal(labels, LABELS.repeat(2, 0).repeat(2, 1))


def test_the_overlay_comes_with_its_legend() -> None:
    overlay = files_of(legend_of(*"abc"))["my cat_overlay.jpg"]
    assert overlay.shape[0] == 2
    assert overlay.shape[1] > 3


def test_words_are_text() -> None:
    html = legend_of("<b>x</b>", "\"'&", notes=("<script>",))
    assert "<b>" not in html
    assert "<script" not in html
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    assert "<i>" not in alert(InputError("Classes", "<i>", "Change it.", allowed="text"))


def test_a_message_answers_all_questions() -> None:
    assert "<b>Classes:</b> none. Allowed: some. Name one." in alert(
        InputError("Classes", "none", "Name one.", allowed="some")
    )


def test_random_weights_are_noted() -> None:
    assert "RANDOM WEIGHTS" in legend_of("a", "b", notes=("RANDOM WEIGHTS: nothing means anything",))
