"""Prepare Cityscapes with 19 classes from leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip.

    python datasets/prepare_cityscapes.py [ROOT] [--archives FOLDER]

writes ROOT/cityscapes/leftImg8bit/val and ROOT/cityscapes/gtFine/val. The archive has only ``*_labelIds.png``; the
script adds ``*_labelTrainIds.png``. Run it again to continue after an interruption.
"""

from __future__ import annotations

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.archives import Archive, pick_below
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import relabel_all

SOURCE = "https://www.cityscapes-dataset.com (registration)"
IMAGES = Archive("leftImg8bit_trainvaltest.zip", SOURCE)
LABELS = Archive("gtFine_trainvaltest.zip", SOURCE)
COUNT = 500
IGNORED = 255
# Of the 34 official classes, the numbers of the 19 that are scored, in the order of their class indices.
SCORED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
RULE = LabelRule(
    len(SCORED), IGNORED, {**dict.fromkeys(range(34), IGNORED), **{raw: index for index, raw in enumerate(SCORED)}}
)


def prepare(options: Options) -> None:
    """Extract the files and convert the labels."""
    options.unpack(IMAGES, pick_below("leftImg8bit/val", "cityscapes/leftImg8bit/val", "_leftImg8bit.png"), COUNT)
    raw = options.unpack(LABELS, pick_below("gtFine/val", "cityscapes/gtFine/val", "_gtFine_labelIds.png"), COUNT)
    targets = [path.with_name(path.name.replace("_labelIds.png", "_labelTrainIds.png")) for path in raw]
    relabel_all(zip(raw, targets, strict=True), RULE, options.workers)


def main() -> None:
    """Prepare the data set."""
    run(__doc__, prepare, ("cityscapes19",))


if __name__ == "__main__":
    main()
