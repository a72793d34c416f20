"""The image tower with all stages before clustering, as one module of tensors in and tensors out."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptrase_d2.clip.open_clip_modules import joint_width, position_embedding, trained_grid
from cliptrase_d2.clip.pos_embed import position_embedding_by_products
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import DenseMethod, Method
from cliptrase_d2.pipeline.classify import patch_logits
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.stages import correlate
from cliptrase_d2.utils.errors import InputError

INPUTS = ("images", "words")


class TowerOutput(NamedTuple):
    """Outputs of an exported tower, under these names.

    Attributes:
        patches: [B,N,D], L2-normalised, in the joint space, row by row of the grid.
        class_token: [B,D], L2-normalised.
        correlation: [B,N,N], the rows to cluster.
        logits: [B,N,R], CLIP's scale times the cosine of every patch and word.
    """

    patches: Tensor
    class_token: Tensor
    correlation: Tensor
    logits: Tensor


class ExportableTower(nn.Module):
    """Images and words to patch features, correlations and logits, in float32 on the CPU.

    Args:
        model: whose tower and method to export. Its weights are copied.
        grid: (h, w) of all images; None for any.
    Attributes:
        patch_size: side of a patch in pixels.
        trained_grid: (h0, w0), the grid that the position embedding was trained for.
    Raises:
        InputError: the model is SAN, or its method needs more than the image tower.
    """

    position: Tensor | None

    def __init__(self, model: Any, grid: tuple[int, int] | None):
        super().__init__()
        if not isinstance(model, CLIPtrase):
            got = f"{type(model).__name__!r}, but only CLIPtrase can be exported"
            raise InputError("MODEL.META_ARCHITECTURE", got, "Use a configuration of CLIPtrase.")
        assert isinstance(model.tower, VisualTower), "its methods alone can be exported"
        self.tower: VisualTower = copy.deepcopy(model.tower).cpu().float().requires_grad_(False)
        self.method, self.settings = check_exportable(model.method, model.settings.method), model.settings
        self.scale = float(model.clip.logit_scale.exp())
        self.width, self.patch_size = joint_width(model.clip), self.tower.patch_size
        self.trained_grid = trained_grid(self.tower.visual)
        # For a known grid the resized embedding is stored: runtimes resize differently from PyTorch.
        position = None if grid is None else self.tower.position(grid, self.method.needs.position_resize)
        self.register_buffer("position", None if position is None else position.detach().clone())
        self.eval()

    def forward(self, images: Tensor, words: Tensor) -> dict[str, Tensor]:
        """Return the outputs of `encode` by name, as the exported file does."""
        position = self._resize_position(images) if self.position is None else self.position
        return self.encode(images, words, position)._asdict()

    def encode(self, images: Tensor, words: Tensor, position: Tensor | None = None) -> TowerOutput:
        """Compute the outputs as the model does.

        Args:
            images: [B,3,H,W] RGB in 0 to 255, uint8 or float; H and W are multiples of the patch size.
            words: [R,D], L2-normalised text features.
            position: [N+1,E], the position embedding; None to resize it as the model does.
        """
        layer, needs = self.settings.correlation_layer, self.method.needs
        tokens = self.tower(self.tower.normalise(images), replace(needs, qkv=(*needs.qkv, layer)), position)
        features, correlation = self.method(tokens), correlate(tokens.qkv(layer), self.settings)
        assert features.class_token is not None, "check_exportable refuses a method without"
        logits = patch_logits(features.patches, words, self.scale)
        return TowerOutput(features.patches, features.class_token, correlation, logits)

    def random_inputs(self, batch: int, words: int, size: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return seeded random images [B,3,H,W] and words [R,D]."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (batch, 3, *size), generator=generator).to(dtype)
        return images, F.normalize(torch.randn(words, self.width, generator=generator), dim=-1)

    def _resize_position(self, images: Tensor) -> Tensor:
        embedding, side = position_embedding(self.tower.visual), self.patch_size
        grid = (images.shape[2] // side, images.shape[3] // side)
        mode = self.method.needs.position_resize or self.tower.position_resize
        return position_embedding_by_products(embedding, self.trained_grid, grid, mode)


def check_exportable(method: Method, name: str) -> DenseMethod:
    """Return a method that needs only images and the image tower.

    Raises:
        InputError: it needs more, with the reason.
    """
    needs = method.needs
    obstacles = {
        "labels whole images": not isinstance(method, DenseMethod),
        "is an oracle, which reads true labels": needs.true_labels,
        "reads the model's masks": needs.regions,
        "reads a second vision model": needs.vision_features,
        "reads the text features in the image tower": needs.text,
        "has no class token, which is one of the outputs": not method.has_class_token,
    }
    for obstacle, is_there in obstacles.items():
        if is_there:
            raise InputError("method", f"{name!r} {obstacle}", "Choose another method.")
    assert isinstance(method, DenseMethod)
    return method
