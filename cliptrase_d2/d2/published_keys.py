"""Configuration keys of the published SAN (https://github.com/MendelXu/SAN) that have another name here, or none.

All other keys of its `add_san_config` have the same names and meanings here.
"""

from __future__ import annotations

import ast
import functools
import logging
import operator
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from cliptrase_d2.utils.errors import InputError

logger = logging.getLogger(__name__)
_ARCHITECTURES = ("SAN", "CLIPtraseSAN")
_TEMPLATES = "MODEL.CLIP.TEMPLATES"
_SIDE, _BIAS = "MODEL.SIDE_ADAPTER", "MODEL.SIDE_ADAPTER.ATTN_BIAS"
_CHANNELS = f"{_SIDE}.DECODER_CHANNELS"
_DECAY_GROUP = [
    "absolute_pos_embed",
    "positional_embedding",
    "pos_embed",
    "query_embed",
    "relative_position_bias_table",
]


class PublishedKey(NamedTuple):
    """A published key.

    Attributes:
        name: of the key.
        ours: the keys here that it sets; empty for none.
        note: for documentation and messages.
        value: published default. A key that sets nothing here accepts only this value, or any value if this is None.
    """

    name: str
    ours: tuple[str, ...]
    note: str
    value: Any = None


PUBLISHED_KEYS = (
    PublishedKey("MODEL.SAN.CLIP_MODEL_NAME", ("MODEL.CLIP.NAME",), "ViT-B/16 becomes ViT-B-16", "ViT-B/16"),
    PublishedKey("MODEL.SAN.CLIP_PRETRAINED_NAME", ("MODEL.CLIP.PRETRAINED",), "", "openai"),
    # No default: that of MODEL.CLIP.TEMPLATES is another one.
    PublishedKey("MODEL.SAN.CLIP_TEMPLATE_SET", (_TEMPLATES,), "vild if a published file does not set it"),
    PublishedKey(
        f"{_SIDE}.VIT_NAME",
        (f"{_SIDE}.WIDTH", f"{_SIDE}.HEADS", f"{_SIDE}.DEPTH", f"{_SIDE}.PATCH_SIZE"),
        "vit_w240n6d8_patch16 becomes 240, 6, 8 and 16",
        "vit_w240n6d8_patch16",
    ),
    PublishedKey(f"{_BIAS}.EMBED_CHANNELS", (_CHANNELS,), "must equal MLP_CHANNELS", 256),
    PublishedKey(f"{_BIAS}.MLP_CHANNELS", (_CHANNELS,), "must equal EMBED_CHANNELS", 256),
    PublishedKey(f"{_BIAS}.MLP_NUM_LAYERS", (f"{_SIDE}.DECODER_LAYERS",), "", 3),
    PublishedKey("SOLVER.TEST_IMS_PER_BATCH", ("TEST.BATCH_SIZE",), "", 1),
    PublishedKey("MODEL.SAN.CLIP_FROZEN_EXCLUDE", (), "CLIP's trained parameters", ["positional_embedding"]),
    PublishedKey("MODEL.SAN.CLIP_DEEPER_FROZEN_EXCLUDE", (), "CLIP's last blocks are not trained", []),
    PublishedKey("MODEL.SAN.REC_CROSS_ATTN", (), "mask tokens and image tokens share each block", False),
    PublishedKey("MODEL.SAN.REC_DOWNSAMPLE_METHOD", (), "pooling of attention biases", "max"),
    PublishedKey("MODEL.SAN.SOS_TOKEN_FORMAT", (), "mask tokens are copies of the class token", "cls_token"),
    PublishedKey("MODEL.SAN.ASYMETRIC_INPUT", (), "MODEL.SAN.CLIP_RESOLUTION 1.0 has the effect of False", True),
    PublishedKey("MODEL.SAN.SEM_SEG_POSTPROCESS_BEFORE_INFERENCE", (), "masks are resized before classes", True),
    PublishedKey(f"{_SIDE}.NAME", (), "the only side network", "RegionwiseSideAdapterNetwork"),
    PublishedKey(f"{_SIDE}.PRETRAINED", (), "the side network has no pretrained weights", False),
    PublishedKey(f"{_SIDE}.DROP_PATH_RATE", (), "no block is dropped", 0.0),
    PublishedKey(f"{_SIDE}.FUSION_TYPE", (), "CLIP's features are added", "add"),
    PublishedKey(f"{_BIAS}.NUM_LAYERS", (), "CLIP's last blocks share the attention biases", 1),
    PublishedKey(f"{_BIAS}.RESCALE_ATTN_BIAS", (), "attention biases are scaled", True),
    PublishedKey("INPUT.DATASET_MAPPER_NAME", (), "the only reader of training images", "mask_former_semantic"),
    PublishedKey("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", (), "crops are not repeated", 1.0),
    PublishedKey("SOLVER.WEIGHT_DECAY_EMBED_GROUP", (), "parameters of SOLVER.WEIGHT_DECAY_EMBED", _DECAY_GROUP),
    PublishedKey("SOLVER.POLY_LR_CONSTANT_ENDING", (), "a key of Detectron2's DeepLab", 0.0),
    PublishedKey("MODEL.SAN.NUM_CLASSES", (), "the number of classes is that of DATASETS.TRAIN"),
    PublishedKey(f"{_BIAS}.NUM_HEADS", (), "the number of heads is that of CLIP; 1 for all heads is not supported"),
    PublishedKey("INPUT.SIZE_DIVISIBILITY", (), "training images are padded to INPUT.CROP.SIZE, which it must equal"),
    PublishedKey("MODEL.FLASH", (), "the published code does not read it either"),
    PublishedKey("WANDB.PROJECT", (), "no log of Weights & Biases"),
    PublishedKey("WANDB.NAME", (), "no log of Weights & Biases"),
)
BY_NAME = {row.name: row for row in PUBLISHED_KEYS}
SECTIONS = ("WANDB", _BIAS)  # which this project does not have


class Setting(NamedTuple):
    """A key and its new value, with the place where a user set it."""

    where: str
    key: str
    value: Any


def translate_settings(
    cfg: CfgNode, settings: Sequence[Setting], source: str, *, is_file: bool = False
) -> list[Setting]:
    """Replace the published keys among settings by the keys here, and log them in one line.

    Args:
        cfg: that the settings change. Published keys that it contains are set as well.
        settings: in order; later ones override earlier ones.
        source: of the settings, for the log.
        is_file: they are a whole file, whose missing templates are those of the published SAN.
    Raises:
        InputError: a value that this project does not support, or `cfg` lacks this project's keys.
    """
    if not any(setting.key in BY_NAME for setting in settings):
        return list(settings)
    _require_sections(cfg)
    _check_related(cfg, settings)
    result, log = [], {}
    for setting in settings:
        row = BY_NAME.get(setting.key)
        if row is None or has_key(cfg, setting.key):
            result.append(setting)
        if row is not None:
            ours = _translate(setting)
            result += [Setting(setting.where, key, value) for key, value in ours.items()]
            if ours:
                log[row.name] = f"{row.name} as " + ", ".join(f"{key} {value}" for key, value in ours.items())
            elif row.value is None:
                log[row.name] = f"{row.name} is ignored ({row.note})"
    architecture = _last(settings, "MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE)
    if is_file and architecture in _ARCHITECTURES and _TEMPLATES not in {setting.key for setting in result}:
        result.append(Setting(source, _TEMPLATES, "vild"))
        log[_TEMPLATES] = f"{_TEMPLATES} vild, the published default"
    if log:
        # A warning, since a configuration is read before the log is opened.
        logger.warning("%s: read keys of the published SAN: %s", source, "; ".join(log.values()))
    return result


def require_own_keys(cfg: CfgNode) -> None:
    """Raise unless `cfg` has this project's keys of SAN, and published keys in it, if any, do not contradict them.

    Raises:
        InputError: the published `add_san_config` was called last, or a published key has another value.
    """
    _require_sections(cfg)
    for row in PUBLISHED_KEYS:
        if not has_key(cfg, row.name):
            continue
        value = get_value(cfg, row.name)
        default = {} if row.value is None else _translate(Setting(row.name, row.name, row.value))
        for key, theirs in _translate(Setting(row.name, row.name, value)).items():
            ours = get_value(cfg, key)
            if theirs not in (ours, default.get(key)):
                fix = f"Set {key} {theirs}, or read the file by merge_config_file."
                raise InputError(row.name, f"{value!r} contradicts {key} {ours!r}", fix)


def has_key(cfg: CfgNode, key: str) -> bool:
    """Return whether a dotted key exists."""
    section, _, name = key.rpartition(".")
    return name in cfg if not section else has_key(cfg, section) and name in get_value(cfg, section)


def get_value(cfg: CfgNode, key: str) -> Any:
    """Return the value of a dotted key, or its section."""
    return functools.reduce(operator.getitem, key.split("."), cfg)


def _translate(setting: Setting) -> dict[str, Any]:
    """Return the keys here, with their values, of a published key."""
    row, value = BY_NAME[setting.key], _decode(setting.value)
    if setting.key == "MODEL.SAN.CLIP_MODEL_NAME":
        value = str(value).replace("/", "-")  # as open_clip does
    if setting.key == f"{_SIDE}.VIT_NAME":
        numbers = re.fullmatch(r"vit_w(\d{1,6})n(\d{1,6})d(\d{1,6})_patch(\d{1,6})", str(value))
        if numbers is None:
            fix = f"Set {', '.join(row.ours)} instead."
            raise InputError(setting.where, repr(value), fix, allowed="vit_w<WIDTH>n<HEADS>d<DEPTH>_patch<PATCH_SIZE>")
        return dict(zip(row.ours, map(int, numbers.groups()), strict=True))
    if not row.ours and row.value is not None and value != row.value:
        raise InputError(setting.where, repr(value), f"Remove the key ({row.note}).", allowed=repr(row.value))
    return dict.fromkeys(row.ours, value)


def _check_related(cfg: CfgNode, settings: Sequence[Setting]) -> None:
    """Raise if published keys have no counterpart because of another key's value."""
    where = {setting.key: setting.where for setting in settings}
    names = [f"{_BIAS}.EMBED_CHANNELS", f"{_BIAS}.MLP_CHANNELS"]
    channels = [_last(settings, name, get_value(cfg, _CHANNELS)) for name in names]
    if where.keys() & names and channels[0] != channels[1]:
        place = next(where[name] for name in names if name in where)
        got = f"EMBED_CHANNELS {channels[0]} and MLP_CHANNELS {channels[1]}"
        raise InputError(place, got, f"Give both the same value: {_CHANNELS} has only one.")
    heads = f"{_BIAS}.NUM_HEADS"
    if _last(settings, heads, None) == 1:
        raise InputError(where[heads], 1, "Remove the key.", allowed="the number of CLIP's attention heads")
    padding = "INPUT.SIZE_DIVISIBILITY"
    if padding in where:
        is_cropped = _last(settings, "INPUT.CROP.ENABLED", cfg.INPUT.CROP.ENABLED)
        size = _last(settings, "INPUT.CROP.SIZE", cfg.INPUT.CROP.SIZE)
        side = _last(settings, padding, None)
        if (size != [side, side]) if is_cropped else side not in (-1, 0):
            allowed = f"the side of INPUT.CROP.SIZE {size}" if is_cropped else "-1 without INPUT.CROP.ENABLED"
            raise InputError(where[padding], side, "Remove the key: only crops are padded, to their size.", allowed)


def _last(settings: Sequence[Setting], key: str, default: Any) -> Any:
    return next((_decode(setting.value) for setting in reversed(settings) if setting.key == key), default)


def _decode(value: Any) -> Any:
    """Return the value of a Python literal, as yacs reads it, with lists in place of tuples."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return value
    return list(value) if isinstance(value, tuple) else value


def _require_sections(cfg: CfgNode) -> None:
    for key in ("MODEL.CLIP.NAME", "MODEL.SAN.QUERY_INIT", f"{_SIDE}.WIDTH"):
        if not has_key(cfg, key):
            section, _, name = key.rpartition(".")
            raise InputError(section, f"no key {name}", "Call add_cliptrase_config after add_san_config.")
