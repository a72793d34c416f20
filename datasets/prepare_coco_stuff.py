"""Prepare COCO-Stuff (171 classes) and COCO-Object from val2017.zip and stuffthingmaps_trainval2017.zip.

    python datasets/prepare_coco_stuff.py [ROOT] [--archives FOLDER]

writes ROOT/coco/val2017, ROOT/coco/stuffthingmaps/val2017 and ROOT/coco/stuffthingmaps_detectron2/val2017, which
has class indices instead of COCO's numbers. Run it again to continue after an interruption.
"""

from __future__ import annotations

from cliptrase_d2.data.prepare.coco_stuff import prepare_split
from cliptrase_d2.data.prepare.command import Options, run


def prepare(options: Options) -> None:
    """Extract the files and convert the labels."""
    prepare_split(options, "val2017", 5000)


def main() -> None:
    """Prepare the data set."""
    run(__doc__, prepare, ("coco_stuff171", "coco_object", "coco_object_paper"))


if __name__ == "__main__":
    main()
