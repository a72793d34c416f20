"""Write the image tower to a file, and run the file to check its numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from cliptrase_d2 import __version__
from cliptrase_d2.clip.open_clip_modules import pixel_statistics
from cliptrase_d2.export.formats import Runner, get_format
from cliptrase_d2.export.tower import ExportableTower, TowerOutput
from cliptrase_d2.utils.errors import InputError

_TRACED = (2, 5)  # images and words of the trace; the exporter takes 1 for a fixed size
_CHECKED = ((1, 3), (3, 1))  # images and words of the checks

Differences = dict[str, float]


@dataclass(frozen=True)
class Report:
    """An exported file and its differences from PyTorch.

    Attributes:
        files: the file, and a second one if the weights are stored apart.
        differences: by the shape [B,3,H,W] of the images, the largest difference of every output, relative to its
            largest value.
        metadata: stored in the file.
    """

    files: tuple[Path, ...]
    differences: dict[tuple[int, ...], Differences]
    metadata: dict[str, str]


def export_tower(
    model: Any,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int],
    any_size: bool = False,
    dtype: torch.dtype = torch.uint8,
    tolerance: float = 1e-3,
    notes: Mapping[str, str] | None = None,
) -> Report:
    """Write a model's image tower, with its correlation and logits, to a file, and check the file.

    The file takes ``images`` [B,3,H,W], RGB in 0 to 255, and ``words`` [R,D], text features, for any B and R. It
    returns the fields of `TowerOutput`, float32. It is run on random pixels in two batch sizes other than that of the
    trace; if it takes any size, also at the trained size and at one that is not square.

    Args:
        model: CLIPtrase, on any device. The weights in the file are on the CPU; runtimes move them.
        path: ends with .onnx or .pt2.
        size: (H, W) in pixels, multiples of the patch size.
        any_size: whether the file takes other sizes too.
        dtype: of the images, ``torch.uint8`` or ``torch.float32``.
        tolerance: largest allowed difference from PyTorch, relative to the largest value of an output.
        notes: further metadata, such as the names of model and weights.
    Raises:
        InputError: the suffix, size or model cannot be exported, a package is missing, the file cannot be written, or
            numbers differ. An existing file then stays unchanged.
    """
    path = Path(path)
    kind = get_format(path)
    tower = _build_tower(model, size, any_size)
    metadata = {**_make_metadata(tower, size), **(notes or {})}
    program = _trace(tower, size, dtype)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            written = Path(folder, path.name)
            kind.write(program, written, metadata)
            differences = _compare(tower, kind.load(written), _get_sizes(tower, size), dtype)
            _check_differences(differences, tolerance, path)
            # Move a file of weights first, so that the file that refers to it is never without it.
            made = sorted(Path(folder).iterdir(), key=lambda file: file == written)
            files = [file.replace(path.with_name(file.name)) for file in made]
    except OSError as error:
        raise InputError(path, f"it cannot be written ({error})", "Choose another place.") from error
    return Report(tuple(reversed(files)), differences, metadata)


def _build_tower(model: Any, size: tuple[int, int], any_size: bool) -> ExportableTower:
    side = model.patch_multiple
    if any(pixels < 1 or pixels % side for pixels in size):
        raise InputError("size", f"{size[0]}x{size[1]} pixels", f"Use multiples of {side}, the patch size.")
    return ExportableTower(model, None if any_size else (size[0] // side, size[1] // side))


def _trace(tower: ExportableTower, size: tuple[int, int], dtype: torch.dtype) -> ExportedProgram:
    images: dict[int, object] = {0: Dim("batch", min=1)}
    if tower.position is None:
        images |= {2: tower.patch_size * Dim("rows", min=1), 3: tower.patch_size * Dim("columns", min=1)}
    shapes = {"images": images, "words": {0: Dim("words", min=1)}}
    inputs = tower.random_inputs(*_TRACED, size, dtype)
    with torch.no_grad():
        return torch.export.export(tower, inputs, dynamic_shapes=shapes)


def _get_sizes(tower: ExportableTower, size: tuple[int, int]) -> Sequence[tuple[int, int]]:
    """Return the sizes (H, W) at which to run a file."""
    if tower.position is not None:
        return [size]
    side, (rows, columns) = tower.patch_size, tower.trained_grid
    return list(dict.fromkeys([size, (rows * side, columns * side), (size[0], size[1] + side)]))


def _compare(
    tower: ExportableTower, run: Runner, sizes: Sequence[tuple[int, int]], dtype: torch.dtype
) -> dict[tuple[int, ...], Differences]:
    differences = {}
    for size in sizes:
        for counts in _CHECKED:
            images, words = tower.random_inputs(*counts, size, dtype)
            with torch.no_grad():
                expected = tower.encode(images, words)
            pairs = zip(TowerOutput._fields, run(images, words), expected, strict=True)
            relative = {name: float((mine - other).abs().max() / other.abs().max()) for name, mine, other in pairs}
            differences[tuple(images.shape)] = relative
    return differences


def _check_differences(differences: Mapping[tuple[int, ...], Differences], tolerance: float, path: Path) -> None:
    for shape, outputs in differences.items():
        for name, difference in outputs.items():
            if not difference <= tolerance:  # also true for NaN
                got = f"{name} of images {list(shape)} differ from PyTorch by {difference:.2g}, more than {tolerance:g}"
                fix = "Raise --tolerance if this is accurate enough, or try another version of the exporter."
                raise InputError(path, got, fix)


def _make_metadata(tower: ExportableTower, size: tuple[int, int]) -> dict[str, str]:
    """Return all that a user of the file must know, as text."""
    mean, std = pixel_statistics(tower.tower.visual)
    settings, side = tower.settings, tower.patch_size
    return {
        "description": "CLIPtrase: images and text features to patches, class token, correlation and logits",
        "images": "RGB, 0 to 255; the file subtracts the mean and divides by the standard deviation",
        "image_size": f"any, in multiples of {side}" if tower.position is None else f"{size[0]}x{size[1]}",
        "patch_size": str(side),
        "pixel_mean": " ".join(f"{value:.8g}" for value in mean),
        "pixel_std": " ".join(f"{value:.8g}" for value in std),
        "method": settings.method,
        "correlation_layer": str(settings.correlation_layer % tower.tower.depth),
        "correlation": f"{settings.correlation}, heads {settings.heads}",
        "suppress_global_patches": str(settings.suppress_global_patches),
        "position_embedding_resize": tower.tower.position_resize,
        "logit_scale": f"{tower.scale:.8g}",
        "cliptrase_d2": __version__,
        "torch": torch.__version__,
        "open_clip_torch": version("open_clip_torch"),
    }
