"""The image tower with all that comes before clustering, as one module of tensors in and tensors out."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptrase_d2.clip.open_clip_modules import joint_width, position_embedding, trained_grid
from cliptrase_d2.clip.pos_embed import position_embedding_by_products
from cliptrase_d2.pipeline.classify import patch_logits
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.segmenter.build import Segmenting
from cliptrase_d2.utils.errors import InputError

INPUTS = ("images", "words")


class TowerOutput(NamedTuple):
    """What an exported tower gives, under these names.

    Attributes:
        patches: [B,N,D], L2-normalised, in the joint space, row by row of the grid.
        class_token: [B,D], L2-normalised.
        correlation: [B,N,N], the rows that are clustered.
        logits: [B,N,R], CLIP's scale times the cosine of every patch and word.
    """

    patches: Tensor
    class_token: Tensor
    correlation: Tensor
    logits: Tensor


class ExportableTower(nn.Module):
    """Images and words to tokens, correlations and logits, in float32 on the CPU, whatever the model's precision.

    Args:
        model: whose tower and method this is; the weights are copied.
        grid: (h, w) of all images; None for any.
    Raises:
        InputError: SAN, or an oracle, which would ask for labels.
    """

    position: Tensor | None

    def __init__(self, model: Segmenting, grid: tuple[int, int] | None):
        super().__init__()
        if not isinstance(model, CLIPtrase):
            fix = "Name a configuration of it."
            raise InputError("MODEL.META_ARCHITECTURE", repr(type(model).__name__), fix, allowed="CLIPtrase")
        if model.tower.attention.is_oracle:
            got, allowed = "an oracle, which asks for labels", "an attention that sees images only"
            raise InputError("MODEL.CLIPTRASE.ATTENTION", got, "Choose another attention.", allowed=allowed)
        self.tower = copy.deepcopy(model.tower).cpu().float().requires_grad_(False)
        self.method = model.method
        self.scale = float(model.clip.logit_scale.exp())
        self.width = joint_width(model.clip)
        # Where the grid is known the embedding is kept ready: no runtime has to resize as PyTorch does.
        self.register_buffer("position", None if grid is None else self.tower.position(grid).detach().clone())
        self.eval()

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.tower.patch_size

    @property
    def trained_grid(self) -> tuple[int, int]:
        """(h0, w0), which the position embedding was trained for."""
        return trained_grid(self.tower.visual)

    def forward(self, images: Tensor, words: Tensor) -> dict[str, Tensor]:
        """What a file does: `see` by name."""
        position = self._any_position(images) if self.position is None else self.position
        return self.see(images, words, position)._asdict()

    def see(self, images: Tensor, words: Tensor, position: Tensor | None = None) -> TowerOutput:
        """What the model itself sees.

        Args:
            images: [B,3,H,W] RGB in 0 to 255, uint8 or float; H and W are multiples of the patch size.
            words: [R,D], L2-normalised text features.
            position: [N+1,E], the position embedding; None to resize it as the model does.
        """
        tokens = self.tower(self.tower.normalise(images), position=position)
        logits = patch_logits(tokens.patches, words, self.scale)
        return TowerOutput(tokens.patches, tokens.class_token, self.method.correlate(tokens), logits)

    def random_inputs(self, batch: int, words: int, size: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Images [B,3,H,W] of random pixels and random words [R,D], the same every time."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (batch, 3, *size), generator=generator).to(dtype)
        return images, F.normalize(torch.randn(words, self.width, generator=generator), dim=-1)

    def _any_position(self, images: Tensor) -> Tensor:
        embedding, side = position_embedding(self.tower.visual), self.patch_size
        grid = (images.shape[2] // side, images.shape[3] // side)
        return position_embedding_by_products(embedding, self.trained_grid, grid, self.tower.position_resize)
