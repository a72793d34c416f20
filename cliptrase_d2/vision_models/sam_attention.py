"""The last attention and the embedding of SAM's image encoder, with images that are prepared as in SAM's own code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.shared_results import compute_once
from cliptrase_d2.vision_models.sam_model import PromptedSam


@dataclass(frozen=True, eq=False)
class SamAttention:
    """The last attention of SAM for one image, without the queries and values of its padding.

    Attributes:
        queries: [A,h,w,d] of the image.
        keys: [A,S·S,d] of the whole square.
        values: [A,h,w,d] of the image.
        rows: [h,S,d], relative positions of the image's rows and those of the square.
        columns: [w,S,d], the same for columns.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    rows: Tensor
    columns: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the patches of the image, h·w = M."""
        return self.values.shape[1], self.values.shape[2]

    def attend(self, head: int) -> Tensor:
        """Return the attention of one head, [M,M] float32. A row has the sum 1 minus its attention to the padding."""
        query, side, (height, width) = self.queries[head].float(), self.rows.shape[1], self.grid
        logits = (query.flatten(0, 1) * query.shape[2] ** -0.5) @ self.keys[head].float().T  # [M,S·S]
        logits = logits.view(height, width, side, side)
        logits += torch.einsum("hwd,hsd->hws", query, self.rows.float())[..., None]
        logits += torch.einsum("hwd,wsd->hws", query, self.columns.float())[..., None, :]
        attention = logits.flatten(2).softmax(2).view_as(logits)
        return attention[..., :height, :width].flatten(2).flatten(0, 1)


def check_last_attention(sam: PromptedSam) -> None:
    """Check that the last block of SAM's image encoder attends to the whole image.

    Raises:
        InputError: the model is a SAM 2, or its last block attends in windows.
    """
    encoder: Any = getattr(sam.model, "vision_encoder", None)
    if not hasattr(encoder, "layers") or encoder.layers[-1].window_size:
        fix = "Choose a SAM such as facebook/sam-vit-base."
        raise InputError("sam", f"{sam.name!r}, whose encoder does not end with an attention over the image", fix)


class SamReader:
    """SAM's image encoder. The last attention and the embedding of one image share a pass.

    The state of the last image before the last block is kept: 12.6 MB for ViT-B.

    Args:
        sam: a SAM, no SAM 2.
    """

    def __init__(self, sam: PromptedSam):
        self.sam = sam
        self._image: Tensor | None = None
        self._state: Tensor | None = None

    def read_last_attention(self, image: Tensor) -> SamAttention:
        """Run the encoder up to its last attention.

        Other blocks attend with all heads at once: 0.8 GB for SAM's square of 64×64 patches.

        Args:
            image: [3,H,W] uint8 RGB.
        Raises:
            InputError: the model is a SAM 2, or its last block attends in windows.
        """
        check_last_attention(self.sam)
        encoder: Any = self.sam.model.vision_encoder
        x, last = self._encode(image), encoder.layers[-1]
        attention, side = last.attn, x.shape[1]
        projected = attention.qkv(last.layer_norm1(x))[0]  # [S,S,3·A·d]
        query, key, value = projected.view(side, side, 3, attention.num_attention_heads, -1).permute(2, 3, 0, 1, 4)
        size = self.sam.frame((image.shape[1], image.shape[2]))
        height, width = (max(1, length * side // self.sam.side) for length in size)  # thin images do not fill a patch
        rows, columns = (
            attention.get_rel_pos(side, side, table)[:points]
            for table, points in ((attention.rel_pos_h, height), (attention.rel_pos_w, width))
        )
        image_part = (slice(None), slice(height), slice(width))
        return SamAttention(query[image_part], key.flatten(1, 2), value[image_part], rows, columns)

    def embed(self, image: Tensor) -> Tensor:
        """Encode an image [3,H,W] uint8 RGB for the decoder, [1,D,h,w]."""
        encoder = self.sam.model.vision_encoder
        embedding: Tensor = encoder.neck(encoder.layers[-1](self._encode(image)))
        return embedding

    def _encode(self, image: Tensor) -> Tensor:
        """Return the input of the last block, [1,S,S,E]."""
        if self._state is None or self._image is None or not torch.equal(self._image, image):
            self._state = compute_once(self.sam, "input of the last block", image, lambda: self._run_blocks(image))
            self._image = image
        return self._state

    def _run_blocks(self, image: Tensor) -> Tensor:
        encoder = self.sam.model.vision_encoder
        x: Tensor = encoder.patch_embed(prepare(self.sam, image))
        if encoder.pos_embed is not None:
            x = x + encoder.pos_embed
        for layer in encoder.layers[:-1]:
            x = layer(x)
        return x


def prepare(sam: PromptedSam, image: Tensor) -> Tensor:
    """Resize, normalise and pad an image as SAM's own code does, by Pillow in 8 bits, [1,3,S,S].

    Args:
        sam: gives size and statistics.
        image: [3,H,W] uint8 RGB.
    """
    height, width = sam.frame((image.shape[1], image.shape[2]))
    photograph = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    resized = np.array(photograph.resize((width, height), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(resized).to(sam.pixel_mean.device).permute(2, 0, 1)
    pixels = (pixels - sam.pixel_mean) / sam.pixel_std
    return F.pad(pixels, (0, sam.side - width, 0, sam.side - height))[None]
