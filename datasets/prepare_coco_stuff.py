"""COCO-Stuff (171 classes) and COCO-Object, from val2017.zip and stuffthingmaps_trainval2017.zip.

    python datasets/prepare_coco_stuff.py [ROOT] [--archives FOLDER]

makes ROOT/coco/val2017, ROOT/coco/stuffthingmaps/val2017 and, with class indices in place of COCO's numbers,
ROOT/coco/stuffthingmaps_detectron2/val2017. What is there already stays, so an interrupted run goes on.
"""

from __future__ import annotations

from cliptrase_d2.data.prepare.coco_stuff import prepare_half
from cliptrase_d2.data.prepare.command import Options, run


def prepare(options: Options) -> None:
    """Do all of it."""
    prepare_half(options, "val2017", 5000)


if __name__ == "__main__":
    run(__doc__, prepare, ("coco_stuff171", "coco_object", "coco_object_paper"))
