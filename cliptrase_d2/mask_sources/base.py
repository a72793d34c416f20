"""The contract of a mask source, and the registry of all sources.

A source is a small class. The model finds it by the name that it is registered under::

    @register_mask_source("stripes")
    class Stripes(MaskSource):
        needs_correlation = False

        def propose(self, inputs):
            return [MaskProposals(...) for size in inputs.sizes]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from cliptrase_d2.d2 import CfgNode
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError, suggest


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """Settings of this package's sources. `config.py` explains each of them under MODEL.MASKS."""

    backbone: str = "vit_base_patch14_dinov2.lvd142m"
    backbone_weights: str = "pretrained"
    sam: str = "facebook/sam-vit-base"
    sam_prompt: str = "points"
    sam_points_per_side: int = 32
    sam_min_iou: float = 0.88
    sam_min_stability: float = 0.95
    sam_duplicate_iou: float = 0.7
    sam_merge: float = 0.0
    sam_masks_per_point: int = 3
    sam_large_on_top: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MaskSettings:
        """Read the settings from MODEL.MASKS, whose keys are their names in capitals."""
        return cls(**{field.name: cfg.MODEL.MASKS[field.name.upper()] for field in fields(cls)})


@dataclass(frozen=True)
class MaskInputs:
    """Inputs of a mask source, for a batch of images of one size.

    Attributes:
        grid: (h, w) of CLIP's patches, h·w = N.
        sizes: (H, W) of the assignment of each image.
        settings: of the method.
        device: of the result.
        correlation: [B,N,N], one row per patch, of whole images or stitched from windows; None if not needed.
        pixels: [B,3,H',W'] RGB in 0 to 255, the whole images in the size that CLIP sees; None if not needed.
    """

    grid: tuple[int, int]
    sizes: Sequence[tuple[int, int]]
    settings: CLIPtraseSettings
    device: torch.device
    correlation: Tensor | None = None
    pixels: Tensor | None = None


class MaskSource(nn.Module, ABC):
    """Proposes masks. It is a module, so its weights move with the model.

    Attributes:
        title: a short description of the masks, for reports; "" for the name of the source.
        needs_correlation: whether it reads the correlation, which is computed only then.
        needs_pixels: whether it reads the images.
    """

    title: ClassVar[str] = ""
    needs_correlation: ClassVar[bool] = True
    needs_pixels: ClassVar[bool] = True

    @classmethod
    def from_settings(cls, settings: MaskSettings) -> MaskSource:
        """Build the source. A source with arguments of its own takes them from the settings."""
        return cls()

    @abstractmethod
    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        """Propose the masks of each image, independently of the other images."""

    def predict_logits(self, image: Tensor, size: tuple[int, int]) -> Tensor | None:
        """Return the logits of masks that may overlap and leave pixels out, for methods of whole images.

        Args:
            image: [3,H',W'] RGB in 0 to 255.
            size: (H, W) of the result.
        Returns:
            [K,H,W] of any real type, above 0 inside; None from a source whose masks divide the image.
        """
        return None

    def forward(self, inputs: MaskInputs) -> list[MaskProposals]:
        """Propose masks, or none where the setting `clustering` is "none".

        Raises:
            InputError: the source proposed for another number of images, or an assignment of another size.
        """
        if inputs.settings.clustering == "none":
            return [make_empty_proposals(inputs.grid, size, inputs.device) for size in inputs.sizes]
        proposals = self.propose(inputs)
        shapes = [tuple(masks.assignment.shape) for masks in proposals]
        if shapes != [tuple(size) for size in inputs.sizes]:
            got = f"assignments of sizes {shapes} for images of sizes {list(inputs.sizes)}"
            raise InputError(f"mask source {type(self).__name__}", got, "Return one of its size for every image.")
        return proposals


_Source = TypeVar("_Source", bound=type[MaskSource])
MASK_SOURCES: dict[str, type[MaskSource]] = {}


def register_mask_source(name: str) -> Callable[[_Source], _Source]:
    """Return a decorator that makes a class known to MODEL.MASKS.SOURCE. A later class replaces an earlier one."""

    def register(source: _Source) -> _Source:
        MASK_SOURCES[name] = source
        return source

    return register


def get_mask_source(name: str) -> type[MaskSource]:
    """Return the class of a source by its name.

    Raises:
        InputError: the name is unknown.
    """
    if name not in MASK_SOURCES:
        fix = suggest(name, MASK_SOURCES, "Use one of these, or import the module that registers it.")
        raise InputError("mask_source", f"unknown source {name!r}", fix, allowed=", ".join(MASK_SOURCES))
    return MASK_SOURCES[name]


def build_mask_source(name: str, settings: MaskSettings | None = None) -> MaskSource:
    """Build a source by its name, in evaluation mode, on the CPU.

    Raises:
        InputError: the name is unknown, or its weights or settings cannot be used.
    """
    return get_mask_source(name).from_settings(settings or MaskSettings()).eval()


def make_empty_proposals(grid: tuple[int, int], size: tuple[int, int], device: torch.device) -> MaskProposals:
    """Return proposals without a mask, for an image of `size` (H, W)."""
    return MaskProposals(torch.zeros(0, *grid, device=device), torch.zeros(size, dtype=torch.int64, device=device))
