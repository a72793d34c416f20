"""COCO-Stuff's two halves, from the images of one and the label files of both."""

from __future__ import annotations

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.archives import Archive, below
from cliptrase_d2.data.prepare.command import Options
from cliptrase_d2.data.prepare.convert import relabel_all

_LABELS = Archive(
    "stuffthingmaps_trainval2017.zip",
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
)
_UNLABELLED = 255
# COCO numbers 182 things and stuff from 1, which the files hold less one; these 11 occur in no image.
_NEVER = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
_CLASSES = [value for value in range(182) if value not in _NEVER]
_RULE = LabelRule(len(_CLASSES), _UNLABELLED, {value: index for index, value in enumerate(_CLASSES)})


def prepare_half(options: Options, half: str, count: int) -> None:
    """Unpack the images and labels of one half, and write labels of class indices.

    Args:
        options: of the command line.
        half: "train2017" or "val2017".
        count: its images.
    """
    images = Archive(f"{half}.zip", f"http://images.cocodataset.org/zips/{half}.zip")
    options.unpack(images, below(half, f"coco/{half}", ".jpg"), count)
    raw = options.unpack(_LABELS, below(half, f"coco/stuffthingmaps/{half}", ".png"), count)
    folder = options.root / "coco/stuffthingmaps_detectron2" / half
    relabel_all([(path, folder / path.name) for path in raw], _RULE, options.workers)
