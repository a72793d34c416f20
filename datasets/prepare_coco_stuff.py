"""COCO-Stuff (171 classes) and COCO-Object, from val2017.zip and stuffthingmaps_trainval2017.zip.

    python datasets/prepare_coco_stuff.py [ROOT] [--archives FOLDER]

makes ROOT/coco/val2017, ROOT/coco/stuffthingmaps/val2017 and, with class indices in place of COCO's numbers,
ROOT/coco/stuffthingmaps_detectron2/val2017. What is there already stays, so an interrupted run goes on.
"""

from __future__ import annotations

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.archives import Archive, below
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import relabel_all

IMAGES = Archive("val2017.zip", "http://images.cocodataset.org/zips/val2017.zip")
LABELS = Archive(
    "stuffthingmaps_trainval2017.zip",
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
)
COUNT = 5000
UNLABELLED = 255
# COCO numbers 182 things and stuff from 1, which the files hold less one; these 11 occur in no image.
NEVER = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
CLASSES = [value for value in range(182) if value not in NEVER]
RULE = LabelRule(len(CLASSES), UNLABELLED, {value: index for index, value in enumerate(CLASSES)})


def prepare(options: Options) -> None:
    """Do all of it."""
    options.unpack(IMAGES, below("val2017", "coco/val2017", ".jpg"), COUNT)
    raw = options.unpack(LABELS, below("val2017", "coco/stuffthingmaps/val2017", ".png"), COUNT)
    folder = options.root / "coco/stuffthingmaps_detectron2/val2017"
    relabel_all([(path, folder / path.name) for path in raw], RULE, options.workers)


if __name__ == "__main__":
    run(__doc__, prepare, ("coco_stuff171", "coco_object", "coco_object_paper"))
