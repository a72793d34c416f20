"""PASCAL VOC 2012, without and with background, from VOCtrainval_11-May-2012.tar.

    python datasets/prepare_voc.py [ROOT] [--archives FOLDER]

makes ROOT/VOC2012/JPEGImages and, for the 1449 images of the validation list, ROOT/VOC2012/annotations_detectron2/val
(20 classes; background and void borders 255) and ROOT/VOC2012/annotations_detectron2_bg/val (background 20, void
borders 255). What is there already stays, so an interrupted run goes on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cliptrase_d2.data.images import read_label
from cliptrase_d2.data.prepare.archives import Archive, below
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import Job, convert_all, look_up, lookup_table, write_label
from cliptrase_d2.errors import InputError

ARCHIVE = Archive(
    "VOCtrainval_11-May-2012.tar",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    md5="6cd6e144f989b92b3379bac3b3de84fd",
)
COUNT = 1449
CLASSES, VOID = 20, 255
OBJECTS = {raw: raw - 1 for raw in range(1, CLASSES + 1)}
# Folder -> table; the files hold 0 for background.
TABLES = {
    "annotations_detectron2": lookup_table({0: VOID, **OBJECTS, VOID: VOID}, 256),
    "annotations_detectron2_bg": lookup_table({0: CLASSES, **OBJECTS, VOID: VOID}, 256),
}
KEPT = ("JPEGImages/", "SegmentationClass/", "ImageSets/Segmentation/")


def class_indices(raw: np.ndarray, folder: str, where: object) -> np.ndarray:
    """[H,W] class indices from [H,W] palette indices, as they are in a folder of ``TABLES``."""
    return look_up(TABLES[folder], raw, where)


def convert(source: Path, targets: dict[str, Path]) -> None:
    """Write what a segmentation becomes, in each folder."""
    raw = read_label(source)
    for folder, target in targets.items():
        write_label(target, class_indices(raw, folder, source))


def pick(name: str) -> str | None:
    """Which members are wanted."""
    place = below("VOCdevkit/VOC2012", "VOC2012")(name)
    return place if place and place.removeprefix("VOC2012/").startswith(KEPT) else None


def prepare(options: Options) -> None:
    """Do all of it."""
    options.unpack(ARCHIVE, pick)
    voc = options.root / "VOC2012"
    listed = voc / "ImageSets/Segmentation/val.txt"
    if not listed.is_file():
        raise InputError(listed, "no such file in the archive", "the official archive", "Download it again.")
    stems = listed.read_text(encoding="ascii").split()
    options.require(len(stems), COUNT, listed)
    jobs = []
    for stem in stems:
        source = voc / "SegmentationClass" / f"{stem}.png"
        if not source.is_file():
            raise InputError(source, "no such file, but val.txt names it", "the official archive", "Download it again.")
        targets = {folder: voc / folder / "val" / f"{stem}.png" for folder in TABLES}
        jobs.append(Job(tuple(targets.values()), (source, targets)))
    convert_all(jobs, convert, options.workers, "labels")


if __name__ == "__main__":
    run(__doc__, prepare, ("voc20", "voc21", "voc21_paper"))
