"""Position embeddings of other grids than the trained one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.utils.errors import check_choice

RESIZE_MODES = ("scale_factor", "output_size", "antialias")
# The free parameter of PyTorch's cubic kernel, without and with antialiasing.
_CUBIC, _CUBIC_ANTIALIAS = -0.75, -0.5
_MAX_GRIDS = 8  # in the cache; an embedding of 40×40 patches has 5 MB


def resize_position_embedding(
    embedding: Tensor, trained_grid: tuple[int, int], grid: tuple[int, int], mode: str
) -> Tensor:
    """Resize a position embedding, bicubic. The class token's row is not changed.

    Args:
        embedding: [1+h0·w0,E], the class token's row, then the grid row by row.
        trained_grid: (h0, w0).
        grid: (h, w), the new grid.
        mode: "scale_factor" samples at steps of n0/(n+0.1), as in DINO (https://github.com/facebookresearch/dino) and
            the published CLIPtrase; "output_size" at n0/n; "antialias" at n0/n with antialiasing, as in open_clip and
            GEM, which has another kernel even where the grid grows. The results differ slightly everywhere.
    Returns:
        [1+h·w,E] float32; `embedding` itself if the grids are equal.
    Raises:
        InputError: unknown mode.
    """
    check_choice("mode", mode, RESIZE_MODES)
    if tuple(grid) == tuple(trained_grid):
        return embedding
    (height, width), (trained_height, trained_width) = grid, trained_grid
    patches = embedding[1:].float().reshape(1, trained_height, trained_width, -1).permute(0, 3, 1, 2)  # [1,E,h0,w0]
    # Without the 0.1, the floor of n0·factor could be n-1.
    factor = ((height + 0.1) / trained_height, (width + 0.1) / trained_width)
    target = {"scale_factor": factor} if mode == "scale_factor" else {"size": (height, width)}
    antialias = mode == "antialias"
    patches = F.interpolate(patches, mode="bicubic", align_corners=False, antialias=antialias, **target)  # [1,E,h,w]
    assert patches.shape[2:] == (height, width), f"resized to {tuple(patches.shape[2:])}, not to {(height, width)}"
    return torch.cat([embedding[:1].float(), patches.flatten(2)[0].T])  # [1+N,E]


class ResizedPositions:
    """`resize_position_embedding` with a cache of the latest grids. Resizing takes two milliseconds on a GPU.

    The cache is emptied when the values of the embedding have changed.

    Args:
        trained_grid: (h0, w0).
        mode: see `resize_position_embedding`.
    """

    def __init__(self, trained_grid: tuple[int, int], mode: str):
        self.trained_grid, self.mode = trained_grid, mode
        self._source = torch.empty(0)  # the embedding of the cached grids
        self._cache: dict[tuple[int, int], Tensor] = {}

    def __call__(self, embedding: Tensor, grid: tuple[int, int]) -> Tensor:
        """Resize an embedding [1+h0·w0,E] to a grid (h, w), [1+h·w,E]. Gradients flow if the embedding needs them."""
        needs_gradient = torch.is_grad_enabled() and embedding.requires_grad
        if grid == self.trained_grid or needs_gradient or torch.compiler.is_compiling():
            return resize_position_embedding(embedding, self.trained_grid, grid, self.mode)
        source = self._source
        is_same_kind = (source.device, source.dtype) == (embedding.device, embedding.dtype)
        if not (is_same_kind and torch.equal(source, embedding)):
            self._source, self._cache = embedding.detach().clone(), {}
        if grid not in self._cache:
            if len(self._cache) == _MAX_GRIDS:
                self._cache.pop(next(iter(self._cache)))
            with torch.inference_mode(False):  # autograd rejects inference tensors in a later training
                self._cache[grid] = resize_position_embedding(embedding.detach(), self.trained_grid, grid, self.mode)
        return self._cache[grid]


def position_embedding_by_products(
    embedding: Tensor, trained_grid: tuple[int, int], grid: tuple[int, int], mode: str
) -> Tensor:
    """Compute `resize_position_embedding` by matrix products, for exported towers with a dynamic grid.

    No branch depends on the grid, and no scale factor becomes a constant of the trace.

    Args:
        embedding: [1+h0·w0,E], see `resize_position_embedding`.
        trained_grid: (h0, w0).
        grid: (h, w), integers or the symbols of a trace.
        mode: see `resize_position_embedding`.
    Returns:
        [1+h·w,E] float32, equal up to rounding.
    """
    extra: float | Tensor = 0.0
    patches = embedding[1:].float().reshape(*trained_grid, -1)  # [h0,w0,E]
    counts = [torch.full((), side, dtype=torch.float32, device=patches.device) for side in grid]
    if mode == "scale_factor":
        is_trained = (counts[0] == trained_grid[0]) & (counts[1] == trained_grid[1])
        extra = torch.where(is_trained, 0.0, 0.1)  # the trained grid is not resized
    weigh = _antialiased_weights if mode == "antialias" else _bicubic_weights
    rows, columns = (
        weigh(side, trained, trained / (count + extra))
        for side, trained, count in zip(grid, trained_grid, counts, strict=True)
    )  # [h,h0], [w,w0]
    resized = torch.einsum("hy,wx,yxe->hwe", rows, columns, patches)
    return torch.cat([embedding[:1].float(), resized.flatten(0, 1)])


def _bicubic_weights(count: int, trained: int, step: Tensor) -> Tensor:
    """Return the weights [n,n0] of n0 values in n samples, `step` apart. PyTorch's kernel with clamped borders."""
    position = (torch.arange(count, device=step.device) + 0.5) * step - 0.5  # [n]
    taps = position.floor()[:, None] + torch.arange(-1, 3, device=step.device)  # [n,4]
    distance = (position[:, None] - taps).abs()  # 0 to 2
    weight = _cubic_kernel(distance, _CUBIC)  # [n,4]
    is_hit = taps.clamp(0, trained - 1)[..., None] == torch.arange(trained, device=step.device)  # [n,4,n0]
    return (weight[..., None] * is_hit).sum(1)


def _antialiased_weights(count: int, trained: int, step: Tensor) -> Tensor:
    """Return the weights [n,n0] of n0 values in n samples, `step` apart, with a kernel as wide as the step."""
    position = (torch.arange(count, device=step.device) + 0.5) * step  # [n]
    values = torch.arange(trained, device=step.device) + 0.5  # [n0]
    weight = _cubic_kernel((position[:, None] - values).abs() / step.clamp_min(1), _CUBIC_ANTIALIAS)
    return weight / weight.sum(1, keepdim=True)  # values outside of the grid have no weight


def _cubic_kernel(distance: Tensor, parameter: float) -> Tensor:
    """Return the weight of values at a distance, which is at least 0."""
    near = ((parameter + 2) * distance - (parameter + 3)) * distance.square() + 1
    far = parameter * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
