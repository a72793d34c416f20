"""What every source of masks is, and all of them by name.

A further source is a class of a few lines; the model finds it by the name it is registered under::

    @register_mask_source("stripes")
    class Stripes(MaskSource):
        def propose(self, images, scene, sizes):
            return [MaskProposals(...) for size in sizes]
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.settings import Method, PatchScene
from cliptrase_d2.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """What sources of this package can be told; `config.py` says what each of them means."""

    backbone: str = "vit_base_patch14_dinov2.lvd142m"
    backbone_weights: str = "pretrained"
    sam: str = "facebook/sam-vit-base"
    sam_prompt: str = "points"
    sam_points_per_side: int = 32
    sam_min_iou: float = 0.88
    sam_min_stability: float = 0.95


class MaskSource(nn.Module, ABC):
    """Proposes the masks of images; who names them does not care where they come from.

    It is a module, so that the weights it may have move with the model.

    Args:
        method: settings of the method. Another one may be put in its place at any time.
    """

    def __init__(self, method: Method):
        super().__init__()
        self.method = method

    @classmethod
    def from_settings(cls, method: Method, settings: MaskSettings) -> MaskSource:
        """Built from what the configuration says; a source with arguments of its own picks them here."""
        return cls(method)

    @abstractmethod
    def propose(self, images: Tensor, scene: PatchScene, sizes: Sequence[tuple[int, int]]) -> list[MaskProposals]:
        """Masks of a batch of images, those of each as if it were alone.

        Args:
            images: [B,3,H,W] RGB in 0 to 255, the whole images, in the size that CLIP sees.
            scene: what CLIP saw in them, in windows or as a whole.
            sizes: for every image the (H, W) of its assignment.
        """

    def forward(self, images: Tensor, scene: PatchScene, sizes: Sequence[tuple[int, int]]) -> list[MaskProposals]:
        """Like `propose`; but no masks at all where the method shall have no clusters, so that its pixels stand.

        Raises:
            InputError: the source proposes for another number of images, or an assignment of another size.
        """
        if self.method.clustering == "none":
            return [no_masks(scene, size) for size in sizes]
        proposals = self.propose(images, scene, sizes)
        found = [tuple(masks.assignment.shape) for masks in proposals]
        if found != [tuple(size) for size in sizes]:
            raise InputError(
                f"mask source {type(self).__name__}",
                f"assignments of the sizes {found}",
                "Make its propose() return this.",
                allowed=f"one per image, of {list(sizes)}",
            )
        return proposals


_Source = TypeVar("_Source", bound=MaskSource)
MASK_SOURCES: dict[str, type[MaskSource]] = {}


def register_mask_source(name: str) -> Callable[[type[_Source]], type[_Source]]:
    """Decorator of a class: MODEL.MASKS.SOURCE can name it from now on. A name given twice means the later class."""

    def register(source: type[_Source]) -> type[_Source]:
        MASK_SOURCES[name] = source
        return source

    return register


def build_mask_source(name: str, method: Method, settings: MaskSettings | None = None) -> MaskSource:
    """A source by its name, in evaluation mode, on the CPU.

    Raises:
        InputError: there is none of this name, or its weights or settings cannot be used.
    """
    if name not in MASK_SOURCES:
        close = difflib.get_close_matches(name, MASK_SOURCES, n=1)
        fix = f"Did you mean {close[0]!r}?" if close else "Name one of these, or import the module that registers it."
        raise InputError("MODEL.MASKS.SOURCE", f"the name {name!r}", fix, allowed=f"one of {', '.join(MASK_SOURCES)}")
    return MASK_SOURCES[name].from_settings(method, settings or MaskSettings()).eval()


def no_masks(scene: PatchScene, size: tuple[int, int]) -> MaskProposals:
    """Nothing proposed, at `size` (H, W)."""
    nowhere = torch.zeros(size, dtype=torch.int64, device=scene.correlation.device)
    return MaskProposals(scene.correlation.new_zeros((0, *scene.grid)), nowhere)
