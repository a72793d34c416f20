"""Registration of the architectures and data sets with Detectron2. Importing this module registers CLIPtrase.

The published SAN registers its architecture and data sets on import, and that fails if their names are taken. They are
therefore registered here by `register_all`, which scripts call after their imports, and only if they are free.
"""

from __future__ import annotations

import logging

from cliptrase_d2.config import add_cliptrase_config
from cliptrase_d2.d2 import META_ARCH_REGISTRY
from cliptrase_d2.data.builtin import register_builtin
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.san.model import SAN

__all__ = ["CLIPtrase", "CLIPtraseSAN", "add_cliptrase_config", "register_all", "register_architectures"]

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class CLIPtraseSAN(SAN):
    """This package's SAN, under a name that the published package does not use."""


def register_architectures() -> None:
    """Register SAN too, unless the published package has this name."""
    if SAN.__name__ not in META_ARCH_REGISTRY:
        META_ARCH_REGISTRY.register(SAN)
    elif META_ARCH_REGISTRY.get(SAN.__name__) is not SAN:
        logger.info('"SAN" is the architecture of another package; the one of cliptrase_d2 is "CLIPtraseSAN".')


def register_all() -> None:
    """Register SAN and the data sets of this package. Names that are taken do not change."""
    register_architectures()
    register_builtin()
