"""Sources of masks: CLIP's own correlation, another backbone, SAM, or a class of the user's."""

from cliptrase_d2.mask_sources.backbone import BackboneSource
from cliptrase_d2.mask_sources.base import (
    MASK_SOURCES,
    MaskInputs,
    MaskSettings,
    MaskSource,
    build_mask_source,
    get_mask_source,
    make_empty_proposals,
    register_mask_source,
)
from cliptrase_d2.mask_sources.clusters import CorrelationClusters
from cliptrase_d2.mask_sources.sam import SamAutomaticSource, SamSource

__all__ = [
    "MASK_SOURCES",
    "BackboneSource",
    "CorrelationClusters",
    "MaskInputs",
    "MaskSettings",
    "MaskSource",
    "SamAutomaticSource",
    "SamSource",
    "build_mask_source",
    "get_mask_source",
    "make_empty_proposals",
    "register_mask_source",
]
