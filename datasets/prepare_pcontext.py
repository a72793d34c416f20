"""Prepare Pascal Context with 59 classes from VOCtrainval_03-May-2010.tar and trainval_merged.json.

    python datasets/prepare_pcontext.py [ROOT] [--archives FOLDER]

writes ROOT/pcontext/val/image and ROOT/pcontext/val/label (255 for other pixels). Images with none of the 59 classes
are left out. Run it again to continue after an interruption.
"""

from __future__ import annotations

import numpy as np

from cliptrase_d2.data.benchmarks import read_numbers
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import map_official_labels
from cliptrase_d2.data.prepare.pascal_context import AnnotatedImage, draw_regions, prepare_labels

UNLABELLED = 255
NUMBERS = read_numbers("pcontext_ids.txt")
RULE = LabelRule(len(NUMBERS), UNLABELLED, {0: UNLABELLED, **{number: index for index, number in enumerate(NUMBERS)}})


def make_labels(image: AnnotatedImage) -> np.ndarray:
    """Return the [H,W] class indices of an image, 0..58 or 255."""
    return map_official_labels(RULE, draw_regions(image), image.stem)


def prepare(options: Options) -> None:
    """Extract the images and write the label files."""
    prepare_labels(options, "pcontext", ".png", make_labels, UNLABELLED)


def main() -> None:
    """Prepare the data set."""
    run(__doc__, prepare, ("pc59", "pc60", "pc60_paper"))


if __name__ == "__main__":
    main()
