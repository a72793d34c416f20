"""Preparation of one split of COCO-Stuff."""

from __future__ import annotations

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.archives import Archive, pick_below
from cliptrase_d2.data.prepare.command import Options
from cliptrase_d2.data.prepare.convert import relabel_all

_LABELS = Archive(
    "stuffthingmaps_trainval2017.zip",
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
)
# COCO numbers 182 things and stuff from 1; the files hold the number less 1. These 11 occur in no image.
_UNUSED = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
_CLASSES = [value for value in range(182) if value not in _UNUSED]
_RULE = LabelRule(len(_CLASSES), 255, {value: index for index, value in enumerate(_CLASSES)})


def prepare_split(options: Options, split: str, count: int) -> None:
    """Extract the images and label files of a split, and write label files with class indices.

    Args:
        options: of the command line.
        split: "train2017" or "val2017".
        count: number of images.
    """
    images = Archive(f"{split}.zip", f"http://images.cocodataset.org/zips/{split}.zip")
    options.unpack(images, pick_below(split, f"coco/{split}", ".jpg"), count)
    raw = options.unpack(_LABELS, pick_below(split, f"coco/stuffthingmaps/{split}", ".png"), count)
    folder = options.root / "coco/stuffthingmaps_detectron2" / split
    relabel_all([(path, folder / path.name) for path in raw], _RULE, options.workers)
