"""File formats of exported towers: ONNX and PyTorch's exported programs."""

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

METADATA = "metadata.json"  # in a .pt2; ONNX has fields of its own
Runner = Callable[[Tensor, Tensor], TowerOutput]


class Format(NamedTuple):
    """A file format.

    Attributes:
        title: its usual name.
        packages: required packages besides PyTorch.
        write: writes a traced tower and its metadata to a path.
        load: returns a function that runs the file.
    """

    title: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Path, Mapping[str, str]], None]
    load: Callable[[Path], Runner]


def get_format(path: Path) -> Format:
    """Return the format of a file name's suffix.

    Raises:
        InputError: unknown suffix, or a required package is missing.
    """
    if path.suffix not in FORMATS:
        allowed = " or ".join(f"{suffix} ({kind.title})" for suffix, kind in FORMATS.items())
        raise InputError(path, f"unknown suffix {path.suffix!r}", "Rename the file.", allowed)
    missing = [package for package in FORMATS[path.suffix].packages if find_spec(package) is None]
    if missing:
        fix = "Install them: pip install 'cliptrase_d2[export]'."
        raise InputError(path, f"{path.suffix} requires the packages {', '.join(missing)}", fix)
    return FORMATS[path.suffix]


def _write_onnx(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    inputs, outputs = list(INPUTS), list(TowerOutput._fields)
    onnx = torch.onnx.export(program, input_names=inputs, output_names=outputs, dynamo=True, verbose=False)
    assert onnx is not None  # as for every exported program
    onnx.model.metadata_props.update(metadata)
    onnx.save(path)  # stores weights above 1.5 GB in a second file


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
    # It may unpickle data: safe for the file that was just written, unsafe for any other.
    module: Any = torch.export.load(path).module()
    return lambda images, words: TowerOutput(**module(images, words))


FORMATS = {
    ".onnx": Format("ONNX", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
    ".pt2": Format("torch.export", (), _write_pt2, _load_pt2),
}
