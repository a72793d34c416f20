"""Results, downloads and error messages as HTML."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import torch
from PIL import Image

from cliptrase_d2.segmenter.result import SegmentationResult
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.web.html import alert, render_result
from cliptrase_d2.web.labelling import Labelling
from cliptrase_d2.web.layers import make_layers, outline
from cliptrase_d2.web.uploads import Photo

LABELS = np.array([[1, 1, 1], [1, 0, 0]])
PHOTO = Photo("my cat", np.zeros((2, 3, 3), np.uint8), (4, 6))


def make_labelling(*classes: str, notes: tuple[str, ...] = ()) -> Labelling:
    """Two or more classes whose scores are their confidence everywhere."""
    confidence = np.linspace(0.25, 0.5, len(classes), dtype=np.float32)
    return Labelling(LABELS, classes, confidence, notes, torch.from_numpy(confidence)[:, None, None])


def render(*classes: str, notes: tuple[str, ...] = ()) -> str:
    return render_result(make_labelling(*classes, notes=notes), PHOTO, "clip")


def decode_links(html: str) -> dict[str, bytes]:
    links = re.findall(r'href="data:[\w/]+;base64,([^"]+)" download="([^"]+)"', html)
    return {name: base64.b64decode(data) for data, name in links}


def test_rows_are_the_classes_that_occur_the_largest_first() -> None:
    pattern = r'scope="row">.*?</i>(\w+)</label></th>.*?([\d.]+) %</td>.*?([\d.]+) %</td>'
    rows = re.findall(pattern, render(*"abc"), re.DOTALL)
    assert rows == [("b", "66.7", "38"), ("a", "33.3", "25")]  # 4 and 2 of 6 pixels


def test_unknown_pixels_have_a_row_without_outline_and_confidence() -> None:
    known, unknown = make_layers(make_labelling("a", "b").with_threshold(0.3))
    assert (known.name, known.share, unknown.class_index, unknown.name) == ("b", 4 / 6, -1, "unknown")
    assert (unknown.outline, unknown.names) == ("", [])
    html = render_result(make_labelling("a", "b").with_threshold(0.3), PHOTO, "clip")
    assert html.count("<path") == 1
    assert html.count('type="checkbox" checked value=') == 1
    assert np.array(Image.open(io.BytesIO(decode_links(html)["my cat_labels.png"])))[2, 2] == 255


def test_outlines_follow_the_outer_pixels_and_the_holes() -> None:
    region = np.ones((5, 5), bool)
    assert outline(region) == "M0.5 0.5L0.5 4.5L4.5 4.5L4.5 0.5Z"
    region[2, 2] = False
    assert outline(region).count("M") == 2
    assert outline(np.eye(2, dtype=bool)[:1]) == "M0.5 0.5Z"  # one pixel


def test_the_picture_has_names_colours_and_a_description() -> None:
    labels = np.zeros((200, 200), np.int64)
    labels[100:] = 1
    scores = torch.full((2, 1, 1), 0.5)
    labelling = Labelling(labels, ("sky", "grass"), np.array([0.5, 0.5]), (), scores)
    html = render_result(labelling, Photo("a", np.zeros((200, 200, 3), np.uint8), (200, 200)), "sclip+clusters")
    assert 'aria-label="The photo under the colours of its classes: sky 50.0%, grass 50.0%"' in html
    assert re.findall(r'data-name="(\w+)"', html) == re.findall(r"<text[^>]*>(\w+)</text>", html) == ["sky", "grass"]
    fills, swatches = re.findall(r'fill="(rgb[^"]+)"', html), re.findall(r'swatch" style="background: ([^"]+)"', html)
    assert fills == swatches
    assert "sclip+clusters" not in html


def test_the_json_is_that_of_the_python_result() -> None:
    labelling = make_labelling("a", "b")
    labels = LABELS.repeat(2, 0).repeat(2, 1)
    empty = np.zeros((0, 4, 6)), np.zeros((0, 2))
    result = SegmentationResult(np.zeros((4, 6, 3), np.uint8), labels, ("a", "b"), *empty, labelling.scores.numpy())
    assert json.loads(decode_links(render("a", "b"))["my cat.json"]) == result.to_coco()


def test_downloads_are_the_label_map_at_full_size_and_the_overlay_with_its_legend() -> None:
    files = decode_links(render(*"abc"))
    labels = np.array(Image.open(io.BytesIO(files["my cat_labels.png"])))
    np.testing.assert_array_equal(labels, LABELS.repeat(2, 0).repeat(2, 1))
    height, width, _ = np.array(Image.open(io.BytesIO(files["my cat_overlay.jpg"]))).shape
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
