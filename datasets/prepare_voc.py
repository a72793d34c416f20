"""Prepare PASCAL VOC 2012, without and with background, from VOCtrainval_11-May-2012.tar.

    python datasets/prepare_voc.py [ROOT] [--archives FOLDER]

writes ROOT/VOC2012/JPEGImages and, for the 1449 images of the validation set, ROOT/VOC2012/annotations_detectron2/val
(20 classes; background and void borders 255) and ROOT/VOC2012/annotations_detectron2_bg/val (background 20, void
borders 255). Run it again to continue after an interruption.
"""

from __future__ import annotations

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.archives import Archive, pick_below
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import relabel_all
from cliptrase_d2.utils.errors import InputError

ARCHIVE = Archive(
    "VOCtrainval_11-May-2012.tar",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    md5="6cd6e144f989b92b3379bac3b3de84fd",
)
COUNT = 1449
CLASSES, VOID = 20, 255
OBJECTS = {raw: raw - 1 for raw in range(1, CLASSES + 1)}
# Labels of each folder. In the archive, background is 0.
RULES = {
    "annotations_detectron2": LabelRule(CLASSES, VOID, {0: VOID, **OBJECTS}),
    "annotations_detectron2_bg": LabelRule(CLASSES + 1, VOID, {0: CLASSES, **OBJECTS}),
}
SELECTED = ("JPEGImages/", "SegmentationClass/", "ImageSets/Segmentation/")


def pick(name: str) -> str | None:
    """Select the images, the label files and the lists of the splits."""
    place = pick_below("VOCdevkit/VOC2012", "VOC2012")(name)
    return place if place and place.removeprefix("VOC2012/").startswith(SELECTED) else None


def prepare(options: Options) -> None:
    """Extract the files and convert the labels."""
    options.unpack(ARCHIVE, pick)
    voc = options.root / "VOC2012"
    validation_list = voc / "ImageSets/Segmentation/val.txt"
    if not validation_list.is_file():
        raise InputError(validation_list, "no such file in the archive", "Download the archive again.")
    stems = validation_list.read_text(encoding="ascii").split()
    options.check_count(len(stems), COUNT, validation_list)
    raw = [voc / "SegmentationClass" / f"{stem}.png" for stem in stems]
    for folder, rule in RULES.items():
        relabel_all([(path, voc / folder / "val" / path.name) for path in raw], rule, options.workers)


def main() -> None:
    """Prepare the data set."""
    run(__doc__, prepare, ("voc20", "voc21", "voc21_paper"))


if __name__ == "__main__":
    main()
