"""Merging of YAML files and KEY VALUE pairs into a config, on both backends.

Detectron2's own `merge_from_file` loads YAML tags that run code; this module never does.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fvcore.common.config import BASE_KEY, CfgNode

from cliptrase_d2.d2.published_keys import (
    BY_NAME,
    PUBLISHED_KEYS,
    SECTIONS,
    Setting,
    get_value,
    has_key,
    translate_settings,
)
from cliptrase_d2.utils.errors import InputError, suggest
from cliptrase_d2.utils.plain_yaml import load_plain_yaml
from cliptrase_d2.utils.user_files import read_text

RENAMED_KEYS = {
    "MODEL.CLIPTRASE.ATTENTION": "MODEL.CLIPTRASE.METHOD",
    "MODEL.CLIPTRASE.RESOLUTION_FREE": "MODEL.CLIPTRASE.ADAPTIVE_DBSCAN",
    "TEST.SYSTEMS": "TEST.METHODS",
    "SOLVER.CHECKPOINTS_KEPT": "SOLVER.MAX_TO_KEEP",
    "MODEL.CLIPTRASE.OUTPUT_SEM_SEG": "MODEL.CLIPTRASE.MAX_SEM_SEG",
}
# By former key; values that are not listed keep their names.
RENAMED_VALUES = {
    "MODEL.CLIPTRASE.ATTENTION": {"qk": "clip", "v": "maskclip", "qq_kk": "sclip", "qq_kk_vv": "cliptrase"},
    "MODEL.CLIPTRASE.OUTPUT_SEM_SEG": {"True": "2.0", "False": "0.0"},
}
# Keys of models that this project does not have.
_FOREIGN = ("MODEL.MASK_FORMER", "MODEL.SEM_SEG_HEAD", "MODEL.SWIN", "INPUT.IMAGE_SIZE", "INPUT.M??_SCALE")
_MAX_FILES = 100


def get_config_names() -> dict[str, Path]:
    """Return the path of each configuration of the package by its name, such as "cliptrase/vit_b16_whole"."""
    package = Path(__file__).resolve().parents[1]
    # The folder of a clone becomes a part of the package when this is built.
    folder = next(filter(Path.is_dir, (package / "configs", package.parent / "configs")), package)
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def find_config_file(name: str | os.PathLike[str], folder: str = "") -> str:
    """Return the path of a configuration: a file, or one of the package by its name.

    Args:
        name: path of a file, which takes precedence; or a name such as "cliptrase/vit_b16_whole", which may be written
            as in a clone, "configs/cliptrase/vit_b16_whole.yaml".
        folder: that the path is relative to; "" for the working directory.
    Raises:
        InputError: there is neither.
    """
    path = os.path.join(folder, name)
    if os.path.isfile(path):
        return path
    names, known = get_config_names(), os.fspath(name)
    if known.startswith("configs/"):
        known = known.removeprefix("configs/").removesuffix(".yaml")
    if known in names:
        return str(names[known])
    if os.path.exists(path) or path.endswith(".py"):  # reading it explains the fault
        return path
    fix = "Check the path, or give the name of a configuration of the package, such as cliptrase/vit_b16_whole."
    raise InputError(path, "no such file", suggest(known, names, fix))


def merge_config_file(cfg: CfgNode, path: str | os.PathLike[str]) -> None:
    """Merge a YAML file, or a configuration of the package by its name, after the files that its `_BASE_` names.

    Keys of the published SAN are read as those of this project, and the log has a line about them.

    Raises:
        InputError: a file is missing, is not plain YAML or includes itself, or `cfg` has no such key or another type.
    """
    source = find_config_file(path)
    settings = [
        Setting(f"{file}: {key}", key, value)
        for file, content in _read_with_bases(source, (), [])
        for key, value in _leaves(cfg, content, file)
    ]
    for setting in translate_settings(cfg, settings, source, is_file=True):
        _set(cfg, setting)


def merge_config_options(cfg: CfgNode, opts: Sequence[str] | None) -> None:
    """Merge KEY VALUE pairs from the command line into `cfg`. Keys of the published SAN are read as well.

    Raises:
        InputError: a key without a value, an unknown key, or a value of another type than the key's.
    """
    opts = list(opts or [])
    where = "options KEY VALUE"
    flag = next((word for word in opts if str(word).startswith("--")), None)
    if flag is not None:
        raise InputError(where, f"the flag {flag}", "Move all flags before the first KEY.")
    if len(opts) % 2:
        got = f"{len(opts)} words: {' '.join(map(str, opts))}"
        raise InputError(where, got, "Separate each key from its value by a space.", allowed="pairs of KEY and VALUE")
    keys = set(_all_keys(cfg))
    settings = [Setting(f"option {key}", key, value) for key, value in zip(opts[::2], opts[1::2], strict=True)]
    for _, key, value in settings:
        if key not in keys and key not in BY_NAME and not _takes_any_name(cfg, key):
            raise _unknown_key(cfg, key, value, where)
    for setting in translate_settings(cfg, settings, where):
        _set(cfg, setting)


def register_renamed_keys(cfg: CfgNode) -> None:
    """Make Detectron2's own merging reject former and published keys, with an error that names the keys here.

    Keys that `cfg` contains, as after the published `add_san_config`, stay as they are.
    """
    renamed = {}
    for section in SECTIONS:
        ours = [key for row in PUBLISHED_KEYS if row.name.startswith(f"{section}.") for key in row.ours]
        renamed[section] = (" and ".join(sorted({*ours})) or "no key", "")
    for row in PUBLISHED_KEYS:
        is_fixed = row.value is not None and not row.ours
        renamed[row.name] = (" and ".join(row.ours) or "no key", f"only {row.value!r}" if is_fixed else row.note)
    for name, (new, note) in renamed.items():
        if not has_key(cfg, name) and not cfg.key_is_renamed(name):
            new += f" ({note})" if note else ""
            cfg.register_renamed_key(name, new, "cliptrase_d2.d2.merge_config_file(cfg, path) reads published files.")
    for name, new in RENAMED_KEYS.items():
        if not cfg.key_is_renamed(name):
            values = ", ".join(f"{old} is now {value}" for old, value in RENAMED_VALUES.get(name, {}).items())
            cfg.register_renamed_key(name, new, values)


def _set(cfg: CfgNode, setting: Setting) -> None:
    tree = setting.value
    for part in reversed(setting.key.split(".")):
        tree = {part: tree}
    is_option = _takes_any_name(cfg, setting.key)
    if is_option:  # a value of any type replaces the earlier one
        section, _, name = setting.key.rpartition(".")
        get_value(cfg, section).pop(name, None)
    try:
        cfg.merge_from_other_cfg(type(cfg)(tree))
    # Python's literal parser has further errors for deep nesting and for a list as a dictionary key.
    except (AssertionError, ValueError, TypeError, RecursionError, MemoryError) as error:
        current = 0 if is_option else get_value(cfg, setting.key)
        fix = f"Give a value of type {type(current).__name__}, such as {current!r}."
        raise InputError(setting.where, _show(setting.value), fix) from error


def _read_with_bases(path: str, parents: tuple[str, ...], files: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each file with its content, bases first, so that later files override earlier ones.

    Args:
        path: of the file.
        parents: real paths of the files that include it.
        files: all files read so far; extended in place.
    """
    if path.endswith(".py"):
        fix = "Write its keys in a YAML file, as in configs/. Code in configurations is never run."
        raise InputError(path, "a Python configuration (LazyConfig)", fix)
    files.append(path)
    if len(files) > _MAX_FILES:  # thirty files that name two bases each would be read 2^30 times
        raise InputError(files[0], f"more than {_MAX_FILES} files by way of {BASE_KEY}", "Name each base only once.")
    if os.path.realpath(path) in parents:
        raise InputError(path, f"its {BASE_KEY} leads back to itself", "Remove this base.")
    content = load_plain_yaml(read_text(path), path)
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise InputError(path, f"a {type(content).__name__} at the top level", "Begin with a key such as MODEL:")
    bases = content.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise InputError(f"{path}: {BASE_KEY}", _show(bases), "Give a path, or a list of paths, relative to this file.")
    for base in bases:
        base_path = find_config_file(os.path.expanduser(base), os.path.dirname(path))
        yield from _read_with_bases(base_path, (*parents, os.path.realpath(path)), files)
    yield path, content


def _leaves(node: CfgNode, content: Mapping[Any, Any], file: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each leaf, after checking that the key exists."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        if name not in node and not node.is_new_allowed() and key not in BY_NAME and key not in SECTIONS:
            raise _unknown_key(node, key, value, file, prefix)
        child = node.get(name, CfgNode() if key in SECTIONS else None)
        if not isinstance(child, CfgNode):
            yield key, value
        elif isinstance(value, dict):
            yield from _leaves(child, value, file, f"{key}.")
        elif value is not None:  # a heading with nothing below it sets nothing
            raise InputError(f"{file}: {key}", _show(value), "Set one of its keys.", allowed=", ".join(child) or None)


def _all_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield from _all_keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else [f"{prefix}{name}"]


def _takes_any_name(cfg: CfgNode, key: str) -> bool:
    """Return whether the section of a dotted key takes any name, as that of a method's options does."""
    *sections, name = key.split(".")
    node: Any = cfg
    for section in sections:
        node = node.get(section) if isinstance(node, CfgNode) else None
    return bool(name) and isinstance(node, CfgNode) and node.is_new_allowed()


def _unknown_key(node: CfgNode, key: str, value: object, where: str, prefix: str = "") -> InputError:
    if key in RENAMED_KEYS:
        new_value = RENAMED_VALUES.get(key, {}).get(str(value), value)
        return InputError(where, f"{key} is now called {RENAMED_KEYS[key]}", f"Write {RENAMED_KEYS[key]} {new_value}.")
    if any(fnmatchcase(key, pattern) or fnmatchcase(key, f"{pattern}.*") for pattern in _FOREIGN):
        return InputError(where, f"{key}, a key of MaskFormer or DeepLab", "Remove it: no model here reads it.")
    keys = [*_all_keys(node, prefix), *(f"{prefix}{name}" for name in node)]
    close = difflib.get_close_matches(key.upper(), keys, n=1)
    if close:
        return InputError(where, f"unknown key {key}", f"Write {close[0]}.")
    return InputError(where, f"unknown key {key}", "Check its spelling and place.", allowed=", ".join(node) or None)


def _show(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"
