"""Prepare the training set of SAN, COCO-Stuff, from train2017.zip (18 GB) and stuffthingmaps_trainval2017.zip.

    python datasets/prepare_coco_stuff_train.py [ROOT] [--archives FOLDER]

writes ROOT/coco/train2017, ROOT/coco/stuffthingmaps/train2017 and ROOT/coco/stuffthingmaps_detectron2/train2017, which
has class indices instead of COCO's numbers. Run it again to continue after an interruption.
"""

from __future__ import annotations

from cliptrase_d2.data.prepare.coco_stuff import prepare_split
from cliptrase_d2.data.prepare.command import Options, run


def prepare(options: Options) -> None:
    """Extract the files and convert the labels."""
    prepare_split(options, "train2017", 118287)


def main() -> None:
    """Prepare the data set."""
    run(__doc__, prepare, ("coco_stuff171_train",))


if __name__ == "__main__":
    main()
