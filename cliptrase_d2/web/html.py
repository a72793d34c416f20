"""HTML of the results: pictures with their classes and downloads, and error messages. User text is escaped."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from cliptrase_d2.methods.catalog import METHODS
from cliptrase_d2.segmenter.conversions import coco_segments
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.overlay import OPACITY, labels_at_size
from cliptrase_d2.visualization.picture import draw_labels
from cliptrase_d2.web.labelling import Labelling
from cliptrase_d2.web.layers import make_layers
from cliptrase_d2.web.uploads import Photo

TEMPLATES = Environment(loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined)


def render_result(labelling: Labelling, photo: Photo, method: str) -> str:
    """Render the photo under its classes, the classes with share and confidence, and files to download.

    Args:
        labelling: of the photo.
        photo: the photo.
        method: identifier of the method.
    """
    height, width = labelling.label_map.shape
    layers = make_layers(labelling)
    shares = ", ".join(f"{layer.name} {layer.share:.1%}" for layer in layers)
    return TEMPLATES.get_template("result.html").render(
        layers=layers, width=width, height=height, photo=encode_picture_uri(photo.pixels), opacity=round(100 * OPACITY),
        description=f"The photo under the colours of its classes: {shares}", files=_make_files(labelling, photo),
        method=METHODS[method], notes=labelling.notes,
    )  # fmt: skip


def render_picture(pixels: np.ndarray, description: str) -> str:
    """Render a picture that can be clicked.

    Args:
        pixels: [H,W,3] uint8 RGB.
        description: alternative text.
    """
    height, width = pixels.shape[:2]
    return TEMPLATES.get_template("picture.html").render(
        width=width, height=height, photo=encode_picture_uri(pixels), description=description
    )


def _make_files(labelling: Labelling, photo: Photo) -> list[tuple[str, str, str]]:
    """Return title, file name and data URI of the overlay, and of labels and JSON at the size of the original photo.

    The JSON is that of ``SegmentationResult.to_coco``.
    """
    labels = labels_at_size(labelling.label_map, photo.size)
    picture = draw_labels(photo.pixels, labelling.label_map, labelling.classes)
    segments = json.dumps(coco_segments(labels, labelling.classes, labelling.confidence))
    return [
        ("Overlay", f"{photo.name}_overlay.jpg", encode_picture_uri(picture, "jpeg")),
        ("Label map", f"{photo.name}_labels.png", encode_picture_uri(labels.astype(np.uint8), "png")),
        ("JSON", f"{photo.name}.json", _encode_uri("application/json", segments.encode())),
    ]


def alert(error: InputError) -> str:
    """Render an error as a message that screen readers announce."""
    return TEMPLATES.get_template("alert.html").render(error=error)


def encode_picture_uri(pixels: np.ndarray, kind: str = "webp") -> str:
    """Encode a picture as a data URI.

    Args:
        pixels: [H,W,3] uint8 RGB or [H,W] uint8.
        kind: "png" (lossless), "jpeg" or "webp".
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=92)
    return _encode_uri(f"image/{kind}", buffer.getvalue())


def _encode_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
