"""Progress files, from which a killed evaluation resumes.

Every process rewrites one file of its own with its finished records and their counts. A later run reads the files of
all earlier runs and writes new files under the next generation number. Files are never merged, so a kill at any moment
neither loses an image nor counts one twice.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cliptrase_d2.evaluation.confusion import Counts
from cliptrase_d2.utils.atomic_files import atomic_write

FLUSH_SECONDS = 5.0  # the most work that a kill can lose; a write takes about 20 ms at 847 classes
_FILES = "{0}-{0}.npz".format("[0-9]" * 4)  # generation-rank

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """The progress files of one evaluation.

    Attributes:
        folder: of the files.
        fingerprint: changes with everything that affects the counts: configuration, classes, list of records.
        num_records: size of the data set.
        num_classes: C.
    """

    folder: Path
    fingerprint: str
    num_records: int
    num_classes: int

    def read(self) -> tuple[np.ndarray, Counts]:
        """Return which records earlier runs finished, [num_records] bool, and their counts.

        If a file is damaged, belongs to another evaluation or repeats a record of another file, nothing counts as
        finished, and a warning is logged.
        """
        done, counts = np.zeros(self.num_records, dtype=bool), Counts.empty(self.num_classes)
        for path in self._files():
            share = self._read_file(path)
            if share is None or done[share[0]].any():
                logger.warning("%s: damaged, or of another configuration or data set; evaluation starts anew", path)
                return np.zeros(self.num_records, dtype=bool), Counts.empty(self.num_classes)
            done[share[0]] = True
            counts += share[1]
        return done, counts

    def next_generation(self) -> int:
        """Return the first number above those of all files."""
        return 1 + max((int(path.name.split("-")[0]) for path in self._files()), default=0)

    def clear(self) -> None:
        """Remove all files."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def writer(self, generation: int, rank: int) -> ProgressWriter:
        """Return the writer of one process's file."""
        return ProgressWriter(self.folder / f"{generation:04d}-{rank:04d}.npz", self.fingerprint)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(_FILES))

    def _read_file(self, path: Path) -> tuple[np.ndarray, Counts] | None:
        """Return record indices and counts; None for a damaged file or one of another evaluation."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                notes = json.loads(str(stored["notes"]))
                arrays = {name: torch.from_numpy(stored[name]) for name in stored.files if name != "notes"}
        except Exception:  # NumPy, zipfile and zlib raise many kinds of error for a damaged file
            return None
        if notes.pop("fingerprint", None) != self.fingerprint:
            return None
        indices, values = arrays.pop("indices").numpy(), {**arrays, **notes}
        if values.keys() != vars(Counts.empty(0)).keys():  # another version counted other things
            return None
        counts = Counts(**values)
        return (indices, counts) if counts.images + len(counts.skipped) == len(indices) else None


class ProgressWriter:
    """Writes the progress file of one process every few seconds.

    Args:
        path: of the file.
        fingerprint: as in ``Progress``.
    """

    def __init__(self, path: Path, fingerprint: str):
        self.path = path
        self.fingerprint = fingerprint
        # Records and counts change in one assignment, so that an interruption at any line cannot separate them.
        self._state: tuple[list[np.ndarray], Counts | None] = [], None
        self._last_write = time.monotonic()

    def done(self, indices: np.ndarray, counts: Counts) -> None:
        """Note finished records, and write the file if the last write is ``FLUSH_SECONDS`` ago.

        Args:
            indices: of the records, none of which was noted before. Their results are counted and on disk.
            counts: of all records that this process has finished.
        """
        self._state = [*self._state[0], indices], deepcopy(counts)
        if time.monotonic() - self._last_write >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write all noted records."""
        parts, counts = self._state
        if counts is None:
            return
        indices = np.concatenate(parts)
        self._state = [indices], counts
        values = {"fingerprint": self.fingerprint, **vars(counts)}
        arrays = {name: values.pop(name).numpy() for name in list(values) if isinstance(values[name], torch.Tensor)}
        arrays |= {"indices": indices, "notes": np.array(json.dumps(values))}
        atomic_write(self.path, lambda file: np.savez_compressed(file, **arrays))
        self._last_write = time.monotonic()
