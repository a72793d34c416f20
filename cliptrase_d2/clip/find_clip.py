"""The part of a checkpoint that is a CLIP."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cliptrase_d2.clip.foreign_models import check_adapter, check_family
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.weights_files import check_weights

_KEYS = ("state_dict", "model", "model_state_dict")  # of training checkpoints, beside the optimizer and the epoch
_DEPTH = 2
# Modules around a model or one of its parts, which change no number.
_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_OUTER = ("module.", "model.", "clip_model.", "base_model.model.")
_IMAGE = ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight")
_SIGLIP_IMAGE = ("visual.trunk.patch_embed.proj.weight",)
_TEXT = ("text.token_embedding.weight", "token_embedding.weight", "text_model.embeddings.token_embedding.weight")


@dataclass(frozen=True)
class Part:
    """A part of a checkpoint.

    Attributes:
        tensors: by their names in the part.
        ignored: names of entries beside the tensors that are not tensors.
        key: of the checkpoint, "" for its top level.
        prefix: of the names in the file.
        others: names of other tensors under the same key.
    """

    tensors: dict[str, Tensor]
    ignored: tuple[str, ...]
    key: str = ""
    prefix: str = ""
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.key, f"{self.prefix}*" if self.prefix else "")))


def find_clip(path: Path, content: object, *, is_siglip: bool = False) -> Part:
    """Find the CLIP in a checkpoint, under any key and behind any prefix.

    Args:
        path: of the checkpoint.
        content: of the checkpoint.
        is_siglip: whether to look for a SigLIP 2 of open_clip instead.
    Returns:
        The CLIP; if nothing is recognised as one, all tensors under the most likely key.
    Raises:
        InputError: two CLIPs, half a CLIP, a known model of another kind, or an adapter that is not merged.
    """
    tables = {key: _unwrap(path, table) for key, table in _list_tables(content)}
    image = _SIGLIP_IMAGE if is_siglip else _IMAGE
    parts = [part for key, table in tables.items() for part in _find_parts(key, table, image)]
    for table in tables.values():
        check_adapter(path, _texts(table))
    if is_siglip and not parts:
        got = f"weights of another model, without the SigLIP 2 tower {_SIGLIP_IMAGE[0].removesuffix('.weight')}"
        raise InputError(path, got, "Name the model that the file belongs to, or pass open_clip's weights.")
    if not parts:
        return _find_remainder(path, tables)
    for part in parts if len(parts) > 1 else ():
        check_weights(path, part.tensors)  # before they are compared
    for part in parts[1:]:
        if not _are_equal(parts[0], part):
            got = f"two CLIPs, {parts[0] if str(parts[0]) else 'one at the top'} and {part}"
            fix = "Save the one that you want alone, for example the student or the moving average."
            raise InputError(path, got, fix)
    if not is_siglip:
        check_family(path, _texts(parts[0].tensors))
    return parts[0]


def _list_tables(content: object, key: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Mapping[Any, object]]]:
    """Yield the tables with tensors, and their keys. Usual keys come first."""
    if not isinstance(content, Mapping):
        return
    nested = [name for name, value in content.items() if isinstance(name, str) and isinstance(value, Mapping)]
    for name in sorted(nested, key=lambda name: (name not in _KEYS, _KEYS.index(name) if name in _KEYS else 0)):
        if depth:
            yield from _list_tables(content[name], f"{key}.{name}" if key else name, depth - 1)
    if any(isinstance(value, Tensor) for value in content.values()):
        yield key, content


def _unwrap(path: Path, table: Mapping[Any, object]) -> dict[Any, object]:
    """Remove the names of wrappers, anywhere in the names of tensors."""
    names = {name: _WRAPPERS.sub("", name) if isinstance(name, str) else name for name in table}
    if len(set(names.values())) < len(names):
        raise InputError(path, "weights with and without _orig_mod. in their names", "Save the model's state_dict().")
    return {names[name]: value for name, value in table.items()}


def _find_parts(key: str, table: Mapping[Any, object], image: tuple[str, ...]) -> Iterator[Part]:
    names = {name for name, value in table.items() if isinstance(name, str) and isinstance(value, Tensor)}
    text = _find_prefixes(names, _TEXT)
    for prefix in sorted(_find_prefixes(names, image) & text):
        yield _take(key, table, prefix)


def _find_prefixes(names: Collection[str], endings: tuple[str, ...]) -> set[str]:
    """Return everything before the endings, where a name ends or a component begins with them."""
    found = {name[: -len(ending)] for name in names for ending in endings if name.endswith(ending)}
    return {prefix for prefix in found if not prefix or prefix.endswith(".")}


def _take(key: str, table: Mapping[Any, object], prefix: str) -> Part:
    tensors = {name: value for name, value in table.items() if isinstance(value, Tensor)}
    if not prefix:  # names that are no texts stay, and are rejected with the values
        return Part(tensors, tuple(str(name) for name in table if name not in tensors), key)
    inside = {name: value for name, value in tensors.items() if str(name).startswith(prefix)}
    others = tuple(str(name) for name in tensors if name not in inside)
    return Part({name[len(prefix) :]: value for name, value in inside.items()}, (), key, prefix, others)


def _find_remainder(path: Path, tables: Mapping[str, Mapping[Any, object]]) -> Part:
    """Return all tensors of the first table, without the prefixes that all of them have."""
    if not tables:
        return Part({}, ())
    key = next((key for key in (*_KEYS, "") if key in tables), next(iter(tables)))
    part, prefix = _take(key, tables[key], ""), ""
    names = _texts(part.tensors)
    _check_half(path, names)
    while outer := next((o for o in _OUTER if names and all(name.startswith(prefix + o) for name in names)), ""):
        prefix += outer
    check_family(path, [name[len(prefix) :] for name in names])
    return _take(key, tables[key], prefix) if prefix and len(names) == len(part.tensors) else part


def _check_half(path: Path, names: Collection[str]) -> None:
    """Raise if only one of CLIP's towers is there, and no other text or image tower that is known."""
    image, text = _find_prefixes(names, _IMAGE), _find_prefixes(names, _TEXT)
    if not image and not text:
        return
    prefix = min(image or text, key=len)
    check_family(path, [name.removeprefix(prefix) for name in names])
    is_open_clip = any(name.endswith((_IMAGE[0], *_TEXT[:1])) or name == prefix + _TEXT[1] for name in names)
    missing = ("transformer.*" if is_open_clip else "text_model.*") if image else "visual.* or vision_model.*"
    here, other = ("image", "text") if image else ("text", "image")
    got = f"half a CLIP, its {here} tower; missing: {missing}, the {other} tower"
    fix = "Pass the whole model, saved by CLIPModel.save_pretrained or as the state_dict() of open_clip's model."
    raise InputError(path, got, fix)


def _are_equal(a: Part, b: Part) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(
        value.dtype == b.tensors[name].dtype and torch.equal(value, b.tensors[name])
        for name, value in a.tensors.items()
    )


def _texts(table: Mapping[Any, object]) -> list[str]:
    return [name for name in table if isinstance(name, str)]
