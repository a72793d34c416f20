"""Spoil files of every kind that a user hands in, and see whether they are refused as they should be.

    python experiments/fuzz.py --seconds 60
    python experiments/fuzz.py --kinds image "label PNG" --cases 10000 --seed 7

Sound images, labels, YAML files, class lists, weights, caches and archives are changed at random and read. A reader
may accept a file or refuse it with an InputError; any other error, a hang, or a result that cannot be is a failure,
whose file is kept beside its traceback. Ends with 1 if there is any.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import clean_end
from experiments.fuzzing.mutate import bytes_at_random
from experiments.fuzzing.subjects import Subject, WrongResultError, subjects

ACCEPTED, REFUSED, FAILED = "accepted", "refused", "failed"


class HangError(BaseException):
    """A reader took too long; no Exception, so that no reader takes it for a fault of the file."""


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long, for all kinds together (default 60)")
    parser.add_argument("--cases", type=int, help="files of each kind, in place of --seconds")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (default 0)")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="only these (default: all)")
    parser.add_argument("--limit", type=float, default=10.0, metavar="S", help="seconds for one file (default 10)")
    parser.add_argument(
        "--memory", type=int, metavar="MB", help="beyond what is loaded (default: no bound; Linux only)"
    )
    parser.add_argument("--output", type=Path, default=Path("output/fuzz"), help="folder of what failed")
    return parser.parse_args()


class Fuzzer:
    """Spoils files of some kinds, in turn.

    Args:
        kinds: of files.
        work: folder that the files are written to, where `subjects` has put what they need.
        output: folder of what failed.
        seed: of all chance; the n-th file of a kind depends on it, the kind and n, and on nothing else.
        limit: seconds for one file.
    """

    def __init__(self, kinds: Sequence[Subject], work: Path, output: Path, *, seed: int, limit: float):
        self.kinds, self.work, self.output, self.seed, self.limit = kinds, work, output, seed, limit
        self.counts: dict[str, Counter[str]] = {kind.name: Counter() for kind in kinds}

    def run(self, *, seconds: float, cases: int | None) -> None:
        """Spoil and read until the time is up, or `cases` files of each kind were read."""
        end = time.monotonic() + seconds
        number = 0
        while number < cases if cases is not None else time.monotonic() < end:
            for kind in self.kinds:
                self.counts[kind.name][self.try_one(kind, number)] += 1
            number += 1

    def try_one(self, kind: Subject, number: int) -> str:
        """Spoil and read one file: ``ACCEPTED``, ``REFUSED`` or ``FAILED``."""
        random = Random(f"{self.seed} {kind.name} {number}")
        sound, mutate = random.choice(kind.sound), random.choice(kind.mutations)
        path = self.work / (kind.file or f"case{kind.suffix}")
        path.write_bytes(sound)
        expected = kind.read(path) if kind.checksums and mutate is bytes_at_random else None
        path.write_bytes(mutate(sound, random))
        try:
            with _watched(self.limit):
                value = kind.read(path)
            if expected is not None and value is not None and not _equal(value, expected):
                raise WrongResultError(f"another value than that of the sound file, in spite of its checksums: {value}")
        except InputError:
            return REFUSED
        except (Exception, HangError):
            self._keep(path, f"{kind.name.replace(' ', '_')}_{self.seed}_{number}")
            return FAILED
        return REFUSED if value is None else ACCEPTED

    def _keep(self, path: Path, name: str) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / f"{name}{path.suffix}").write_bytes(path.read_bytes())
        (self.output / f"{name}.txt").write_text(traceback.format_exc())


@contextmanager
def _watched(limit: float) -> Iterator[None]:
    """Raise where the block takes longer; one that does not even come back to Python ends the program, with 1."""

    def stop(*_: object) -> None:
        raise HangError(f"more than {limit:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    faulthandler.dump_traceback_later(3 * limit, exit=True, file=2)  # standard error, whatever stands for it
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(_equal(value[name], other[name]) for name in value)
    if isinstance(value, torch.Tensor):
        return value.dtype == other.dtype and torch.equal(value, other)
    return np.array_equal(value, other)


def _bound_memory(megabytes: int) -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> int:
    """Run; 1 if anything failed."""
    arguments = parse_arguments()
    logging.disable(logging.WARNING)  # of caches that are computed again, and files that are left out
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # Pillow's, of metadata
        kinds = subjects(Path(folder))
        names = [kind.name for kind in kinds]
        unknown = set(arguments.kinds or []) - set(names)
        if unknown:
            sys.exit(
                f"error: --kinds: {', '.join(sorted(unknown))}. Allowed: {', '.join(names)}. Choose some of these."
            )
        chosen = [kind for kind in kinds if not arguments.kinds or kind.name in arguments.kinds]
        if arguments.memory:
            _bound_memory(arguments.memory)
        fuzzer = Fuzzer(chosen, Path(folder), arguments.output, seed=arguments.seed, limit=arguments.limit)
        fuzzer.run(seconds=arguments.seconds, cases=arguments.cases)
    rows = [
        (name, *(counts[outcome] for outcome in (ACCEPTED, REFUSED, FAILED))) for name, counts in fuzzer.counts.items()
    ]
    print(tabulate(rows, headers=("kind", ACCEPTED, REFUSED, FAILED)))
    failed = sum(counts[FAILED] for counts in fuzzer.counts.values())
    if failed:
        print(f"{failed} failures, kept in {arguments.output}/")
    return int(failed > 0)


if __name__ == "__main__":
    with clean_end():
        sys.exit(main())
