"""Pascal Context with 59 classes, from VOCtrainval_03-May-2010.tar and trainval_merged.json.

    python datasets/prepare_pcontext.py [ROOT] [--archives FOLDER]

makes ROOT/pcontext/val/image and ROOT/pcontext/val/label (255 for all that is none of the 59 classes). An image that
shows nothing of them would be left out. What is there already stays, so an interrupted run goes on. It needs
pycocotools: pip install 'cliptrase_d2[prepare]'.
"""

from __future__ import annotations

import numpy as np

from cliptrase_d2.data.benchmarks import vocabulary_file
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import class_indices
from cliptrase_d2.data.prepare.pascal_context import AnnotatedImage, painted, prepare_labels

UNLABELLED = 255
NUMBERS = [int(line) for line in vocabulary_file("pcontext_ids.txt").read_text(encoding="ascii").split()]
RULE = LabelRule(len(NUMBERS), UNLABELLED, {0: UNLABELLED, **{number: index for index, number in enumerate(NUMBERS)}})


def labels_of(image: AnnotatedImage) -> np.ndarray:
    """[H,W] class indices 0..58 or 255 of an image."""
    return class_indices(RULE, painted(image), image.stem)


def prepare(options: Options) -> None:
    """Do all of it."""
    prepare_labels(options, "pcontext", ".png", labels_of, UNLABELLED)


if __name__ == "__main__":
    run(__doc__, prepare, ("pc59", "pc60", "pc60_paper"))
