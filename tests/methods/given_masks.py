"""A mask source of masks that were made elsewhere."""

from __future__ import annotations

from torch import Tensor

from cliptrase_d2.mask_sources import MaskInputs, MaskSource
from cliptrase_d2.pipeline.proposals import MaskProposals


class GivenMasks(MaskSource):
    """Masks that may overlap.

    Args:
        logits: [K,H,W], for the only image.
    """

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = logits

    def predict_logits(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        assert self.logits.shape[1:] == size
        return self.logits

    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        raise AssertionError("these masks do not divide the image")
