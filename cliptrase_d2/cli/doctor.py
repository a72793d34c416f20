"""Show installed packages, cached weights and complete benchmarks, and how to fix the rest.

--deep, or --dataset for your own data, opens every file and checks pairs, sizes and label values. For a folder of your
own data, the data-set file that would be used is printed with the reason for every key, and checked. --write stores it.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cliptrase_d2.cli.outputs import add_overwrite_argument
from cliptrase_d2.utils.errors import InputError, check_choice

if TYPE_CHECKING:  # importing PyTorch would delay --help
    from cliptrase_d2.data.benchmarks import Benchmark
    from cliptrase_d2.data.custom import DatasetSpec

_MAX_LISTED = 5  # problems, or absent classes, of one data set
_PACKAGES = ("open_clip_torch", "hdbscan", "numpy", "opencv-python", "pycocotools", "scipy")
_CACHED_MODEL = ("ViT-B-16", "openai")  # the default of the configurations


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase doctor``."""
    help_text = "check only these, and fail if incomplete; or a FOLDER of your own data to propose a data-set file for"
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=help_text)
    parser.add_argument("--deep", action="store_true", help="open every file")
    parser.add_argument("--root", type=Path, help="data-set folder (default: DETECTRON2_DATASETS or datasets)")
    parser.add_argument("--dataset", type=Path, metavar="D.yaml", help="check your own data set instead")
    parser.add_argument("--write", type=Path, metavar="D.yaml", help="write the data-set file proposed for FOLDER")
    add_overwrite_argument(parser)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Return 1 if an opened file or a requested benchmark has a problem, else 0."""
    from cliptrase_d2.data.benchmarks import get_all_benchmarks
    from cliptrase_d2.data.custom import read_dataset_file

    benchmarks = get_all_benchmarks()
    if folder := _get_folder(arguments.benchmarks, benchmarks):
        if arguments.dataset:
            raise InputError("--dataset", arguments.dataset, "Name either a folder or its data-set file.")
        return int(_propose(folder, arguments))
    if arguments.write:
        raise InputError("--write", arguments.write, "Name the folder of your data, too.")
    for key in arguments.benchmarks:
        check_choice("BENCHMARK", key, benchmarks)
    if arguments.dataset:
        return int(_has_problems(read_dataset_file(arguments.dataset), arguments.workers))
    if not arguments.benchmarks:
        for title, rows in (("Installation", _installation()), ("Weights", _weights())):
            print(title, *(f"  {name:<18}{value}" for name, value in rows), "", sep="\n")
    return _print_benchmarks(arguments, benchmarks)


def _get_folder(words: list[str], benchmarks: Mapping[str, Benchmark]) -> Path | None:
    """Return the folder among the arguments; None if they are benchmarks.

    Raises:
        InputError: a folder does not exist, or is not the only argument.
    """
    others = [word for word in words if word not in benchmarks]
    folders = [word for word in others if os.path.isdir(word)]
    for word in others:
        if word not in folders and (os.path.exists(word) or "/" in word or os.sep in word):
            got = "a file" if os.path.exists(word) else "no such folder"
            raise InputError(word, got, "Name the folder of your data. --dataset takes its data-set file.")
    if folders and len(words) > 1:
        raise InputError("BENCHMARK", f"the folder {folders[0]} and other names", "Name one folder only.")
    return Path(folders[0]) if folders else None


def _propose(folder: Path, arguments: argparse.Namespace) -> bool:
    """Print the data-set file for a folder, write it if wanted, and return whether its check finds problems."""
    from cliptrase_d2.data.custom import read_dataset_file
    from cliptrase_d2.data.proposal import propose, render
    from cliptrase_d2.utils.atomic_files import atomic_write_text

    target = arguments.write
    if target and target.exists() and not arguments.overwrite:
        raise InputError(target, "a file that exists already", "Choose another name, or add --overwrite to replace it.")
    draft = propose(folder)
    text = render(draft, folder, target.parent if target else folder)
    print(text)
    if target:
        atomic_write_text(target, text)
        print(f"Written to {target}")
        return _has_problems(read_dataset_file(target), arguments.workers)
    with TemporaryDirectory() as place:
        file = Path(place) / "proposal.yaml"
        atomic_write_text(file, render(draft, folder))
        try:
            spec = replace(read_dataset_file(file), source=None)
        except InputError as error:
            where = f"proposal for {folder}" if error.where == file else error.where
            raise InputError(where, error.got, error.fix, error.allowed) from error
    print(f"The paths are relative to {folder}. --write {draft.keys['name']}.yaml stores the file.")
    return _has_problems(spec, arguments.workers)


def _installation() -> Iterator[tuple[str, str]]:
    import torch

    import cliptrase_d2
    from cliptrase_d2.d2 import describe

    yield "Python", f"{platform.python_version()} ({platform.platform(terse=True)})"
    yield "cliptrase_d2", f"{cliptrase_d2.__version__}, {Path(cliptrase_d2.__file__).parent}"
    yield "Detectron2", describe()
    yield "torch", torch.__version__
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.device_count():
        yield "device", f"CPU, {os.cpu_count()} cores (no CUDA device found)"
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:  # such as opencv-python where opencv-python-headless replaces it
            yield package, "not installed"


def _weights() -> Iterator[tuple[str, str]]:
    from cliptrase_d2.clip import embedded
    from cliptrase_d2.config import load_config
    from cliptrase_d2.segmenter.pretrained import download_size, find_cached_weights

    yield embedded.NAME, f"included in this package ({embedded.WEIGHTS.stat().st_size / 1e6:.1f} MB)"
    path, size = find_cached_weights(*_CACHED_MODEL), download_size(_CACHED_MODEL[0])
    missing = (
        f"not cached; downloaded on first use (about {size:.0f} MB), or set MODEL.CLIP.PRETRAINED to a file or folder"
    )
    yield " ".join(_CACHED_MODEL), str(path) if path else missing
    folder = Path(load_config().MODEL.CLIP.TEXT_CACHE).expanduser()
    files = list(folder.glob("*.safetensors")) if folder.is_dir() else []
    total = sum(file.stat().st_size for file in files) / 1e6
    yield "text features", f"{len(files)} files, {total:.1f} MB, {folder}"


def _print_benchmarks(arguments: argparse.Namespace, benchmarks: Mapping[str, Benchmark]) -> int:
    from cliptrase_d2.data.benchmarks import get_benchmark_root
    from cliptrase_d2.data.inspection import get_benchmark_state

    root = arguments.root or get_benchmark_root()
    print(f"Benchmarks in {root.resolve()} (set DETECTRON2_DATASETS to use another folder)")
    failed = False
    remedies: dict[str, list[str]] = {}
    for key in arguments.benchmarks or benchmarks:
        benchmark = benchmarks[key]
        state = get_benchmark_state(benchmark, root)
        count = f"{state.pairs:,} of {state.expected:,}"
        status = "ready" if state.is_complete else "incomplete" if state.pairs else "missing"
        print(f"  {key:<21}{status:<11}{count:<16}{benchmark.name:<42}{state.problem}".rstrip())
        if not state.is_complete:
            remedies.setdefault(state.command, []).append(key)
            failed |= key in arguments.benchmarks
        if arguments.deep and state.pairs:
            failed |= _has_problems(benchmark.spec(root), arguments.workers, indent="    ")
    if remedies:
        print("\nTo complete them, download the archives (see datasets/README.md) and run:")
        width = max(map(len, remedies))
        for remedy, helped in remedies.items():
            print(f"  {remedy:<{width}}  {', '.join(helped)}")
    return int(failed)


def _has_problems(spec: DatasetSpec, workers: int, indent: str = "") -> bool:
    """Open every file of a data set, print the problems, and return whether there are any."""
    from cliptrase_d2.data.inspection import inspect

    findings = inspect(spec, workers)
    for problem in findings.problems[:_MAX_LISTED]:
        print(f"{indent}{problem}")
    if len(findings.problems) > _MAX_LISTED:
        print(f"{indent}and {len(findings.problems) - _MAX_LISTED:,} more")
    verdict = f"{len(findings.problems):,} problems" if findings.problems else "no problems"
    print(f"{indent}{spec.name}: opened all files of {findings.pairs:,} images, {verdict}")
    if spec.labels is not None:
        classes = spec.vocabulary.classes
        absent = [name for name, pixels in zip(classes, findings.pixels, strict=True) if not pixels]
        listed = ", ".join(absent[:_MAX_LISTED]) + (", ..." if len(absent) > _MAX_LISTED else "")
        missing = f"; missing: {listed}" if absent else ""
        share = findings.ignored / max(1, findings.ignored + findings.pixels.sum())
        print(f"{indent}{len(classes) - len(absent)} of {len(classes)} classes occur{missing}")
        print(f"{indent}{share:.1%} of the labelled pixels are not scored")
    for warning in findings.warnings:
        print(f"{indent}warning: {warning}")
    return bool(findings.problems)
