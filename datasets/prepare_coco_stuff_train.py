"""COCO-Stuff to train SAN on, from train2017.zip (18 GB) and stuffthingmaps_trainval2017.zip.

    python datasets/prepare_coco_stuff_train.py [ROOT] [--archives FOLDER]

makes ROOT/coco/train2017, ROOT/coco/stuffthingmaps/train2017 and, with class indices in place of COCO's numbers,
ROOT/coco/stuffthingmaps_detectron2/train2017. What is there already stays, so an interrupted run goes on.
"""

from __future__ import annotations

from cliptrase_d2.data.prepare.coco_stuff import prepare_half
from cliptrase_d2.data.prepare.command import Options, run


def prepare(options: Options) -> None:
    """Do all of it."""
    prepare_half(options, "train2017", 118287)


if __name__ == "__main__":
    run(__doc__, prepare, ("coco_stuff171_train",))
