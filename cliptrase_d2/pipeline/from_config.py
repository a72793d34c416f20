"""What the configuration says of the method, and the parts of SAN that it describes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields

from cliptrase_d2.d2 import CfgNode, MetadataCatalog
from cliptrase_d2.mask_sources import MaskSettings, MaskSource, build_mask_source
from cliptrase_d2.methods.attention import attention_named
from cliptrase_d2.pipeline.settings import Method
from cliptrase_d2.san.criterion import Criterion
from cliptrase_d2.san.image_queries import ImageQueries
from cliptrase_d2.san.matcher import LossWeights
from cliptrase_d2.san.side_network import SideAdapterNetwork
from cliptrase_d2.san.split_tower import FirstBlocks, LastBlocks, WordClassifier
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary


def method_of(cfg: CfgNode) -> Method:
    """The method's settings: the keys of MODEL.CLIPTRASE have the names of its fields, in capitals.

    Raises:
        InputError: a setting outside its range.
    """
    keys = cfg.MODEL.CLIPTRASE
    return Method(**{field.name: keys[field.name.upper()] for field in fields(Method)})


def build_mask_source_from_config(cfg: CfgNode) -> MaskSource:
    """The source of masks, with its weights: the keys of MODEL.MASKS beside SOURCE are those of `MaskSettings`.

    Raises:
        InputError: an unknown source, or weights or settings that it cannot use.
    """
    keys = cfg.MODEL.MASKS
    settings = MaskSettings(**{field.name: keys[field.name.upper()] for field in fields(MaskSettings)})
    return build_mask_source(keys.SOURCE, method_of(cfg), settings)


QUERY_INITS = ("none", "prototypes", "per_image")


def build_side_network(cfg: CfgNode, first: FirstBlocks, last: LastBlocks) -> SideAdapterNetwork:
    """The untrained side network, for the two parts of its CLIP.

    Raises:
        InputError: blocks or sizes that do not fit.
    """
    side = cfg.MODEL.SIDE_ADAPTER
    return SideAdapterNetwork(
        clip_width=first.width,
        clip_heads=last.heads,
        image_size=side.IMAGE_SIZE,
        width=side.WIDTH,
        depth=side.DEPTH,
        heads=side.HEADS,
        patch_size=side.PATCH_SIZE,
        num_queries=side.NUM_QUERIES,
        fusion=_fusion(side.FUSION_MAP, first.depth),
        supervised_blocks=side.DEEP_SUPERVISION_IDXS,
        decoder_channels=side.DECODER_CHANNELS,
        decoder_layers=side.DECODER_LAYERS,
    )


def build_criterion(cfg: CfgNode) -> Criterion | None:
    """The losses of a training on DATASETS.TRAIN; None where that names no data set that is registered."""
    classes = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("stuff_classes") if cfg.DATASETS.TRAIN else None
    if classes is None:
        return None
    san = cfg.MODEL.SAN
    return Criterion(
        len(classes),
        weights=LossWeights(san.CLASS_WEIGHT, san.MASK_WEIGHT, san.DICE_WEIGHT),
        no_object_weight=san.NO_OBJECT_WEIGHT,
        points=san.TRAIN_NUM_POINTS,
        oversample=san.OVERSAMPLE_RATIO,
        importance=san.IMPORTANCE_SAMPLE_RATIO,
    )


def build_image_queries(cfg: CfgNode, classifier: WordClassifier) -> ImageQueries | None:
    """What every image adds to its queries; None unless MODEL.SAN.QUERY_INIT is "per_image".

    Raises:
        InputError: an unknown kind.
    """
    kind = cfg.MODEL.SAN.QUERY_INIT
    if kind not in QUERY_INITS:
        raise InputError("MODEL.SAN.QUERY_INIT", repr(kind), "Choose one of these.", allowed=", ".join(QUERY_INITS))
    if kind != "per_image":
        return None
    return ImageQueries(
        classifier.bg_embed.shape[1],
        cfg.MODEL.SIDE_ADAPTER.WIDTH,
        method=method_of(cfg),
        attention=attention_named(cfg.MODEL.CLIPTRASE.ATTENTION),
        correlation_block=cfg.MODEL.CLIPTRASE.CORRELATION_LAYER,
    )


def _fusion(pairs: Sequence[str], blocks: int) -> dict[int, int]:
    """{block of the side network: block of CLIP} from ["3->1", ...]."""
    where, allowed = "MODEL.SIDE_ADAPTER.FUSION_MAP", f"'C->S' with C from 0 to {blocks}"
    found = {}
    for pair in pairs:
        parts = re.fullmatch(r"(\d+)->(\d+)", pair)
        if parts is None or int(parts[1]) > blocks:
            fix = "Name a block of CLIP up to MODEL.SAN.FEATURE_LAST_LAYER_IDX, then one of the side network."
            raise InputError(where, repr(pair), fix, allowed=allowed)
        found[int(parts[2])] = int(parts[1])
    return found


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
