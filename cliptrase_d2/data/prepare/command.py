"""Command line of the scripts in ``datasets/``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cliptrase_d2.data.benchmarks import get_all_benchmarks, get_benchmark_root
from cliptrase_d2.data.prepare.archives import Archive, Pick, check_md5, unpack
from cliptrase_d2.utils.atomic_files import remove_unfinished
from cliptrase_d2.utils.errors import InputError, WriteError
from cliptrase_d2.utils.interruption import exit_on_interrupt

_CONTINUE = "Run the same command again to continue."


@dataclass(frozen=True)
class Options:
    """Options of the command line.

    Attributes:
        root: folder of all data sets.
        archives: folder of the archives.
        workers: number of processes.
        checksum: whether to compare archives with their published checksums.
        incomplete: whether to accept fewer files than the official data have.
    """

    root: Path
    archives: Path
    workers: int
    checksum: bool
    incomplete: bool

    def unpack(self, archive: Archive, pick: Pick, expected: int | None = None) -> list[Path]:
        """Extract files from an archive.

        Args:
            archive: the archive.
            pick: selects the files and their paths.
            expected: number of files in the official archive; None if it does not matter.
        """
        path = archive.find(self.archives)
        if self.checksum and archive.md5:
            check_md5(path, archive.md5)
        files = unpack(path, self.root, pick)
        if expected is not None:
            self.check_count(len(files), expected, path)
        return files

    def check_count(self, count: int, expected: int, where: object) -> None:
        """Raise if the number of files is not that of the official data.

        Raises:
            InputError: it is not, and ``incomplete`` is False.
        """
        if count != expected and not self.incomplete:
            fix = "Download the archive again, or use --incomplete."
            raise InputError(where, f"{count:,} files", fix, allowed=f"{expected:,}")


def run(description: str | None, prepare: Callable[[Options], None], keys: Sequence[str]) -> None:
    """Prepare a data set and print its state. Print errors of the input in one line.

    Args:
        description: docstring of the script.
        prepare: does the work.
        keys: benchmarks that use the data set.
    """
    options = parse_arguments(description)
    benchmarks = [get_all_benchmarks()[key] for key in keys]
    try:
        with exit_on_interrupt(_CONTINUE):
            # Only in the folders of this script: another may be running.
            for folder in {PurePosixPath(benchmark.labels).parts[0] for benchmark in benchmarks}:
                remove_unfinished(options.root / folder)
            prepare(options)
            for benchmark in benchmarks:
                count = len(benchmark.spec(options.root).find_files().records)
                print(f"{benchmark.title}: {count:,} of {benchmark.count:,} images with labels, as {benchmark.name}")
                command = f"  DETECTRON2_DATASETS={options.root} cliptrase"
                if benchmark.key.endswith("_train"):
                    print(f"{command} train --config-file san/san_vit_b16")
                elif not benchmark.key.endswith("_paper"):
                    print(f"{command} eval --config-file cliptrase/{benchmark.key}_224")
    except WriteError as error:
        sys.exit(f"error: {error} {_CONTINUE}")
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {InputError(options.root, f'cannot be read or written ({error})', _CONTINUE)}")


def parse_arguments(description: str | None = None) -> Options:
    """Parse the command line.

    Args:
        description: docstring of the script.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = get_benchmark_root()
    parser.add_argument("root", type=Path, nargs="?", default=root, help=f"folder of all data sets (default: {root})")
    parser.add_argument("--archives", type=Path, help="folder of the archives (default: folder of all data sets)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--no-checksum", action="store_true", help="accept archives with another checksum")
    parser.add_argument("--incomplete", action="store_true", help="accept fewer files than the official data have")
    args = parser.parse_args()
    if args.workers < 1:
        parser.error(f"--workers {args.workers}: must be at least 1")
    return Options(args.root, args.archives or args.root, args.workers, not args.no_checksum, args.incomplete)
