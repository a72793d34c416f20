"""How far an evaluation has come, on disk, so that one that was killed can go on.

Every process rewrites one file of its own: which records it has done and what it counted in them. A later run reads
the files of all earlier ones and starts files of its own, in a new generation; nothing on disk is ever merged, so there
is no moment at which a kill could lose an image or have it counted twice.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from cliptrase_d2.evaluation.counts import Counts
from cliptrase_d2.utils.atomic_files import atomic_write

FLUSH_SECONDS = 5.0  # what a kill costs at most; writing takes some 20 ms at 847 classes
_NAME = re.compile(r"(\d+)-(\d+)\.npz")

logger = logging.getLogger(__name__)


class Progress:
    """The progress files of one evaluation.

    Args:
        folder: of the files.
        fingerprint: of all that decides the counts: configuration, classes, list of records.
        num_records: of the whole data set.
        num_classes: C.
    """

    def __init__(self, folder: Path, fingerprint: str, num_records: int, num_classes: int):
        self.folder = folder
        self.fingerprint = fingerprint
        self.num_records = num_records
        self.num_classes = num_classes

    def read(self) -> tuple[np.ndarray, Counts]:
        """What earlier runs have done: [num_records] bool, and what they counted.

        Files that another evaluation wrote, or of which two have a record in common, make everything start anew, which
        the log says.
        """
        done = np.zeros(self.num_records, dtype=bool)
        counts = Counts.nothing(self.num_classes)
        for path in self._files():
            share = self._read_share(path)
            if share is None or done[share[0]].any():
                logger.warning(
                    "%s: of another configuration, other files or a damaged disk; the evaluation starts anew.", path
                )
                return np.zeros(self.num_records, dtype=bool), Counts.nothing(self.num_classes)
            done[share[0]] = True
            counts.add(share[1])
        return done, counts

    def next_generation(self) -> int:
        """A number that no file has yet."""
        return 1 + max((int(path.name.split("-")[0]) for path in self._files()), default=0)

    def clear(self) -> None:
        """Remove all files."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def writer(self, generation: int, rank: int) -> ProgressWriter:
        """The file of one process."""
        return ProgressWriter(self.folder / f"{generation:04d}-{rank:04d}.npz", self.fingerprint)

    def _files(self) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def _read_share(self, path: Path) -> tuple[np.ndarray, Counts] | None:
        """Record indices and counts of a file; None for one that does not belong here."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                notes = json.loads(str(stored["notes"]))
                indices, confusion = stored["indices"], torch.from_numpy(stored["confusion"])
        except Exception:  # NumPy, zipfile and zlib each fail on damage in many ways, which all mean the same
            return None
        fits = notes.pop("fingerprint", None) == self.fingerprint
        counts = Counts(confusion, **notes) if fits else None
        if counts is None or counts.images + len(counts.skipped) != len(indices):
            return None
        return indices, counts


class ProgressWriter:
    """The file of one process, written anew every few seconds.

    Args:
        path: of the file.
        fingerprint: as in ``Progress``.
    """

    def __init__(self, path: Path, fingerprint: str):
        self.path = path
        self.fingerprint = fingerprint
        # Records and what was counted in them change in one assignment: an interruption, which may come at any line,
        # must not find the one without the other.
        self._state: tuple[list[np.ndarray], Counts | None] = [], None
        self._written = time.monotonic()

    def done(self, indices: np.ndarray, counts: Counts) -> None:
        """Note records whose results are counted and on disk; write if it is time to.

        Args:
            indices: of the records, none of which was noted before.
            counts: of all that this process has done.
        """
        self._state = [*self._state[0], indices], counts.copy()
        if time.monotonic() - self._written >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was noted last, now."""
        parts, counts = self._state
        if counts is None:
            return
        indices = np.concatenate(parts)
        self._state = [indices], counts
        notes = {
            "fingerprint": self.fingerprint,
            "images": counts.images,
            "without_valid_label": counts.without_valid_label,
            "skipped": counts.skipped,
        }

        def write(file: BinaryIO) -> None:
            np.savez_compressed(
                file,
                indices=indices,
                confusion=counts.confusion.numpy(),
                notes=np.array(json.dumps(notes)),
            )

        atomic_write(self.path, write)
        self._written = time.monotonic()
