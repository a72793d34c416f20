"""Labels as other tools write them, for the fuzz targets of `cliptrase convert`."""

from __future__ import annotations

import base64
import json
import tempfile
from contextlib import redirect_stderr
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cliptrase_d2.data.convert.formats import read_source
from cliptrase_d2.data.convert.run import convert_source
from cliptrase_d2.data.convert.source import Options
from cliptrase_d2.data.label_files import read_label

_SIZE = {"height": 12, "width": 17}  # of the pictures a.png and b.png of all targets
_COCO = {
    "images": [{"id": 1, "file_name": "a.png", **_SIZE}, {"id": 2, "file_name": "b.png"}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "sky"}],
}
_MASK = {"size": [12, 17], "counts": [14, 5, 7, 5, 173]}
_CVAT = b"""<annotations><meta><job><labels><label><name>cat</name></label></labels></job></meta>
<image id="0" name="a.png" width="17" height="12"><polygon label="cat" points="1.0,1.5;9,1;9.5,8" z_order="1"/>
<box label="sky" xtl="1" ytl="1" xbr="3" ybr="3"/>
<mask label="cat" rle="0,2,1,3" left="1" top="2" width="3" height="2"/>
</image></annotations>"""


def build_corpora(folder: Path) -> list[tuple[str, str, list[bytes]]]:
    """Return the name, the suffix and the valid files of each format.

    Args:
        folder: with the folder ``images``; receives the PNG files of panoptic labels.
    """
    (folder / "case").mkdir()
    ids = np.random.default_rng(2).integers(0, 2, (12, 17, 3), dtype=np.uint8)
    ids[..., 1:] = 0
    Image.fromarray(ids).save(folder / "case" / "a.png")
    return [
        ("COCO labels", ".json", [_to_json(_build_coco())]),
        ("panoptic labels", ".json", [_to_json(_build_panoptic())]),
        ("LabelMe labels", ".json", [_to_json(_build_labelme())]),
        ("Label Studio labels", ".json", [_to_json([_build_task()])]),
        ("CVAT labels", ".xml", [_CVAT]),
    ]


def convert(path: Path) -> list[np.ndarray]:
    """Convert a file and return the label maps."""
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):  # hides the progress bar
        output = Path(folder)
        conversion = convert_source(read_source(Options(str(path), output, images=path.parent / "images")), output)
        maps = [read_label(file) for file in sorted((output / "labels").rglob("*.png"))]
    classes = len(conversion.spec.classes)
    assert maps
    assert all(values.shape == (12, 17) and np.isin(values, [*range(classes), 255]).all() for values in maps)
    return maps


def _to_json(content: Any) -> bytes:
    return json.dumps(content).encode()


def _build_coco() -> dict[str, Any]:
    segmentations: list[Any] = [
        [[1.5, 1, 9, 1, 9, 8.25], [0, 0, 3, 0, 3, 3]],
        _MASK,
        {"size": [12, 17], "counts": ">570V5"},
    ]
    return {
        **_COCO,
        "annotations": [
            {
                "id": index,
                "image_id": 1 + index % 2,
                "category_id": 3,
                "segmentation": segmentation,
                "iscrowd": index % 2,
            }
            for index, segmentation in enumerate(segmentations)
        ],
    }


def _build_panoptic() -> dict[str, Any]:
    segments = [{"id": 1, "category_id": 7, "iscrowd": 0}]
    return {**_COCO, "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}]}


def _build_labelme() -> dict[str, Any]:
    stream = BytesIO()
    Image.fromarray(np.eye(2, 3, dtype=np.uint8) * 255).save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    shapes = [
        {"label": "cat", "points": [[1, 1], [9.5, 1], [9, 8]], "shape_type": "polygon"},
        {"label": "__ignore__", "points": [[1, 1], [4, 5]], "shape_type": "rectangle"},
        {"label": "sky", "points": [[6, 6], [6, 9]], "shape_type": "circle"},
        {"label": "sky", "points": [[2, 3], [4, 4]], "shape_type": "mask", "mask": data},
        {"label": "sky", "points": [[2, 3]], "shape_type": "point"},
    ]
    return {"shapes": shapes, "imagePath": "a.png", "imageData": None, "imageHeight": 12, "imageWidth": 17}


def _build_task() -> dict[str, Any]:
    # One run: 816 = 4 · 204 values of 255.
    bits = f"{816:032b}{7:05b}" + f"{15:04b}" * 4 + f"100{815:016b}{255:08b}"
    bits += "0" * (-len(bits) % 8)
    values: list[tuple[str, dict[str, Any]]] = [
        ("polygonlabels", {"points": [[10, 10], [50, 10], [50, 60]]}),
        ("rectanglelabels", {"x": 5, "y": 5, "width": 20, "height": 30, "rotation": 15}),
        ("brushlabels", {"format": "rle", "rle": [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]}),
    ]
    results = [
        {"type": kind, "original_width": 17, "original_height": 12, "value": {kind: ["cat"], **value}}
        for kind, value in values
    ]
    return {"id": 1, "data": {"image": "/data/upload/a.png"}, "annotations": [{"id": 2, "result": results}]}
