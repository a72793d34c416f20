"""The command line that all scripts in ``datasets/`` have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cliptrase_d2.data.benchmarks import Benchmark, benchmark_root
from cliptrase_d2.data.prepare.archives import Archive, Pick, check_md5, unpack
from cliptrase_d2.data.unsupervised_benchmarks import known_benchmarks
from cliptrase_d2.utils.atomic_files import remove_unfinished
from cliptrase_d2.utils.errors import InputError, WriteError
from cliptrase_d2.utils.interruption import clean_end

_GO_ON = "The same command goes on from here."


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        root: folder of all data sets.
        archives: folder of the archives.
        workers: processes.
        checksum: compare archives with their published checksums.
        incomplete: accept fewer files than the official data have.
    """

    root: Path
    archives: Path
    workers: int
    checksum: bool
    incomplete: bool

    def unpack(self, archive: Archive, pick: Pick, expected: int | None = None) -> list[Path]:
        """Take files out of an archive.

        Args:
            archive: as published.
            pick: which files, and where to.
            expected: their number in the official archive; None where it does not matter.
        """
        path = archive.find(self.archives)
        if self.checksum and archive.md5:
            check_md5(path, archive.md5)
        files = unpack(path, self.root, pick)
        if expected is not None:
            self.require(len(files), expected, str(path))
        return files

    def require(self, found: int, expected: int, where: object) -> None:
        """Refuse another number of files than the official data have.

        Raises:
            InputError: another number, unless ``incomplete``.
        """
        if found != expected and not self.incomplete:
            raise InputError(
                where, f"{found:,} files", "Download the archive again, or use --incomplete.", allowed=f"{expected:,}"
            )


def run(description: str | None, prepare: Callable[[Options], None], keys: Sequence[str]) -> None:
    """Prepare a data set and say what there is then; end with one line where the input is at fault.

    Args:
        description: the docstring of the script.
        prepare: does the work.
        keys: benchmarks that read the result.
    """
    options = parse_arguments(description)
    try:
        with clean_end(_GO_ON):
            benchmarks = [known_benchmarks()[key] for key in keys]
            for folder in {
                PurePosixPath(benchmark.labels).parts[0] for benchmark in benchmarks
            }:  # not of other scripts
                remove_unfinished(options.root / folder)
            prepare(options)
            for benchmark in benchmarks:
                _say(benchmark, options.root)
    except WriteError as error:
        sys.exit(f"error: {error} {_GO_ON}")
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        allowed = "a folder that can be read and written, on a disk with room"
        sys.exit(f"error: {InputError(options.root, f'stopped at {error}', _GO_ON, allowed=allowed)}")


def _say(benchmark: Benchmark, root: Path) -> None:
    count = len(benchmark.spec(root).find_files().records)
    print(f"{benchmark.title}: {count:,} of {benchmark.count:,} images with labels, as {benchmark.name}")
    command = f"  DETECTRON2_DATASETS={root} python train_net.py"
    if benchmark.key.endswith("_train"):
        print(f"{command} --config-file configs/san/san_vit_b16.yaml")
    elif not benchmark.key.endswith("_paper"):
        print(f"{command} --eval-only --config-file configs/cliptrase/{benchmark.key}_224.yaml")


def parse_arguments(description: str | None = None) -> Options:
    """Command line; the description is the docstring of the script."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = benchmark_root()
    parser.add_argument(
        "root", type=Path, nargs="?", default=default, help=f"folder of all data sets (default: {default})"
    )
    parser.add_argument("--archives", type=Path, help="folder of the archives (default: the folder of all data sets)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--no-checksum", action="store_true", help="take an archive that differs from the published")
    parser.add_argument("--incomplete", action="store_true", help="accept fewer files than there should be")
    args = parser.parse_args()
    if args.workers < 1:
        parser.error(f"--workers {args.workers}: must be at least 1")
    return Options(args.root, args.archives or args.root, args.workers, not args.no_checksum, args.incomplete)
