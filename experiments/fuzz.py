"""Fuzz the readers of all files that users provide.

    python experiments/fuzz.py --seconds 60
    python experiments/fuzz.py --kinds image "label PNG" --cases 10000 --seed 7

Valid images, labels, YAML files, class lists, weights, caches and archives are mutated at random and read. A reader may
accept a file or reject it with an InputError. Any other error, a hang or an impossible result is a failure. Its file
and its traceback are stored. The exit code is 1 after a failure.
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
from cliptrase_d2.utils.interruption import exit_on_interrupt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts are not part of the installed package

from experiments.fuzzing.mutate import mutate_bytes
from experiments.fuzzing.targets import Target, WrongResultError, build_targets

ACCEPTED, REJECTED, FAILED = "accepted", "rejected", "failed"


class HangError(BaseException):
    """A reader exceeded the time limit. It is not an Exception, which readers may catch."""


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="total duration (default 60)")
    parser.add_argument("--cases", type=int, help="files of each kind, instead of --seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default 0)")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="default: all")
    parser.add_argument("--limit", type=float, default=10.0, metavar="S", help="seconds per file (default 10)")
    parser.add_argument("--memory", type=int, metavar="MB", help="limit of additional memory (Linux; default: none)")
    parser.add_argument("--output", type=Path, default=Path("output/fuzz"), help="folder of the failures")
    return parser.parse_args()


class Fuzzer:
    """Mutates files of several kinds, in turn.

    Args:
        targets: kinds of files.
        work: folder of the mutated files, which `build_targets` has prepared.
        output: folder of the failures.
        seed: of the mutations. The n-th file of a kind depends only on the seed, the kind and n.
        limit: seconds per file.
    """

    def __init__(self, targets: Sequence[Target], work: Path, output: Path, *, seed: int, limit: float):
        self.targets, self.work, self.output, self.seed, self.limit = targets, work, output, seed, limit
        self.counts: dict[str, Counter[str]] = {target.name: Counter() for target in targets}

    def run(self, *, seconds: float, cases: int | None) -> None:
        """Fuzz for some time, or with `cases` files of each kind."""
        end = time.monotonic() + seconds
        number = 0
        while number < cases if cases is not None else time.monotonic() < end:
            for target in self.targets:
                self.counts[target.name][self.run_case(target, number)] += 1
            number += 1

    def run_case(self, target: Target, number: int) -> str:
        """Mutate and read one file. Return ``ACCEPTED``, ``REJECTED`` or ``FAILED``."""
        random = Random(f"{self.seed} {target.name} {number}")
        valid, mutate = random.choice(target.corpus), random.choice(target.mutators)
        path = self.work / (target.file or f"case{target.suffix}")
        path.write_bytes(valid)
        expected = target.read(path) if target.has_checksums and mutate is mutate_bytes else None
        path.write_bytes(mutate(valid, random))
        try:
            with _time_limit(self.limit):
                value = target.read(path)
            if expected is not None and value is not None and not _equal(value, expected):
                raise WrongResultError(f"the checksums did not detect a changed value: {value}")
        except InputError:
            return REJECTED
        except (Exception, HangError):
            self._store(path, f"{target.name.replace(' ', '_')}_{self.seed}_{number}")
            return FAILED
        return REJECTED if value is None else ACCEPTED

    def _store(self, path: Path, name: str) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / f"{name}{path.suffix}").write_bytes(path.read_bytes())
        (self.output / f"{name}.txt").write_text(traceback.format_exc())


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise HangError after the limit. If that fails, because no Python code runs, exit with 1."""

    def stop(*_: object) -> None:
        raise HangError(f"more than {seconds:g} seconds")

    handler = signal.signal(signal.SIGALRM, stop)
    faulthandler.dump_traceback_later(3 * seconds, exit=True, file=2)  # standard error, even if sys.stderr is replaced
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, handler)


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(_equal(value[name], other[name]) for name in value)
    if isinstance(value, torch.Tensor):
        return value.dtype == other.dtype and torch.equal(value, other)
    return np.array_equal(value, other)


def _limit_memory(megabytes: int) -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    """Run the fuzzer. Return the exit code."""
    args = parse_arguments()
    logging.disable(logging.WARNING)  # of damaged caches and skipped files
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # of Pillow, about metadata
        targets = {target.name: target for target in build_targets(Path(folder))}
        unknown = set(args.kinds or []) - targets.keys()
        if unknown:
            sys.exit(f"error: --kinds: unknown {', '.join(sorted(unknown))}. Choose from: {', '.join(targets)}.")
        if args.memory:
            _limit_memory(args.memory)
        chosen = [targets[name] for name in args.kinds or targets]
        fuzzer = Fuzzer(chosen, Path(folder), args.output, seed=args.seed, limit=args.limit)
        fuzzer.run(seconds=args.seconds, cases=args.cases)
    outcomes = (ACCEPTED, REJECTED, FAILED)
    rows = [(name, *(counts[outcome] for outcome in outcomes)) for name, counts in fuzzer.counts.items()]
    print(tabulate(rows, headers=("kind", *outcomes)))
    failures = sum(counts[FAILED] for counts in fuzzer.counts.values())
    if failures:
        print(f"{failures} failures, stored in {args.output}/")
    return int(failures > 0)


if __name__ == "__main__":
    with exit_on_interrupt():
        sys.exit(main())
