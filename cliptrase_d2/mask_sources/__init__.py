"""Where masks come from: CLIP's own correlation, another backbone's, SAM, or a class of the user's."""

from cliptrase_d2.mask_sources.backbone import BackboneSource
from cliptrase_d2.mask_sources.base import (
    MASK_SOURCES,
    MaskSettings,
    MaskSource,
    build_mask_source,
    no_masks,
    register_mask_source,
)
from cliptrase_d2.mask_sources.clusters import CorrelationSource
from cliptrase_d2.mask_sources.sam import SamAutomaticSource, SamSource

__all__ = [
    "MASK_SOURCES",
    "BackboneSource",
    "CorrelationSource",
    "MaskSettings",
    "MaskSource",
    "SamAutomaticSource",
    "SamSource",
    "build_mask_source",
    "no_masks",
    "register_mask_source",
]
