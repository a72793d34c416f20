"""Writing a tower to a file, and running the file to see that it gives the same numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.export import Dim, ExportedProgram

from cliptrase_d2 import __version__
from cliptrase_d2.clip.open_clip_modules import pixel_statistics
from cliptrase_d2.export.formats import Runner, get_format
from cliptrase_d2.export.tower import ExportableTower, TowerOutput
from cliptrase_d2.methods.attention import ATTENTIONS
from cliptrase_d2.segmenter.build import Segmenting
from cliptrase_d2.utils.errors import InputError

_TRACED = (2, 5)  # images and words of the trace, where 1 of either would be taken for fixed
_CHECKED = ((1, 3), (3, 1))  # of the checks

Differences = dict[str, float]


@dataclass(frozen=True)
class Report:
    """What was written, and how far it is from PyTorch.

    Attributes:
        files: the file, and that of its weights where they lie apart.
        differences: by the shape [B,3,H,W] of the images, of every output the largest difference, in parts of its
            largest value.
        metadata: what the file says of itself.
    """

    files: tuple[Path, ...]
    differences: dict[tuple[int, ...], Differences]
    metadata: dict[str, str]


def export_tower(
    model: Segmenting,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int],
    any_size: bool = False,
    dtype: torch.dtype = torch.uint8,
    tolerance: float = 1e-3,
    notes: Mapping[str, str] | None = None,
) -> Report:
    """Write a model's image tower, its correlation and its logits, to a file that was run before it takes its place.

    The file takes ``images`` [B,3,H,W], RGB in 0 to 255, and ``words`` [R,D], text features, for any B and R, and gives
    what `TowerOutput` names, float32. It is run on random pixels, in two batch sizes, neither that of the trace; if it
    takes any size, also in the one that the model was trained with and in one that is no square.

    Args:
        model: CLIPtrase, on any device; the file's weights are on the CPU, from where runtimes move them.
        path: ends with .onnx or .pt2.
        size: (H, W) in pixels, multiples of the patch size.
        any_size: take other sizes, too.
        dtype: of the images, ``torch.uint8`` or ``torch.float32``.
        tolerance: the largest difference from PyTorch that is allowed, in parts of an output's largest value.
        notes: more metadata, such as the names of model and weights.
    Raises:
        InputError: a suffix, size or model that cannot be exported, a package that is missing, a place that cannot
            be written, or numbers that differ; the place then is as it was.
    """
    path = Path(path)
    kind = get_format(path)
    tower = _tower(model, size, any_size)
    metadata = {**_metadata(tower, size, any_size), **(notes or {})}
    program = _trace(tower, size, dtype)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            written = Path(folder, path.name)
            kind.write(program, written, metadata)
            differences = _compare(tower, kind.load(written), _sizes(tower, size, any_size), dtype)
            _refuse(differences, tolerance, path)
            # A second file, of weights, goes first: the one that names it is then never without it.
            made = sorted(Path(folder).iterdir(), key=lambda file: file == written)
            files = [file.replace(path.with_name(file.name)) for file in made]
    except OSError as error:
        raise InputError(path, str(error), "Choose another place.", allowed="a file that can be written") from error
    return Report(tuple(reversed(files)), differences, metadata)


def _tower(model: Segmenting, size: tuple[int, int], any_size: bool) -> ExportableTower:
    side = model.patch_multiple
    if any(pixels < 1 or pixels % side for pixels in size):
        allowed = f"height and width in multiples of {side}, the patch size"
        raise InputError("--size", f"{size[0]}x{size[1]} pixels", "Change it.", allowed=allowed)
    return ExportableTower(model, None if any_size else (size[0] // side, size[1] // side))


def _trace(tower: ExportableTower, size: tuple[int, int], dtype: torch.dtype) -> ExportedProgram:
    images: dict[int, object] = {0: Dim("batch", min=1)}
    if tower.position is None:
        images |= {2: tower.patch_size * Dim("rows", min=1), 3: tower.patch_size * Dim("columns", min=1)}
    shapes = {"images": images, "words": {0: Dim("words", min=1)}}
    inputs = tower.random_inputs(*_TRACED, size, dtype)
    with torch.no_grad():
        return torch.export.export(tower, inputs, dynamic_shapes=shapes)


def _sizes(tower: ExportableTower, size: tuple[int, int], any_size: bool) -> Sequence[tuple[int, int]]:
    """The sizes (H, W) that a file is run at."""
    if not any_size:
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
                expected = tower.see(images, words)
            differences[tuple(images.shape)] = _differences(run(images, words), expected)
    return differences


def _differences(found: TowerOutput, expected: TowerOutput) -> Differences:
    return {
        name: float((mine - other).abs().max() / other.abs().max())
        for name, mine, other in zip(TowerOutput._fields, found, expected, strict=True)
    }


def _refuse(differences: Mapping[tuple[int, ...], Differences], tolerance: float, path: Path) -> None:
    for shape, outputs in differences.items():
        for name, difference in outputs.items():
            if not difference <= tolerance:  # which NaN is not, either
                got = f"{name} that differ from PyTorch's by {difference:.2g} of the largest, of images {list(shape)}"
                fix = "Raise --tolerance if that is good enough for you, or try another version of the exporter."
                raise InputError(path, got, fix, allowed=f"at most {tolerance:g}")


def _metadata(tower: ExportableTower, size: tuple[int, int], any_size: bool) -> dict[str, str]:
    """All that a user of the file must know, as text."""
    mean, std = pixel_statistics(tower.tower.visual)
    method, side, attention = tower.method, tower.patch_size, tower.tower.attention
    names = [name for name, known in ATTENTIONS.items() if known == attention]
    return {
        "description": "CLIPtrase: images and text features to patches, class token, correlation and logits",
        "images": "RGB, 0 to 255; mean and std are taken off in here",
        "image_size": f"any, in multiples of {side}" if any_size else f"{size[0]}x{size[1]}",
        "patch_size": str(side),
        "pixel_mean": " ".join(f"{value:.8g}" for value in mean),
        "pixel_std": " ".join(f"{value:.8g}" for value in std),
        "attention": names[0] if names else attention.source,
        "correlation_layer": str(tower.tower.correlation_layer),
        "correlation": f"{method.correlation}, heads {method.heads}",
        "suppress_global_patches": str(method.suppress_global_patches),
        "position_embedding_resize": tower.tower.position_resize,
        "logit_scale": f"{tower.scale:.8g}",
        "cliptrase_d2": __version__,
        "torch": torch.__version__,
        "open_clip_torch": version("open_clip_torch"),
    }
