"""SigLIP 2: the image tower of timm with attentional pooling and without a class token.

No attention of a block and no projection of single patches leads to the space of its text features. A method can only
pool its last tokens with the values of the pooling.

Source: https://arxiv.org/abs/2502.14786.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from cliptrase_d2.clip.tokens import ImageTokens, Needs
from cliptrase_d2.utils.errors import InputError

_MEAN = _STD = 0.5  # of RGB in 0 to 1


def is_siglip2(name: str, config: Mapping[str, Any]) -> bool:
    """Return whether a model of open_clip is a SigLIP 2."""
    return "SigLIP2" in name and "siglip" in (config["vision_cfg"].get("timm_model_name") or "")


def read_patch_side(config: Mapping[str, Any]) -> int:
    """Return the side of a patch in pixels, of a CLIP or a SigLIP 2 of open_clip."""
    vision = config["vision_cfg"]
    if "timm_model_name" not in vision:
        return int(vision["patch_size"])
    return int(vision["timm_model_name"].partition("patch")[2].partition("_")[0])


@dataclass(frozen=True, eq=False)
class SiglipTokens(ImageTokens):
    """Tokens after the last norm, and the pooling that reads them. The state 0 has the tokens, [B,N,E]."""

    @property
    def patches(self) -> Tensor:
        """The tokens, [B,N,E]."""
        return self.states[0]

    def pool_values(self, tokens: Tensor) -> Tensor:
        """Project tokens with the values of the pooling, […,E] to […,E], heads side by side."""
        pool = self._trunk.attn_pool
        width = tokens.shape[-1]
        bias = None if pool.kv.bias is None else pool.kv.bias[width:]
        return F.linear(tokens, pool.kv.weight[width:], bias)

    def finish_pool(self, pooled: Tensor) -> Tensor:
        """Apply the output projection of the pooling, without its MLP, and the norm after it; L2-normalised, […,E]."""
        return F.normalize(self._trunk.fc_norm(self._trunk.attn_pool.proj(pooled)).float(), dim=-1)

    @property
    def _trunk(self) -> Any:
        return self.tower.trunk


class SiglipTower(nn.Module):
    """Images to the tokens after the last norm.

    Args:
        visual: an image tower of open_clip that holds a SigLIP of timm.
    Raises:
        InputError: another kind of tower.
    """

    kind = "siglip2"
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, visual: Any):
        super().__init__()
        check_siglip(visual, type(visual).__name__)
        self.visual = visual
        self.patch_size = int(visual.trunk.patch_embed.patch_size[0])
        for name, value in (("mean", _MEAN), ("std", _STD)):  # in 0 to 255, the range of the images
            self.register_buffer(f"pixel_{name}", torch.full((3, 1, 1), 255 * value), persistent=False)

    @property
    def depth(self) -> int:
        """Number of blocks, L."""
        return len(self.visual.trunk.blocks)

    @property
    def fixed_side(self) -> int:
        """Side in pixels of the images that the tower takes."""
        return int(self.visual.trunk.patch_embed.img_size[0])

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise RGB in 0 to 255, uint8 or float, [...,3,H,W]; float32."""
        return (images - self.pixel_mean) / self.pixel_std

    def denormalise(self, images: Tensor) -> Tensor:
        """Invert `normalise` up to rounding. The result is clamped to 0 to 255, which resizing may have left."""
        return (images * self.pixel_std + self.pixel_mean).clamp(0, 255)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Return the grid (h, w) of images [...,H,W]."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def forward(self, images: Tensor, needs: Needs | None = None) -> SiglipTokens:
        """Run the tower.

        Args:
            images: [B,3,S,S] float, normalised, S = `fixed_side`.
            needs: not read: there is one kind of tokens.
        """
        tokens = self.visual.trunk.forward_features(images)  # [B,N,E]
        return SiglipTokens(self.visual, {}, {0: tokens}, {}, self.grid(images), images)

    def without_tokens(self) -> SiglipTokens:
        """Return the operations of the tower that read no tokens but their arguments."""
        return SiglipTokens(self.visual, {}, {}, {}, (0, 0))


def check_siglip(visual: Any, name: str) -> None:
    """Check that an image tower is a SigLIP of timm.

    Args:
        visual: the image tower; its weights may be missing.
        name: the model's name in error messages.
    Raises:
        InputError: another kind of tower.
    """
    trunk: Any = getattr(visual, "trunk", None)
    pool = getattr(trunk, "attn_pool", None)
    is_plain = type(pool) is AttentionPoolLatent and pool.latent_len == 1 and pool.pos_embed is None
    if not is_plain or trunk.num_prefix_tokens or len(visual.head):
        got = f"CLIP model {name!r} has an image tower of class {type(trunk or visual).__name__}, no SigLIP 2"
        raise InputError("name", got, "Choose a SigLIP 2 of open_clip, such as ViT-B-16-SigLIP2.")
