"""What the configuration says of the method, without a model."""

from __future__ import annotations

from dataclasses import fields

from cliptrase_d2.d2 import CfgNode, MetadataCatalog
from cliptrase_d2.mask_sources import MaskSettings, MaskSource, build_mask_source
from cliptrase_d2.training_free.method import Method
from cliptrase_d2.vocabulary import Vocabulary


def method_of(cfg: CfgNode) -> Method:
    """The method's settings: the keys of MODEL.CLIPTRASE have the names of its fields, in capitals.

    Raises:
        InputError: a setting outside its range.
    """
    keys = cfg.MODEL.CLIPTRASE
    return Method(**{field.name: keys[field.name.upper()] for field in fields(Method)})


def mask_source_of(cfg: CfgNode) -> MaskSource:
    """The source of masks, with its weights: the keys of MODEL.MASKS beside SOURCE are those of `MaskSettings`.

    Raises:
        InputError: an unknown source, or weights or settings that it cannot use.
    """
    keys = cfg.MODEL.MASKS
    settings = MaskSettings(**{field.name: keys[field.name.upper()] for field in fields(MaskSettings)})
    return build_mask_source(keys.SOURCE, method_of(cfg), settings)


def default_vocabulary(cfg: CfgNode) -> Vocabulary | None:
    """The classes of inputs that bring none: MODEL.CLIPTRASE.VOCABULARY, else those of the first data set, else None.

    Raises:
        InputError: names that are no vocabulary.
    """
    keys = cfg.MODEL.CLIPTRASE
    if keys.VOCABULARY:
        return Vocabulary.parse(keys.VOCABULARY, keys.BACKGROUND, where="MODEL.CLIPTRASE.VOCABULARY")
    if not cfg.DATASETS.TEST:
        return None
    name = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(name)
    names = metadata.get("stuff_classes")
    return metadata.get("vocabulary") or (Vocabulary.parse(names, where=name) if names else None)
