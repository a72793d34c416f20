"""ADE20K with its 150 classes, from ADEChallengeData2016.zip.

    python datasets/prepare_ade20k_150.py [ROOT] [--archives FOLDER]

makes ROOT/ADEChallengeData2016/images/validation, …/annotations/validation and, with classes from 0 and 255 for all
that is none of them, …/annotations_detectron2/validation. What is there already stays, so an interrupted run goes on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cliptrase_d2.data.images import read_label
from cliptrase_d2.data.prepare.archives import Archive
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import Job, convert_all, look_up, lookup_table, write_label

ARCHIVE = Archive("ADEChallengeData2016.zip", "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip")
COUNT = 2000
TABLE = lookup_table({0: 255, **{raw: raw - 1 for raw in range(1, 151)}}, 256)
FOLDER = "ADEChallengeData2016"
IMAGES, RAW = f"{FOLDER}/images/validation/", f"{FOLDER}/annotations/validation/"


def class_indices(raw: np.ndarray, where: object) -> np.ndarray:
    """[H,W] class indices 0..149 or 255 from [H,W] values of a raw file."""
    return look_up(TABLE, raw, where)


def convert(source: Path, target: Path) -> None:
    """Write the label file that a raw file becomes."""
    write_label(target, class_indices(read_label(source), source))


def pick(name: str) -> str | None:
    """Which members are wanted."""
    wanted = (name.startswith(IMAGES) and name.endswith(".jpg")) or (name.startswith(RAW) and name.endswith(".png"))
    return name if wanted else None


def prepare(options: Options) -> None:
    """Do all of it."""
    files = options.unpack(ARCHIVE, pick, 2 * COUNT)
    folder = options.root / FOLDER / "annotations_detectron2/validation"
    raw = [path for path in files if path.suffix == ".png"]
    jobs = [Job((folder / path.name,), (path, folder / path.name)) for path in raw]
    convert_all(jobs, convert, options.workers, "labels")


if __name__ == "__main__":
    run(__doc__, prepare, ("ade150",))
