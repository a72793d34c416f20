"""Say what is installed, which weights are cached and which benchmarks are there, and what puts right what is not.

With --deep, or for a data set of your own, every file is opened: pairs, sizes, label values against the class list.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what loads PyTorch waits until the command runs, so that help comes at once
    from cliptrase_d2.data.custom import DatasetSpec

_SHOWN = 5  # problems of one data set that are printed
_OPTIONAL = {"pycocotools": "datasets/prepare_pcontext*.py", "scipy": "datasets/prepare_pcontext_full.py"}
_CACHED_MODEL = ("ViT-B-16", "openai")  # of the configurations


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``cliptrase doctor``."""
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help="only these, and they must be complete")
    parser.add_argument("--deep", action="store_true", help="open every file of what is there")
    parser.add_argument("--root", type=Path, help="folder of all data sets (default: DETECTRON2_DATASETS or datasets)")
    parser.add_argument("--dataset", type=Path, metavar="D.yaml", help="look at a data set of your own instead")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")


def run(arguments: argparse.Namespace) -> int:
    """Print all of it; 0 if nothing that was asked for is wrong."""
    from cliptrase_d2.data.benchmarks import benchmark_root
    from cliptrase_d2.data.custom import read_dataset_file
    from cliptrase_d2.data.unsupervised_benchmarks import known_benchmarks
    from cliptrase_d2.utils.errors import InputError

    known = known_benchmarks()
    unknown = [key for key in arguments.benchmarks if key not in known]
    if unknown:
        raise InputError(
            "cliptrase doctor", f"the unknown benchmark {unknown[0]!r}", "Name some of these.", allowed=", ".join(known)
        )
    if arguments.dataset:
        return _print_findings(read_dataset_file(arguments.dataset), arguments.workers)
    if not arguments.benchmarks:
        _print_all([("Installation", _installation()), ("Weights", _weights())])
    return _print_benchmarks(
        arguments.root or benchmark_root(), arguments.benchmarks, arguments.deep, arguments.workers
    )


def _print_all(sections: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> None:
    for title, rows in sections:
        print(title)
        for name, value in rows:
            print(f"  {name:<18}{value}")
        print()


def _installation() -> Iterator[tuple[str, str]]:
    import torch

    import cliptrase_d2
    from cliptrase_d2.d2 import describe

    yield "Python", f"{platform.python_version()} ({platform.platform(terse=True)})"
    yield "cliptrase_d2", f"{cliptrase_d2.__version__}, {Path(cliptrase_d2.__file__).parent}"
    yield "Detectron2", describe()
    yield "torch", torch.__version__
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        yield "device", f"CPU, {os.cpu_count()} cores (no CUDA device was found)"
    for package in ("open_clip_torch", "hdbscan", "numpy", "opencv-python"):
        yield package, _version(package)
    for package, user in _OPTIONAL.items():
        is_there = find_spec(package) is not None
        remedy = f"not installed; {user} needs it: pip install 'cliptrase_d2[prepare]'"
        yield package, _version(package) if is_there else remedy


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _weights() -> Iterator[tuple[str, str]]:
    from cliptrase_d2.clip import embedded
    from cliptrase_d2.config import load_config
    from cliptrase_d2.segmenter.pretrained import cached_weights, download_size

    yield embedded.NAME, f"part of this package ({embedded.WEIGHTS.stat().st_size / 1e6:.1f} MB)"
    path, size = cached_weights(*_CACHED_MODEL), download_size(_CACHED_MODEL[0])
    remedy = "or set MODEL.CLIP.PRETRAINED to a file"
    missing = f"not here; open_clip downloads it at its first use (some {size:.0f} MB), {remedy}"
    yield " ".join(_CACHED_MODEL), str(path) if path else missing
    folder = Path(load_config().MODEL.CLIP.TEXT_CACHE).expanduser()
    files = list(folder.glob("*.safetensors")) if folder.is_dir() else []
    total = sum(file.stat().st_size for file in files) / 1e6
    yield "text features", f"{len(files)} vocabularies, {total:.1f} MB, {folder}"


def _print_benchmarks(root: Path, keys: list[str], deep: bool, workers: int) -> int:
    from cliptrase_d2.data.inspection import benchmark_state
    from cliptrase_d2.data.unsupervised_benchmarks import known_benchmarks

    known = known_benchmarks()
    print(f"Benchmarks in {root.resolve()} (DETECTRON2_DATASETS chooses another folder)")
    failed = 0
    remedies: dict[str, list[str]] = {}
    for key in keys or known:
        benchmark = known[key]
        state = benchmark_state(benchmark, root)
        counted = f"{state.found:,} of {state.expected:,}"
        word = "ready" if state.is_complete else "incomplete" if state.found else "missing"
        print(f"  {key:<21}{word:<11}{counted:<16}{benchmark.name:<42}{state.problem}".rstrip())
        if not state.is_complete:
            remedies.setdefault(state.remedy, []).append(key)
            failed += key in keys
        if deep and state.found:
            failed += _print_findings(benchmark.spec(root), workers, indent="    ")
    if remedies:
        print("\nWhat is not complete, once its archives are there (datasets/README.md says where to get them):")
        longest = max(map(len, remedies))
        for remedy, helped in remedies.items():
            print(f"  {remedy:<{longest}}  {', '.join(helped)}")
    return min(failed, 1)


def _print_findings(spec: DatasetSpec, workers: int, indent: str = "") -> int:
    from cliptrase_d2.data.inspection import inspect

    findings = inspect(spec, workers)
    for problem in findings.problems[:_SHOWN]:
        print(f"{indent}{problem}")
    if len(findings.problems) > _SHOWN:
        print(f"{indent}and {len(findings.problems) - _SHOWN:,} more")
    classes = spec.vocabulary.classes
    absent = [name for name, pixels in zip(classes, findings.pixels, strict=True) if not pixels]
    verdict = f"{len(findings.problems):,} problems" if findings.problems else "no problem"
    print(f"{indent}{spec.name}: every file of {findings.pairs:,} images was opened, {verdict}")
    if spec.labels is not None:
        some = ", ".join(absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
        print(
            f"{indent}{len(classes) - len(absent)} of {len(classes)} classes occur" + (f"; not: {some}" * bool(absent))
        )
    return int(bool(findings.problems))
