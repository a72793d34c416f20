"""Position embeddings for grids other than the trained one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.utils.errors import InputError

RESIZE_MODES = ("scale_factor", "output_size")
_CUBIC = -0.75  # the free parameter of PyTorch's cubic kernel
_MOST_GRIDS = 8  # that are remembered; an embedding of 40×40 patches is 5 MB


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
            "Use one of these names.",
            allowed=f"one of {', '.join(RESIZE_MODES)}",
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


class ResizedPositions:
    """`resize_position_embedding` that remembers: images have few grids, and resizing takes a GPU two milliseconds.

    What it remembers is only given where the embedding still has the values that it was made from.

    Args:
        trained_grid: (h0, w0).
        mode: as there.
    """

    def __init__(self, trained_grid: tuple[int, int], mode: str):
        self.trained_grid, self.mode = trained_grid, mode
        self._source: Tensor | None = None
        self._kept: dict[tuple[int, int], Tensor] = {}

    def __call__(self, embedding: Tensor, grid: tuple[int, int]) -> Tensor:
        """The embedding [1+h0·w0,E] for a grid (h, w), [1+h·w,E]; with a gradient where it needs one."""
        learns = torch.is_grad_enabled() and embedding.requires_grad
        if grid == self.trained_grid or learns or torch.compiler.is_compiling():
            return resize_position_embedding(embedding, self.trained_grid, grid, self.mode)
        if not self._is_of(embedding):
            self._source, self._kept = embedding.detach().clone(), {}
        if grid not in self._kept:
            if len(self._kept) == _MOST_GRIDS:
                self._kept.pop(next(iter(self._kept)))
            with torch.inference_mode(False):  # else those who train could not use what an evaluation has left here
                self._kept[grid] = resize_position_embedding(embedding.detach(), self.trained_grid, grid, self.mode)
        return self._kept[grid]

    def _is_of(self, embedding: Tensor) -> bool:
        source = self._source
        if source is None or (source.device, source.dtype) != (embedding.device, embedding.dtype):
            return False
        return torch.equal(source, embedding)


def position_embedding_by_products(
    embedding: Tensor, trained_grid: tuple[int, int], grid: tuple[int, int], mode: str
) -> Tensor:
    """`resize_position_embedding` as matrix products, for an exported tower that learns the grid only when it runs.

    Nothing in it depends on whether the grid is the trained one, or on a factor that tracing would write down.

    Args:
        embedding: [1+h0·w0,E], as there.
        trained_grid: (h0, w0).
        grid: (h, w), numbers or the symbols that stand for them in a trace.
        mode: as there.
    Returns:
        [1+h·w,E] float32, the same but for rounding.
    """
    extra: float | Tensor = 0.0
    patches = embedding[1:].float().reshape(*trained_grid, -1)  # [h0,w0,E]
    counts = [torch.full((), side, dtype=torch.float32, device=patches.device) for side in grid]
    if mode == "scale_factor":
        is_trained = (counts[0] == trained_grid[0]) & (counts[1] == trained_grid[1])
        extra = torch.where(is_trained, 0.0, 0.1)  # at the trained grid the embedding stays as it is
    rows, columns = (
        _bicubic_weights(side, trained, trained / (count + extra))
        for side, trained, count in zip(grid, trained_grid, counts, strict=True)
    )  # [h,h0], [w,w0]
    resized = torch.einsum("hy,wx,yxe->hwe", rows, columns, patches)
    return torch.cat([embedding[:1].float(), resized.flatten(0, 1)])


def _bicubic_weights(count: int, trained: int, step: Tensor) -> Tensor:
    """[n,n0]: what each of n places, ``step`` apart, takes of n0 values; PyTorch's kernel, the border values go on."""
    place = (torch.arange(count, device=step.device) + 0.5) * step - 0.5  # [n]
    taps = place.floor()[:, None] + torch.arange(-1, 3, device=step.device)  # [n,4]
    far = (place[:, None] - taps).abs()  # 0 to 2
    near_weight = ((_CUBIC + 2) * far - (_CUBIC + 3)) * far.square() + 1
    far_weight = _CUBIC * (((far - 5) * far + 8) * far - 4)
    weight = torch.where(far <= 1, near_weight, far_weight)  # [n,4]
    is_hit = taps.clamp(0, trained - 1)[..., None] == torch.arange(trained, device=step.device)  # [n,4,n0]
    return (weight[..., None] * is_hit).sum(1)
