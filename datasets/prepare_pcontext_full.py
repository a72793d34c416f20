"""Pascal Context with all 459 classes, from VOCtrainval_03-May-2010.tar, trainval_merged.json and trainval.tar.gz.

    python datasets/prepare_pcontext_full.py [ROOT] [--archives FOLDER]

makes ROOT/pcontext_full/val/image and ROOT/pcontext_full/val/label (16 bits, 65535 where nothing is labelled). The
validation set is that of the 59 classes, whose annotations say which images it has. What is there already stays, so an
interrupted run goes on. It needs SciPy and pycocotools: pip install 'cliptrase_d2[prepare]'.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cliptrase_d2.data.prepare.archives import Archive
from cliptrase_d2.data.prepare.command import Options, run
from cliptrase_d2.data.prepare.convert import Job, convert_all, look_up, lookup_table, same_file, write_label
from cliptrase_d2.data.prepare.pascal_context import (
    ANNOTATIONS,
    COUNT,
    AnnotatedImage,
    painted,
    unpack_images,
    validation_images,
)
from cliptrase_d2.errors import InputError

LABELS = Archive("trainval.tar.gz", "https://cs.stanford.edu/~roozbeh/pascal-context/")
UNLABELLED = 65535
TABLE = lookup_table({0: UNLABELLED, **{number: number - 1 for number in range(1, 460)}}, 460)


def class_indices(numbers: np.ndarray, where: object) -> np.ndarray:
    """[H,W] class indices 0..458 or 65535 from [H,W] numbers of the list of 459 classes."""
    return look_up(TABLE, numbers, where)


def read_numbers(path: Path) -> np.ndarray:
    """[H,W] int64 numbers of a .mat file.

    Raises:
        InputError: SciPy is not installed, or another file.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise InputError("scipy", "not installed", "SciPy", "Run pip install 'cliptrase_d2[prepare]'.") from error
    try:
        return loadmat(path)["LabelMap"].astype(np.int64)
    except Exception as error:  # SciPy raises of every kind on a broken file
        came = f"unreadable ({type(error).__name__}: {error})"
        raise InputError(path, came, "a .mat file with LabelMap", "Unpack the archive again.") from error


def convert(image: AnnotatedImage, matlab: Path, source: Path, image_target: Path, label_target: Path) -> None:
    """Write the labels of an image, and put the image beside them."""
    if not painted(image).any():
        return
    same_file(source, image_target)
    write_label(label_target, class_indices(read_numbers(matlab), matlab))


def prepare(options: Options) -> None:
    """Do all of it."""
    photographs = unpack_images(options)
    raw = options.unpack(LABELS, lambda name: f"pcontext_full/raw/{Path(name).name}" if name.endswith(".mat") else None)
    folder = raw[0].parent
    jobs = []
    for image in validation_images(ANNOTATIONS.find(options.archives)):
        targets = (
            options.root / "pcontext_full/val/image" / f"{image.stem}.jpg",
            options.root / "pcontext_full/val/label" / f"{image.stem}.tif",
        )
        source = photographs / f"{image.stem}.jpg"
        jobs.append(Job(targets, (image, folder / f"{image.stem}.mat", source, *targets)))
    convert_all(jobs, convert, options.workers, "labels")
    made = sum(target.is_file() for job in jobs for target in job.targets[1:])
    options.require(made, COUNT, options.root / "pcontext_full/val/label")


if __name__ == "__main__":
    run(__doc__, prepare, ("pc459",))
