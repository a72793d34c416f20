"""Pascal Context with all 459 classes, from VOCtrainval_03-May-2010.tar, trainval_merged.json and trainval.tar.gz.

    python datasets/prepare_pcontext_full.py [ROOT] [--archives FOLDER]

makes ROOT/pcontext_full/val/image and ROOT/pcontext_full/val/label (16 bits, 65535 where nothing is labelled). The
validation set is that of the 59 classes, whose annotations say which images it has; one in which they label nothing
would be left out. What is there already stays, so an interrupted run goes on. It needs SciPy:
pip install 'cliptrase_d2[prepare]'.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.archives import Archive
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import class_indices
from cliptrase_d2.data.prepare.pascal_context import AnnotatedImage, prepare_labels
from cliptrase_d2.utils.errors import InputError

LABELS = Archive("trainval.tar.gz", "https://cs.stanford.edu/~roozbeh/pascal-context/ or https://roozbehm.info")
UNLABELLED = 65535
RULE = LabelRule(459, UNLABELLED, {0: UNLABELLED, **{number: number - 1 for number in range(1, 460)}})
RAW = "pcontext_full/raw"


def read_numbers(path: Path) -> np.ndarray:
    """[H,W] int64 numbers of the 459 classes in a .mat file, 0 where nothing is labelled.

    Raises:
        InputError: SciPy is not installed, or another file.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise InputError(
            "scipy", "not installed", "Run pip install 'cliptrase_d2[prepare]'.", allowed="SciPy"
        ) from error
    try:
        return loadmat(path)["LabelMap"].astype(np.int64)
    except Exception as error:  # SciPy raises of every kind on a broken file
        got = f"unreadable ({type(error).__name__}: {error})"
        raise InputError(path, got, "Unpack the archive again.", allowed="a .mat file with LabelMap") from error


def labels_of(image: AnnotatedImage, folder: Path) -> np.ndarray:
    """[H,W] class indices 0..458 or 65535 of an image, from the folder of .mat files."""
    path = folder / f"{image.stem}.mat"
    return class_indices(RULE, read_numbers(path), path)


def pick(name: str) -> str | None:
    """Which members are wanted."""
    return f"{RAW}/{Path(name).name}" if name.endswith(".mat") else None


def prepare(options: Options) -> None:
    """Do all of it."""
    options.unpack(LABELS, pick)
    prepare_labels(options, "pcontext_full", ".tif", partial(labels_of, folder=options.root / RAW), UNLABELLED)


if __name__ == "__main__":
    run(__doc__, prepare, ("pc459",))
