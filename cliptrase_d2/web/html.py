"""Answers as HTML: the legend of a labelling with its files, and messages. What a visitor typed stays text."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from cliptrase_d2.evaluation.runs import SYSTEMS
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.overlay import labels_at_size, palette
from cliptrase_d2.visualization.picture import class_shares, labelled_picture
from cliptrase_d2.web.labelling import Labelling
from cliptrase_d2.web.uploads import Photo

TEMPLATES = Environment(
    loader=PackageLoader(__package__, "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Row(NamedTuple):
    """A class of the legend; ``colour`` as CSS has it, ``share`` and ``confidence`` in [0,1]."""

    name: str
    colour: str
    share: float
    confidence: float


class File(NamedTuple):
    """Something to keep: what it is called in the page, its file name, and its bytes as a URI."""

    title: str
    name: str
    uri: str


def legend(labelling: Labelling, photo: Photo, method: str) -> str:
    """Classes that occur, the largest first, with colour, share and confidence; and files to keep.

    Args:
        labelling: of the photograph.
        photo: gives the files its name, and the label map its size.
        method: that was used.
    """
    colours = palette(len(labelling.classes))
    rows = [
        Row(labelling.classes[index], _css(colours[index]), share, float(labelling.confidence[index]))
        for index, share in class_shares(labelling.label_map, len(labelling.classes))
    ]
    template = TEMPLATES.get_template("legend.html")
    files = _files(labelling, photo)
    return template.render(rows=rows, files=files, method=method, system=SYSTEMS[method], notes=labelling.notes)


def alert(error: InputError) -> str:
    """What is wrong with an input, as a message that screen readers speak at once."""
    return TEMPLATES.get_template("alert.html").render(error=error)


def picture_uri(pixels: np.ndarray, kind: str = "webp") -> str:
    """A picture, [H,W,3] uint8 RGB or [H,W] uint8, as a data URI.

    Args:
        pixels: of it.
        kind: "png", which keeps them exactly, "jpeg" or "webp".
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=92)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _files(labelling: Labelling, photo: Photo) -> list[File]:
    """The label map at the size of what was handed in, and the overlay with its legend as it was worked on."""
    labels = labels_at_size(labelling.label_map, photo.size).astype(np.uint8)
    picture = labelled_picture(photo.pixels, labelling.label_map, labelling.classes)
    return [
        File("Label map", f"{photo.name}_labels.png", picture_uri(labels, "png")),
        File("Overlay", f"{photo.name}_overlay.jpg", picture_uri(picture, "jpeg")),
    ]


def _css(colour: np.ndarray) -> str:
    return f"rgb({colour[0]} {colour[1]} {colour[2]})"
