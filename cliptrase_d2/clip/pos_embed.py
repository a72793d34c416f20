"""Position embeddings for grids other than the trained one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.errors import InputError

RESIZE_MODES = ("scale_factor", "output_size")


def resize_position_embedding(
    embedding: Tensor, trained_grid: tuple[int, int], grid: tuple[int, int], mode: str
) -> Tensor:
    """Bicubic, not antialiased; the class token's row stays as it is.

    Args:
        embedding: [1+h0·w0,E], row 0 of the class token, then the grid row by row.
        trained_grid: (h0, w0).
        grid: (h, w), the grid that is wanted.
        mode: "scale_factor" samples at steps of n0/(n+0.1), as DINO (https://github.com/facebookresearch/dino)
            and the published CLIPtrase do; "output_size" at n0/n. The results differ slightly everywhere.
    Returns:
        [1+h·w,E] float32; `embedding` itself where nothing has to be resized.
    Raises:
        InputError: the mode is unknown.
    """
    if mode not in RESIZE_MODES:
        raise InputError(
            "MODEL.CLIP.POS_EMBED_RESIZE",
            f"the mode {mode!r}",
            f"one of {', '.join(RESIZE_MODES)}",
            "Use one of these names.",
        )
    if tuple(grid) == tuple(trained_grid):
        return embedding
    (height, width), (trained_height, trained_width) = grid, trained_grid
    class_row, patches = embedding[:1].float(), embedding[1:].float()
    patches = patches.reshape(1, trained_height, trained_width, -1).permute(0, 3, 1, 2)  # [1,E,h0,w0]
    # The 0.1 keeps the floor of n0·factor from falling to n-1.
    factor = ((height + 0.1) / trained_height, (width + 0.1) / trained_width)
    target = {"scale_factor": factor} if mode == "scale_factor" else {"size": (height, width)}
    patches = F.interpolate(patches, mode="bicubic", align_corners=False, **target)  # [1,E,h,w]
    assert patches.shape[2:] == (height, width), f"resized to {tuple(patches.shape[2:])}, not to {(height, width)}"
    return torch.cat([class_row, patches.flatten(2)[0].T])  # [1+N,E]
