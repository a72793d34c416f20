"""What is spoilt: sound files of every kind that a user hands in, each with the reader that it is for."""

from __future__ import annotations

import io
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

from cliptrase_d2.clip import text_cache
from cliptrase_d2.clip.checkpoint import read_checkpoint
from cliptrase_d2.clip.weights_source import CONFIG_BESIDE, find_source
from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import merge_config_options, safe_checkpoint
from cliptrase_d2.data.custom import read_class_file, read_dataset_file
from cliptrase_d2.data.images import read_image, read_label
from cliptrase_d2.data.labels import LabelRule
from cliptrase_d2.data.prepare.archives import unpack
from cliptrase_d2.vocabulary import Vocabulary
from experiments.fuzzing.mutate import Mutation, bytes_at_random, parts_of_a_png, parts_of_a_zip, words_at_random

_MOST_PIXELS = 2**20
_RULE = LabelRule(6)
_PIXELS = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
_LABELS = np.random.default_rng(1).integers(0, 6, (12, 17), dtype=np.uint8)
_WEIGHTS = {"visual.proj": torch.ones(2, 3), "ln_final.weight": torch.arange(4.0), "logit_scale": torch.tensor(4.6)}
_ROWS = 3
_KEY = text_cache.cache_key("fuzz")


class WrongResultError(Exception):
    """What a reader gave is nothing that it may give."""


@dataclass(frozen=True)
class Subject:
    """A kind of file.

    Attributes:
        name: of the kind.
        suffix: of its files.
        sound: files to begin with.
        read: what is done with a file; raises ``InputError``, or returns None, where it is refused.
        mutations: what is done to them before.
        checksums: whether ``read`` may only give what the sound file gives, where no checksum was made right again.
        file: the name that the file must have, in place of one of its own.
    """

    name: str
    suffix: str
    sound: Sequence[bytes]
    read: Callable[[Path], Any]
    mutations: Sequence[Mutation] = (bytes_at_random,)
    checksums: bool = False
    file: str = ""


def subjects(folder: Path) -> list[Subject]:
    """All of them.

    Args:
        folder: an empty one, for what the files need beside them.
    """
    for name in ("images", "labels"):
        (folder / name).mkdir()
        for stem in "ab":
            (folder / name / f"{stem}.png").write_bytes(_image(Image.fromarray(_LABELS), "PNG"))
    (folder / "words.txt").write_text("sky\ntree\n")
    (folder / "list.txt").write_text("a\nb\n")
    (folder / "base.yaml").write_text("SEED: 3\n")
    (folder / "weights.bin").touch()
    text, png, packed = (words_at_random,), (bytes_at_random, parts_of_a_png), (bytes_at_random, parts_of_a_zip)
    state = _saved(_WEIGHTS)
    nested = _saved({"epoch": 3, "state_dict": _WEIGHTS, "model": _WEIGHTS})
    return [
        Subject("image", ".png", _images(), _read_image, png),
        Subject("label PNG", ".png", _label_pngs(), _read_label, png, checksums=True),
        Subject("label TIFF", ".tif", _label_tiffs(), _read_label),
        Subject("data set", ".yaml", _DATA_SETS, _read_data_set, text),
        Subject("config", ".yaml", _CONFIGS, _read_config, text),
        Subject("options", ".txt", _OPTIONS, _read_options, text),
        Subject("class list", ".txt", _CLASS_LISTS, _read_classes, text),
        Subject("weights .pt", ".pt", [state, nested], _read_weights, packed, checksums=True),
        Subject("weights .pt, old", ".pt", [_saved(_WEIGHTS, zipped=False)], _read_weights),
        Subject("weights .safetensors", ".safetensors", [to_safetensors(_WEIGHTS)], _read_weights),
        Subject("TorchScript archive", ".pt", [_torchscript(folder)], _read_clip_weights, packed, checksums=True),
        Subject("configuration beside weights", ".json", [_BESIDE], _read_beside, text, file=CONFIG_BESIDE),
        Subject("text cache", "", [_cached(folder)], _read_cache, checksums=True, file=_cache_name(folder)),
        Subject("archive .zip", ".zip", [_zip()], _unpack, packed),
        Subject("archive .tar.gz", ".gz", [_tar()], _unpack),
    ]


_DATA_SETS = [
    b"name: my_set\nimages: images\nlabels: labels\nclasses: [sky, 'tree;bush', road]\nignore_label: 255\n"
    b"label_map: {0: 255, 1: 0, 2: 1}\nbackground: [wall]\ngroups: {stuff: [sky, road]}\n",
    b"name: other\nimages: images/*\nclasses: words.txt\nimage_list: list.txt\nimage_suffix: ''\nlabel_suffix: ''\n",
]
_CONFIGS = [
    b"_BASE_: base.yaml\nMODEL:\n  CLIP: {NAME: ViT-L-14, PRETRAINED: ''}\n  CLIPTRASE: {EPS: 0.5, MIN_SAMPLES: 4}\n"
    b"TEST:\n  METHODS: ['clip']\n  EXPECTED_RESULTS: [['sem_seg', 'mIoU', 25.0, 1.0]]\nSOLVER: {STEPS: [1, 2]}\n",
]
_OPTIONS = [
    b"SEED\n3\nMODEL.CLIPTRASE.EPS\n0.5\nDATASETS.TEST\n('a', 'b')\nMODEL.CLIP.NAME\nViT-L-14\nTEST.METHODS\n['clip']"
]
_CLASS_LISTS = ["sky\ntree;bush\nsoccer ball\nStraße\n".encode(), b"\xef\xbb\xbfa\nb\n"]
_BESIDE = b'{"model_cfg": {"quick_gelu": true}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}}'


def _image(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _images() -> list[bytes]:
    colour, grey = Image.fromarray(_PIXELS), Image.fromarray(_PIXELS[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    palette = colour.convert("P", palette=Image.Palette.ADAPTIVE)
    return [
        *(_image(image, "PNG", exif=exif) for image in (colour, grey, palette, colour.convert("RGBA"))),
        _image(palette, "PNG", transparency=b"\0\xff"),
        _image(Image.fromarray(_PIXELS[..., 0].astype(np.uint16) * 257), "PNG"),
        *(_image(colour, "JPEG", exif=exif, progressive=progressive) for progressive in (False, True)),
        _image(colour.convert("CMYK"), "JPEG"),
        *(_image(colour, "WEBP", lossless=lossless, exif=exif) for lossless in (False, True)),
        *(_image(colour, "TIFF", compression=name) for name in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate")),
        *(_image(colour, kind) for kind in ("BMP", "GIF", "PPM")),
    ]


def _label_pngs() -> list[bytes]:
    grey = Image.fromarray(_LABELS)
    palette = Image.fromarray(_LABELS, mode="L").convert("P")
    return [*(_image(i, "PNG") for i in (grey, palette, Image.fromarray(_LABELS.astype(np.uint16))))]


def _label_tiffs() -> list[bytes]:
    kinds = (np.uint8, np.uint16, np.int32)
    compressions = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")
    return [
        _image(Image.fromarray(_LABELS.astype(kind)), "TIFF", compression=c) for kind in kinds for c in compressions
    ]


def _read_image(path: Path) -> np.ndarray:
    pixels = read_image(path, _MOST_PIXELS)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not 0 < pixels.size <= 3 * _MOST_PIXELS:
        raise WrongResultError(f"{pixels.dtype} {pixels.shape}")
    return pixels


def _read_label(path: Path) -> np.ndarray:
    labels = _RULE.apply(read_label(path, _MOST_PIXELS), path)
    if labels.dtype != np.int64 or labels.ndim != 2 or not np.isin(labels, [*range(6), 255]).all():
        raise WrongResultError(f"{labels.dtype} {labels.shape} {np.unique(labels)}")
    return labels


def _read_data_set(path: Path) -> object:
    spec = read_dataset_file(path)
    for record in spec.find_files().records:
        if any(not Path(file).is_file() for file in record.values()):
            raise WrongResultError(str(record))
    return spec


def _read_config(path: Path) -> str:
    return load_config(path).dump()


def _read_options(path: Path) -> str:
    cfg = load_config()
    merge_config_options(cfg, path.read_text(encoding="utf-8", errors="surrogateescape").split("\n"))
    return cfg.dump()


def _read_classes(path: Path) -> tuple[str, ...]:
    vocabulary = Vocabulary.parse(read_class_file(path), where=path)
    if not all(word and word == word.strip() for word in vocabulary.prompts):
        raise WrongResultError(str(vocabulary))
    return vocabulary.prompts


def _read_clip_weights(path: Path) -> dict[str, Tensor]:
    tensors = read_checkpoint(path).tensors
    _check(tensors)
    return tensors


def _read_weights(path: Path) -> dict[str, Tensor]:
    _check(safe_checkpoint.read_checkpoint(str(path))["model"])
    return _read_clip_weights(path)


def _check(tensors: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        if not isinstance(name, str) or value.numel() > 10**6 or not torch.isfinite(value.float()).all():
            raise WrongResultError(f"{name} {value}")


def _read_beside(path: Path) -> object:
    return find_source("ViT-B-16", str(path.parent / "weights.bin")).facts


def _read_cache(path: Path) -> Tensor | None:
    return text_cache.read_features(path.parent, _KEY, _ROWS)


def _unpack(path: Path) -> list[bytes]:
    with tempfile.TemporaryDirectory() as place, redirect_stderr(io.StringIO()):  # its bar is of no use here
        root = Path(place) / "root"
        files = unpack(path, root, lambda name: name)
        if [other for other in Path(place).iterdir() if other != root] or any(file.is_symlink() for file in files):
            raise WrongResultError(str(files))
        return [file.read_bytes() for file in files]


def _saved(content: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _torchscript(folder: Path) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch is retiring it
        torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))), str(folder / "archive.pt"))
    return (folder / "archive.pt").read_bytes()


def _cache_name(folder: Path) -> str:
    return text_cache.cache_file(folder, _KEY).name


def _cached(folder: Path) -> bytes:
    text_cache.write_features(folder, _KEY, torch.linspace(-1, 1, 4 * _ROWS).view(_ROWS, 4))
    return text_cache.cache_file(folder, _KEY).read_bytes()


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("set/a.jpg", "set/deep/b.jpg"):
            archive.writestr(name, name.encode() * 20)
    return stream.getvalue()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=0) as archive:
        for name in ("set/a.jpg", "set/deep/b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 20
            archive.addfile(info, io.BytesIO(bytes(20)))
    return stream.getvalue()
