"""The formats of files: how a traced tower is written, and how the file is run again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from cliptrase_d2.export.tower import INPUTS, TowerOutput
from cliptrase_d2.utils.errors import InputError

METADATA = "metadata.json"  # in a .pt2; an ONNX file has a place of its own
Runner = Callable[[Tensor, Tensor], TowerOutput]


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        title: what it is called.
        packages: that it needs beside PyTorch.
        write: a traced tower and its metadata to a path.
        load: a path to what runs it.
    """

    title: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Path, Mapping[str, str]], None]
    load: Callable[[Path], Runner]


def get_format(path: Path) -> Format:
    """The format that a suffix names.

    Raises:
        InputError: another suffix, or a package that the format needs is not installed.
    """
    if path.suffix not in FORMATS:
        allowed = " or ".join(f"{suffix} ({kind.title})" for suffix, kind in FORMATS.items())
        raise InputError(
            "--output", f"the file {path.name!r}", "Rename it.", allowed=f"a file that ends with {allowed}"
        )
    missing = [package for package in FORMATS[path.suffix].packages if find_spec(package) is None]
    if missing:
        fix = "Install them: pip install 'cliptrase_d2[export]'."
        raise InputError("--output", f"{path.suffix} without the packages {', '.join(missing)}", fix, allowed="both")
    return FORMATS[path.suffix]


def _write_onnx(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    names = list(INPUTS), list(TowerOutput._fields)
    onnx = torch.onnx.export(program, input_names=names[0], output_names=names[1], dynamo=True, verbose=False)
    assert onnx is not None  # which it is only where no exported program goes in
    onnx.model.metadata_props.update(metadata)
    onnx.save(path)  # weights above 1.5 GB go to a second file beside it


def _load_onnx(path: Path) -> Runner:
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor, words: Tensor) -> TowerOutput:
        outputs = session.run(list(TowerOutput._fields), {"images": images.numpy(), "words": words.numpy()})
        return TowerOutput(*map(torch.from_numpy, outputs))

    return run


def _write_pt2(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})


def _load_pt2(path: Path) -> Runner:
    # It may read pickles: fine for a file that was written a moment ago, not for one from anywhere.
    module: Any = torch.export.load(path).module()
    return lambda images, words: TowerOutput(**module(images, words))


FORMATS = {
    ".onnx": Format("ONNX", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
    ".pt2": Format("torch.export", (), _write_pt2, _load_pt2),
}
