"""Prepare ADE20K with 150 classes from ADEChallengeData2016.zip.

    python datasets/prepare_ade20k_150.py [ROOT] [--archives FOLDER]

writes ROOT/ADEChallengeData2016/images/validation, …/annotations/validation and …/annotations_detectron2/validation, in
which classes count from 0 and other pixels are 255. Run it again to continue after an interruption.
"""

from __future__ import annotations

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.archives import Archive
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import relabel_all

ARCHIVE = Archive("ADEChallengeData2016.zip", "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip")
COUNT = 2000
RULE = LabelRule(150, 255, {0: 255, **{raw: raw - 1 for raw in range(1, 151)}})
FOLDER = "ADEChallengeData2016"
IMAGES, RAW = f"{FOLDER}/images/validation/", f"{FOLDER}/annotations/validation/"


def pick(name: str) -> str | None:
    """Select the images and label files of the validation set."""
    is_image = name.startswith(IMAGES) and name.endswith(".jpg")
    is_label = name.startswith(RAW) and name.endswith(".png")
    return name if is_image or is_label else None


def prepare(options: Options) -> None:
    """Extract the files and convert the labels."""
    files = options.unpack(ARCHIVE, pick, 2 * COUNT)
    folder = options.root / FOLDER / "annotations_detectron2/validation"
    raw = [path for path in files if path.suffix == ".png"]
    relabel_all([(path, folder / path.name) for path in raw], RULE, options.workers)


def main() -> None:
    """Prepare the data set."""
    run(__doc__, prepare, ("ade150",))


if __name__ == "__main__":
    main()
