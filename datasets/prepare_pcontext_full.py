"""Prepare Pascal Context with 459 classes from VOCtrainval_03-May-2010.tar, trainval_merged.json and trainval.tar.gz.

    python datasets/prepare_pcontext_full.py [ROOT] [--archives FOLDER]

writes ROOT/pcontext_full/val/image and ROOT/pcontext_full/val/label (16 bits, 65535 for unlabelled pixels). The
validation set is that of the 59 classes, listed in trainval_merged.json; images without labels are left out. Run it
again to continue after an interruption.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.archives import Archive
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import map_official_labels
from cliptrase_d2.data.prepare.pascal_context import AnnotatedImage, prepare_labels
from cliptrase_d2.utils.errors import InputError

LABELS = Archive("trainval.tar.gz", "https://cs.stanford.edu/~roozbeh/pascal-context/ or https://roozbehm.info")
UNLABELLED = 65535
RULE = LabelRule(459, UNLABELLED, {0: UNLABELLED, **{number: number - 1 for number in range(1, 460)}})
RAW = "pcontext_full/raw"


def read_numbers(path: Path) -> np.ndarray:
    """Read the numbers of the 459 classes from a .mat file: [H,W] int64, 0 for unlabelled pixels.

    Raises:
        InputError: the file is broken.
    """
    try:
        return loadmat(path)["LabelMap"].astype(np.int64)
    except Exception as error:  # SciPy raises errors of many types on broken files
        got = f"unreadable ({type(error).__name__}: {error})"
        raise InputError(path, got, "Delete the file and unpack the archive again.") from error


def make_labels(image: AnnotatedImage, folder: Path) -> np.ndarray:
    """Return the [H,W] class indices of an image, 0..458 or 65535, from a folder of .mat files."""
    path = folder / f"{image.stem}.mat"
    return map_official_labels(RULE, read_numbers(path), path)


def pick(name: str) -> str | None:
    """Select the .mat files."""
    return f"{RAW}/{Path(name).name}" if name.endswith(".mat") else None


def prepare(options: Options) -> None:
    """Extract the files and write the label files."""
    options.unpack(LABELS, pick)
    prepare_labels(options, "pcontext_full", ".tif", partial(make_labels, folder=options.root / RAW), UNLABELLED)


def main() -> None:
    """Prepare the data set."""
    run(__doc__, prepare, ("pc459",))


if __name__ == "__main__":
    main()
