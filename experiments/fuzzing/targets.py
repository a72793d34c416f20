"""Fuzz targets: valid files of every kind that users provide, each with its reader."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from cliptrase_d2.class_files import read_class_file
from cliptrase_d2.clip import text_cache
from cliptrase_d2.clip.checkpoint import read_checkpoint
from cliptrase_d2.clip.model_configs import OPEN_CLIP, TRANSFORMERS
from cliptrase_d2.clip.weights_folder import INDEX
from cliptrase_d2.clip.weights_source import find_weights
from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import CfgNode, merge_config_options, safe_checkpoint
from cliptrase_d2.data.custom import read_dataset_file
from cliptrase_d2.data.images import read_image, read_picture
from cliptrase_d2.data.label_colors import map_colors
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.data.labels import COLORS, LabelRule
from cliptrase_d2.data.panoptic import add_segments, map_categories
from cliptrase_d2.data.prepare.archives import unpack
from cliptrase_d2.data.proposal import propose, render
from cliptrase_d2.data.rasters import read_raster_label
from cliptrase_d2.data.rendering import Rendering
from cliptrase_d2.methods import get_method
from cliptrase_d2.pipeline.expert_templates import read_expert_templates
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.plain_yaml import load_plain_yaml
from cliptrase_d2.vocabulary import Vocabulary
from experiments.fuzzing import other_labels
from experiments.fuzzing.mutate import Mutator, mutate_bytes, mutate_json, mutate_png, mutate_text, mutate_zip

_MAX_PIXELS = 2**20
_RULE = LabelRule(6)
_PIXELS = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
_LABELS = np.random.default_rng(1).integers(0, 6, (12, 17), dtype=np.uint8)
_WEIGHTS = {"visual.proj": torch.ones(2, 3), "ln_final.weight": torch.arange(4.0), "logit_scale": torch.tensor(4.6)}
_OPEN_CLIP_WEIGHTS = {
    **_WEIGHTS,
    "visual.conv1.weight": torch.ones(2, 3, 4, 4),
    "token_embedding.weight": torch.ones(5, 2),
}
_LAYER = "vision_model.encoder.layers.0.self_attn"
_TRANSFORMERS_WEIGHTS = {
    "vision_model.embeddings.patch_embedding.weight": torch.ones(2, 3, 4, 4),
    "text_model.embeddings.token_embedding.weight": torch.ones(5, 2),
    "visual_projection.weight": torch.ones(3, 2),
    **{f"{_LAYER}.{name}_proj.weight": torch.ones(2, 2) for name in "qkv"},
}
_SIGLIP_WEIGHTS = {
    "visual.trunk.patch_embed.proj.weight": torch.linspace(-1, 1, 12).view(1, 3, 2, 2),
    "text.token_embedding.weight": torch.linspace(-1, 1, 6).view(3, 2),
    "logit_bias": torch.tensor(-10.0),
}
_TRAINING = {
    "epoch": 3, "state_dict": {f"module.{name}": value for name, value in _OPEN_CLIP_WEIGHTS.items()},
    "optimizer": {"param_groups": [{"lr": np.float64(1e-3)}], "state": {0: {"step": np.arange(2)}}},
}  # fmt: skip
_LIGHTNING = {
    "state_dict": {
        **{f"model.{name}": value for name, value in _OPEN_CLIP_WEIGHTS.items()},
        "loss.weight": torch.ones(2),
    },
    "hyper_parameters": {"path": Path("data")},
}
_KEY = text_cache.cache_key("fuzz")


class WrongResultError(Exception):
    """A reader returned an impossible result."""


@dataclass(frozen=True)
class Target:
    """A kind of file and its reader.

    Attributes:
        name: of the kind.
        suffix: of its files.
        corpus: valid files.
        read: reads a file. It rejects a file with an ``InputError`` or by returning None.
        mutators: applied to the valid files.
        has_checksums: whether ``read`` must detect all changed values, except with corrected checksums.
        file: fixed name of the file, if its reader requires one.
    """

    name: str
    suffix: str
    corpus: Sequence[bytes]
    read: Callable[[Path], Any]
    mutators: Sequence[Mutator] = (mutate_bytes,)
    has_checksums: bool = False
    file: str = ""


def build_targets(folder: Path) -> list[Target]:
    """Build all targets.

    Args:
        folder: empty; receives the files that the targets refer to.
    """
    for name in ("images", "labels"):
        (folder / name).mkdir()
        for stem in "ab":
            (folder / name / f"{stem}.png").write_bytes(_encode(Image.fromarray(_LABELS), "PNG"))
    (folder / "words.txt").write_text("sky\ntree\n")
    (folder / "list.txt").write_text("a\nb\n")
    (folder / "base.yaml").write_text("SEED: 3\n")
    (folder / "weights.bin").touch()
    (folder / "pytorch_model.bin").touch()
    (folder / "part.safetensors").write_bytes(to_safetensors(_TRANSFORMERS_WEIGHTS))
    text_cache.add_features(folder, _KEY, dict(zip("abc", torch.linspace(-1, 1, 12).view(3, 4), strict=True)))
    cache = text_cache.cache_file(folder, _KEY)
    text, png, packed = (mutate_text,), (mutate_bytes, mutate_png), (mutate_bytes, mutate_zip)
    state, archive = _save(_WEIGHTS), _build_torchscript(folder)
    nested = _save({"epoch": 3, "state_dict": _WEIGHTS, "model": _WEIGHTS})
    return [
        Target("image", ".png", _build_images(), _read_image, png),
        Target("raster", ".tif", _build_rasters(folder), _read_raster),
        Target("raster label", ".tif", _build_label_rasters(folder), _read_raster_label),
        Target("label PNG", ".png", _build_label_pngs(), _read_label, png, has_checksums=True),
        Target("label TIFF", ".tif", _build_label_tiffs(), _read_label),
        Target("label BMP", ".bmp", _build_label_bmps(), _read_label),
        Target("label NumPy", ".npy", _build_label_arrays(), _read_label),
        Target("label colours", ".png", _build_colored_labels(), _read_colored_label, png, has_checksums=True),
        Target("data set", ".yaml", _DATA_SETS, _read_data_set, text),
        Target("data set in JSON", ".json", _JSON_DATA_SETS, _read_data_set, text),
        Target("colours of classes", ".txt", _COLOR_TABLES, _read_colors, text),
        Target("panoptic JSON", ".json", [_PANOPTIC_JSON], _read_panoptic, text),
        Target("config", ".yaml", _CONFIGS, _read_config, text),
        Target("options", ".txt", _OPTIONS, _read_options, text),
        Target("templates of classes", ".yaml", _EXPERT_TEMPLATES, _read_expert_templates, text),
        Target("class list", ".txt", _CLASS_LISTS, _read_classes, text),
        Target("weights .pt", ".pt", [state, nested], _read_weights, packed, has_checksums=True),
        Target("weights .pt, old", ".pt", [_save(_WEIGHTS, zipped=False)], _read_weights),
        Target("weights .safetensors", ".safetensors", [to_safetensors(_WEIGHTS)], _read_weights),
        Target("checkpoint of a training", ".ckpt", [_save(_TRAINING), _save(_LIGHTNING)], _read_clip_weights, packed),
        Target("weights of transformers", ".safetensors", [to_safetensors(_TRANSFORMERS_WEIGHTS)], _read_clip_weights),
        Target("weights of SigLIP 2", ".safetensors", [to_safetensors(_SIGLIP_WEIGHTS)], _read_siglip_weights),
        Target("index of parts", ".json", [_INDEX], _read_clip_weights, text, file=f"model.safetensors{INDEX}"),
        Target("TorchScript archive", ".pt", [archive], _read_clip_weights, packed, has_checksums=True),
        Target("configuration of weights", ".json", [_HUB_JSON], _read_hub_config, text, file=OPEN_CLIP),
        Target(
            "configuration of transformers",
            ".json",
            [_TRANSFORMERS_JSON],
            _read_transformers_config,
            text,
            file=TRANSFORMERS,
        ),
        Target("text cache", "", [cache.read_bytes()], _read_cache, has_checksums=True, file=cache.name),
        Target("archive .zip", ".zip", [_build_zip()], _unpack, packed),
        Target("archive .tar.gz", ".gz", [_build_tar()], _unpack),
        Target("proposal from labels", ".png", [*_build_label_pngs(), *_build_images()], _propose, png),
        Target("proposal from TIFF labels", ".tif", _build_label_tiffs(), _propose),
        Target("proposal from NumPy labels", ".npy", [_build_numpy_label()], _propose),
        Target("proposal from class lists", ".txt", [*_CLASS_LISTS, *_CLASS_TABLES], _propose, text),
        Target("proposal from JSON", ".json", _JSON_FILES, _propose, text),
        *(
            Target(*entry, other_labels.convert, (*text, mutate_json) if entry[1] == ".json" else text)
            for entry in other_labels.build_corpora(folder)
        ),
    ]


_DATA_SETS = [
    b"name: my_set\nimages: images\nlabels: labels\nclasses: [sky, 'tree;bush', road]\nignore_label: 255\n"
    b"label_map: {0: 255, 1: 0, 2: 1}\nbackground: [wall]\ngroups: {stuff: [sky, road]}\n"
    b"bands: [3, 2, 1]\nstretch: [2%, 3000]\n",
    b"name: other\nimages: images/*\nclasses: words.txt\nimage_list: list.txt\nimage_suffix: ''\nlabel_suffix: ''\n",
]
_JSON_DATA_SETS = [
    b'{"name": "my_set", "images": "images", "labels": "labels", "classes": ["sky", "tree"], "label_map": {"0": 1}}',
    b'{"name": "my_set",\t"images": "images", "labels": "labels", "classes": ["sky"], "label_colors": {"#010203": 0}}',
]
_COLOR_TABLES = [
    b"# label:color_rgb:parts:actions\nbackground:0,0,0::\nsky:51,221,255::\ntree:1,2,3::\n",
    b"name,r,g,b\nsky,51,221,255\ntree,1,2,3\n",
    b"51 221 255\tsky\n1 2 3\ttree\n",
    b'{"sky": [51, 221, 255], "tree": "#010203"}',
    b'{"classes": [{"title": "sky", "color": "#33ddff"}, {"title": "tree", "color": "#010203"}]}',
]
_COLORS = {(51, 221, 255): 0, (1, 2, 3): 1, (0, 0, 0): 255}
_VOCABULARY = Vocabulary.parse(["sky", "tree"])
_PANOPTIC_JSON = (
    b'{"categories": [{"id": 1, "name": "sky"}, {"id": 7, "name": "tree"}], "annotations": [{"file_name": "a.png", '
    b'"segments_info": [{"id": 300, "category_id": 7}, {"id": 5, "category_id": 1}]}]}'
)
_CONFIGS = [
    b"_BASE_: base.yaml\nMODEL:\n  CLIP: {NAME: ViT-L-14, PRETRAINED: ''}\n  CLIPTRASE:\n    EPS: 0.5\n"
    b"    MIN_SAMPLES: 4\n    METHOD: naclip\n    METHOD_OPTIONS: {deviation: 3, attention: kk, blocks: 2}\n"
    b"TEST:\n  METHODS: ['clip']\n  EXPECTED_RESULTS: [['sem_seg', 'mIoU', 25.0, 1.0]]\nSOLVER: {STEPS: [1, 2]}\n",
]
_OPTIONS = [
    b"SEED\n3\nMODEL.CLIPTRASE.EPS\n0.5\nDATASETS.TEST\n('a', 'b')\nMODEL.CLIP.NAME\nViT-L-14\nTEST.METHODS\n['clip']",
    b"MODEL.CLIPTRASE.METHOD\nsfp\nMODEL.CLIPTRASE.METHOD_OPTIONS.threshold\n0.3\n"
    b"MODEL.CLIPTRASE.METHOD_OPTIONS.outliers\nlength",
]
_EXPERT_TEMPLATES = [
    b"# keep: 4\nsky:\n- a photo of a {}.\n- the {}.\n'yes': []\nbuilding, edifice: ['graffiti of the {}.']\n",
    b"{sky: ['a {}'], tree: []}",
]
_CLASS_LISTS = ["sky\ntree;bush\nsoccer ball\nStraße\n".encode(), b"\xef\xbb\xbfa\nb\n"]
_INDEX = json.dumps({"weight_map": dict.fromkeys(_TRANSFORMERS_WEIGHTS, "part.safetensors")}).encode()
_TRANSFORMERS_JSON = json.dumps(
    {"model_type": "clip", "projection_dim": 512, "vision_config": {"patch_size": 16}}
).encode()
_CLASS_TABLES = [
    b"# label:color_rgb:parts:actions\nbackground:0,0,0::\nwater:51,221,255::\n",
    b"name,r,g,b\nsky,64,128,64\nroad,192,0,128\n",
    b"Idx\tRatio\tName\n1\t0.1\twall\n2\t0.1\tbuilding, edifice\n",
    b"case\n",
]
_JSON_FILES = [
    b'{"0": "sky", "1": "tree"}',
    b'{"id2label": {"0": "sky", "1": "tree"}}',
    b'{"cat": [1, 1, 1], "dog": [2, 2, 2]}',
    b'{"shapes": [{"label": "sky", "points": [[0, 0], [1, 0], [1, 1]]}]}',
    b'{"images": [], "annotations": [{"image_id": 1, "segments_info": []}], "categories": [{"id": 1, "name": "sky"}]}',
]
_HUB_JSON = b'{"model_cfg": {"quick_gelu": true}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}}'


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _build_images() -> list[bytes]:
    colour, grey = Image.fromarray(_PIXELS), Image.fromarray(_PIXELS[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90°
    palette = colour.convert("P", palette=Image.Palette.ADAPTIVE)
    return [
        *(_encode(image, "PNG", exif=exif) for image in (colour, grey, palette, colour.convert("RGBA"))),
        _encode(palette, "PNG", transparency=b"\0\xff"),
        _encode(Image.fromarray(_PIXELS[..., 0].astype(np.uint16) * 257), "PNG"),
        *(_encode(colour, "JPEG", exif=exif, progressive=progressive) for progressive in (False, True)),
        _encode(colour.convert("CMYK"), "JPEG"),
        *(_encode(colour, "WEBP", lossless=lossless, exif=exif) for lossless in (False, True)),
        *(_encode(colour, "TIFF", compression=name) for name in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate")),
        *(_encode(colour, kind) for kind in ("BMP", "GIF", "PPM")),
    ]


def _build_rasters(folder: Path) -> list[bytes]:
    kinds = (np.uint8, np.uint16, np.int16, np.float32)
    forms: tuple[dict[str, Any], ...] = (
        {},
        {"compress": "lzw", "interleave": "band"},
        {"compress": "deflate", "nodata": 3},
    )
    return [_build_raster(folder, _PIXELS.transpose(2, 0, 1).astype(kind), **form) for kind in kinds for form in forms]


def _build_label_rasters(folder: Path) -> list[bytes]:
    return [_build_raster(folder, _LABELS[None].astype(kind), nodata=5) for kind in (np.uint8, np.int64, np.float32)]


def _build_raster(folder: Path, bands: np.ndarray, **options: Any) -> bytes:
    import rasterio  # an extra

    shape = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    with rasterio.open(folder / "raster.tif", "w", driver="GTiff", **shape, **options) as dataset:
        dataset.write(bands)
    return (folder / "raster.tif").read_bytes()


def _build_label_pngs() -> list[bytes]:
    grey = Image.fromarray(_LABELS)
    palette = Image.fromarray(_LABELS, mode="L").convert("P")
    return [_encode(image, "PNG") for image in (grey, palette, Image.fromarray(_LABELS.astype(np.uint16)))]


def _build_label_tiffs() -> list[bytes]:
    images = [Image.fromarray(_LABELS.astype(kind)) for kind in (np.uint8, np.uint16, np.int32)]
    compressions = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")
    return [_encode(image, "TIFF", compression=name) for image in images for name in compressions]


def _build_label_bmps() -> list[bytes]:
    grey = Image.fromarray(_LABELS)
    palette = Image.fromarray(_LABELS, mode="L").convert("P")
    return [_encode(image, "BMP") for image in (grey, palette, grey.convert("RGB"), grey.convert("RGBA"))]


def _build_label_arrays() -> list[bytes]:
    streams = [io.BytesIO() for _ in range(4)]
    for stream, kind in zip(streams, (np.uint8, np.int64, np.float32, bool), strict=True):
        np.save(stream, (_LABELS % 2 if kind is bool else _LABELS).astype(kind))
    return [stream.getvalue() for stream in streams]


def _build_colored_labels() -> list[bytes]:
    pixels = np.array(list(_COLORS), dtype=np.uint8)[_LABELS % 3]
    colour = Image.fromarray(pixels)
    palette = colour.convert("P", palette=Image.Palette.ADAPTIVE)
    return [_encode(image, "PNG") for image in (colour, colour.convert("RGBA"), palette)]


def _read_image(path: Path) -> np.ndarray:
    return _check_picture(read_image(path, _MAX_PIXELS))


def _check_picture(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not 0 < pixels.size <= 3 * _MAX_PIXELS:
        raise WrongResultError(f"{pixels.dtype} {pixels.shape}")
    return pixels


def _read_raster(path: Path) -> np.ndarray:
    picture = read_picture(path, _MAX_PIXELS, rendering=Rendering((1,), ("2%", 255)))
    if picture.valid is not None and picture.pixels[~picture.valid].any():
        raise WrongResultError("nodata is not black")
    return _check_picture(picture.pixels)


def _read_raster_label(path: Path) -> np.ndarray:
    labels, valid, _ = read_raster_label(path, _MAX_PIXELS)
    if labels.dtype != np.int64 or labels.shape != valid.shape:
        raise WrongResultError(f"{labels.dtype} {labels.shape} {valid.shape}")
    return labels


def _read_label(path: Path) -> np.ndarray:
    labels = _RULE.apply(read_label(path, _MAX_PIXELS, _RULE), path)
    if labels.dtype != np.int64 or labels.ndim != 2 or not np.isin(labels, [*range(6), 255]).all():
        raise WrongResultError(f"{labels.dtype} {labels.shape} {np.unique(labels)}")
    return labels


def _read_colored_label(path: Path) -> np.ndarray:
    rule = LabelRule(2, 255, map_colors(_COLORS, _VOCABULARY, 255, "colours"), coding=COLORS)
    labels = rule.apply(read_label(path, _MAX_PIXELS, rule), path)
    if labels.ndim != 2 or not np.isin(labels, [0, 1, 255]).all():
        raise WrongResultError(f"{labels.shape} {np.unique(labels)}")
    return labels


def _read_colors(path: Path) -> dict[int, int]:
    mapped = map_colors(path, _VOCABULARY, 255, "colours")
    if not {0, 1} <= set(mapped.values()) <= {0, 1, 255} or not all(0 <= color < 2**24 for color in mapped):
        raise WrongResultError(str(mapped))
    return mapped


def _read_panoptic(path: Path) -> list[dict[str, Any]]:
    if not set(map_categories(path, _VOCABULARY).values()) <= {0, 1}:
        raise WrongResultError(path.read_text())
    return add_segments([{"sem_seg_file_name": "a.png"}], path)


def _read_data_set(path: Path) -> object:
    spec = read_dataset_file(path)
    for record in spec.find_files().records:
        if any(not Path(file).is_file() for file in record.values()):
            raise WrongResultError(str(record))
    return spec


def _propose(path: Path) -> object:
    """Propose a data-set file for a picture with a label file, or with a file of class names."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("images/case.jpg", "labels/case.png"):
            (root / name).parent.mkdir()
            (root / name).write_bytes(_encode(Image.fromarray(_LABELS), "PNG"))
        is_label = path.suffix in (".png", ".tif", ".npy")
        if is_label:
            (root / "labels/case.png").unlink()
        (root / (f"labels/case{path.suffix}" if is_label else f"classes{path.suffix}")).write_bytes(path.read_bytes())
        draft = propose(root)
        if load_plain_yaml(render(draft, root, root), path).keys() != draft.keys.keys():
            raise WrongResultError(render(draft, root, root))
        return draft


def _build_numpy_label() -> bytes:
    stream = io.BytesIO()
    np.save(stream, _LABELS)
    return stream.getvalue()


def _read_config(path: Path) -> str:
    return _use_config(load_config(path))


def _read_options(path: Path) -> str:
    cfg = load_config()
    merge_config_options(cfg, path.read_text(encoding="utf-8", errors="surrogateescape").split("\n"))
    return _use_config(cfg)


def _use_config(cfg: CfgNode) -> str:
    """Build the method of a configuration."""
    settings = CLIPtraseSettings.from_config(cfg)
    get_method(settings.method, settings.method_options)
    return cfg.dump()


def _read_expert_templates(path: Path) -> dict[str, tuple[str, ...]]:
    templates = read_expert_templates(path)
    if not all(isinstance(name, str) and name for name in templates) or not any(templates.values()):
        raise WrongResultError(str(templates))
    if not all(template.count("{}") == 1 for own in templates.values() for template in own):
        raise WrongResultError(str(templates))
    return templates


def _read_classes(path: Path) -> tuple[str, ...]:
    vocabulary = Vocabulary.parse(read_class_file(path), where=path)
    if not all(word and word == word.strip() for word in vocabulary.prompts):
        raise WrongResultError(str(vocabulary))
    return vocabulary.prompts


def _read_clip_weights(path: Path) -> dict[str, Tensor]:
    return _check_tensors(read_checkpoint(path).tensors)


def _read_siglip_weights(path: Path) -> dict[str, Tensor]:
    return _check_tensors(read_checkpoint(path, is_siglip=True).tensors)


def _read_weights(path: Path) -> dict[str, Tensor]:
    _check_tensors(safe_checkpoint.read_checkpoint(str(path))["model"])
    return _read_clip_weights(path)


def _check_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, value in tensors.items():
        if not isinstance(name, str) or value.numel() > 10**6 or not torch.isfinite(value.float()).all():
            raise WrongResultError(f"{name} {value}")
    return tensors


def _read_hub_config(path: Path) -> object:
    return find_weights("ViT-B-16", str(path.parent / "weights.bin")).facts


def _read_transformers_config(path: Path) -> object:
    return find_weights("ViT-B-16", str(path.parent / "pytorch_model.bin")).facts


def _read_cache(path: Path) -> dict[str, Tensor] | None:
    return text_cache.read_features(path.parent, _KEY) or None


def _unpack(path: Path) -> list[bytes]:
    with tempfile.TemporaryDirectory() as parent, redirect_stderr(io.StringIO()):  # hides the progress bar
        root = Path(parent) / "root"
        files = unpack(path, root, lambda name: name)
        if [other for other in Path(parent).iterdir() if other != root] or any(file.is_symlink() for file in files):
            raise WrongResultError(str(files))
        return [file.read_bytes() for file in files]


def _save(content: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _build_torchscript(folder: Path) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))), str(folder / "archive.pt"))
    return (folder / "archive.pt").read_bytes()


def _build_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("set/a.jpg", "set/deep/b.jpg"):
            archive.writestr(name, name.encode() * 20)
    return stream.getvalue()


def _build_tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=0) as archive:
        for name in ("set/a.jpg", "set/deep/b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 20
            archive.addfile(info, io.BytesIO(bytes(20)))
    return stream.getvalue()
