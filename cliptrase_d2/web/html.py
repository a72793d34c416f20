"""HTML of the results: legends with downloads, and error messages. User text is escaped."""

from __future__ import annotations

import base64
import io

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from cliptrase_d2.methods.catalog import METHODS
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.overlay import labels_at_size
from cliptrase_d2.visualization.picture import class_colours, class_shares, draw_labels
from cliptrase_d2.web.labelling import Labelling
from cliptrase_d2.web.uploads import Photo

TEMPLATES = Environment(loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined)


def legend(labelling: Labelling, photo: Photo, method: str) -> str:
    """Render the classes that occur, the largest first, with colour, share and confidence, and files to download.

    The files are the label map at the size of the original photo, and the overlay with its legend.

    Args:
        labelling: of the photo.
        photo: the photo.
        method: name of the method.
    """
    colours = class_colours(labelling.classes, labelling.label_map)
    rows = [
        (labelling.classes[index], "rgb({} {} {})".format(*colours[index]), share, labelling.confidence[index])
        for index, share in class_shares(labelling.label_map, len(labelling.classes))
    ]
    labels = labels_at_size(labelling.label_map, photo.size).astype(np.uint8)
    picture = draw_labels(photo.pixels, labelling.label_map, labelling.classes)
    files = (
        ("Label map", f"{photo.name}_labels.png", encode_picture_uri(labels, "png")),
        ("Overlay", f"{photo.name}_overlay.jpg", encode_picture_uri(picture, "jpeg")),
    )
    template = TEMPLATES.get_template("legend.html")
    return template.render(rows=rows, files=files, name=method, method=METHODS[method], notes=labelling.notes)


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
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
