"""Label propagation on graphs of patches and pixels.

Source: Stojnić et al., LPOSS, CVPR 2025 (https://arxiv.org/abs/2503.19777).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

_TOLERANCE = 1e-6  # of a solution, relative to the norm of its right-hand side
_VALUES_AT_ONCE = 2**24  # of the similarities of a block of patches
_NEIGHBOURS_AT_ONCE = 2**21  # of the pixels of a band
_MAPS_AT_ONCE = 64  # of pixels; more would not be faster


def propagate(multiply: Callable[[Tensor], Tensor], values: Tensor, alpha: float, steps: int) -> Tensor:
    """Solve (I - α·W)·X = Y approximately, by conjugate gradients that start at zero.

    Every column is solved alone. It is finished after the step in which its residual falls to 1e-6 of its norm. A
    column of zeros stays.

    Args:
        multiply: [N,R] to W·[N,R], W symmetric with eigenvalues in [-1,1].
        values: Y, [N,R].
        alpha: at least 0, below 1.
        steps: ≥ 0.
    Returns:
        X, [N,R].
    """
    solution, residual, direction = torch.zeros_like(values), values.clone(), values.clone()
    power = values.square().sum(0)  # [R]
    goal, is_done = _TOLERANCE**2 * power, power == 0
    for _ in range(steps):
        if is_done.all():
            break
        image = torch.sub(direction, multiply(direction), alpha=alpha)
        length = (power / (direction * image).sum(0)).masked_fill(is_done, 0)
        solution.addcmul_(direction, length)
        residual.addcmul_(image, length, value=-1)
        previous, power = power, residual.square().sum(0)
        is_done |= power <= goal
        direction.mul_((power / previous).masked_fill(is_done, 0)).add_(residual)
    return solution


def patch_graph(features: Tensor, positions: Tensor, neighbours: int, gamma: float, sigma: float) -> Tensor:
    """Return the normalised graph of the nearest neighbours of patches.

    A patch i is joined to the `neighbours` patches j with the largest cosine c, itself among them, by the weight
    max(c, 0)^γ·exp(-σ·distance). The weights of both directions are added. Without its diagonal and with the sums of
    its rows S, the graph is S^(-1/2)·W·S^(-1/2).

    Args:
        features: [N,F] float32, L2-normalised.
        positions: [N,2] float32, in pixels.
        neighbours: more than N mean all.
        gamma: power of the cosine.
        sigma: per pixel.
    Returns:
        [N,N] float64; 0 in the rows of patches without a neighbour. While it is built, memory holds 16·N² bytes.
    """
    count = len(features)
    graph = features.new_zeros(count, count)
    block = max(1, _VALUES_AT_ONCE // count)
    for start in range(0, count, block):
        rows = slice(start, start + block)
        cosines, indices = (features[rows] @ features.T).topk(min(neighbours, count), sorted=False)  # [n,k]
        distances = (positions[rows, None] - positions[indices]).norm(dim=-1)
        graph[rows].scatter_(1, indices, cosines.clamp_min_(0) ** gamma * (-sigma * distances).exp())
    graph = (graph + graph.T).fill_diagonal_(0)
    scale = inverse_root(graph.sum(1))
    return graph.mul_(scale).mul_(scale[:, None]).double()


class PixelGraph:
    """The graph of pixels and their neighbours in a square, with the weights exp(-‖ΔLab‖/τ), normalised.

    Memory holds the weights, side² - 1 numbers a pixel.

    Args:
        lab: [3,H,W] float32, of `rgb_to_lab`.
        tau: unit of the difference of colours.
        side: of the square around a pixel, odd, 3 or more.
    """

    def __init__(self, lab: Tensor, tau: float, side: int):
        _, self.height, self.width = lab.shape
        self.margin = side // 2
        every = product(range(-self.margin, self.margin + 1), repeat=2)
        self.offsets = [offset for offset in every if any(offset)]
        self.band = min(self.height, max(1, _NEIGHBOURS_AT_ONCE // (self.width * len(self.offsets))))
        # Pixels beyond the border are infinitely different, so that their weight is 0.
        padded = F.pad(lab, [self.margin] * 4, value=torch.inf)
        tiny = torch.finfo(lab.dtype).tiny
        self.weights = lab.new_empty(self.height, self.width, len(self.offsets))
        for start in range(0, self.height, self.band):
            stop = min(start + self.band, self.height)
            own, window = lab[:, start:stop], padded[:, start : stop + 2 * self.margin]
            squares = lab.new_empty(len(self.offsets), *own.shape[1:])  # [K,n,W]
            for part, square in zip(self._shift(window, stop - start), squares, strict=True):
                torch.sum((part - own).square_(), 0, out=square)
            weights = squares.sqrt_().div_(-tau).exp_()
            # Subnormal numbers would double the time of a product.
            self.weights[start:stop] = weights.mul_(weights > tiny).permute(1, 2, 0)
        self.scale = inverse_root(self.weights.sum(2))[..., None]  # [H,W,1]
        places = torch.arange((self.band + 2 * self.margin) * (self.width + 2 * self.margin), device=lab.device)
        places = places.int().view(1, self.band + 2 * self.margin, -1)
        self.neighbours = torch.stack([part.flatten() for part in self._shift(places, self.band)], 1)  # [band·W,K]

    def __call__(self, values: Tensor) -> Tensor:
        """Return the product with the values of all pixels, [H·W,R] float32 to [H·W,R]."""
        margin, maps = self.margin, values.view(self.height, self.width, -1)
        padded = maps.new_zeros(self.height + 2 * margin, self.width + 2 * margin, maps.shape[2])
        padded[margin : margin + self.height, margin : margin + self.width] = maps * self.scale
        result = torch.empty_like(maps)
        for start in range(0, self.height, self.band):
            weights = self.weights[start : start + self.band].flatten(0, 1)  # [n·W,K]
            window = padded[start : start + len(weights) // self.width + 2 * margin].flatten(0, 1)
            indices = self.neighbours[: len(weights)]
            # One fused call, several times faster on a CPU than 168 shifted products.
            part = F.embedding_bag(indices, window, per_sample_weights=weights, mode="sum")
            result[start : start + self.band] = part.view(-1, self.width, part.shape[1])
        return result.mul_(self.scale).flatten(0, 1)

    def _shift(self, planes: Tensor, height: int) -> list[Tensor]:
        """Return views of padded planes [C,height+2·margin,W+2·margin], shifted to each neighbour, [C,height,W]."""
        margin = self.margin
        return [
            planes[:, margin + down : margin + down + height, margin + right : margin + right + self.width]
            for down, right in self.offsets
        ]


def propagate_pixels(maps: Tensor, rgb: Tensor, alpha: float, steps: int, tau: float, side: int) -> Tensor:
    """Propagate maps between neighbouring pixels of similar colours.

    Args:
        maps: [R,H,W] float32.
        rgb: [3,H,W] in [0,1].
        alpha, steps: as in `propagate`.
        tau, side: as in `PixelGraph`.
    Returns:
        [R,H,W] float32.
    """
    graph = PixelGraph(rgb_to_lab(rgb), tau, side)
    parts = [propagate(graph, part.flatten(1).T.contiguous(), alpha, steps).T for part in maps.split(_MAPS_AT_ONCE)]
    return torch.cat(parts).view_as(maps)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB in [0,1] to CIE Lab with the white point D65, divided by 100, 128 and 128, [3,H,W] float32."""
    rgb = rgb.float()
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = rgb.new_tensor(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    )
    white = rgb.new_tensor([0.95047, 1.0, 1.08883])
    xyz = torch.tensordot(matrix / white[:, None], linear, dims=1)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp_min(0) ** (1 / 3), 7.787 * xyz + 4 / 29)
    return torch.stack([(116 * y - 16) / 100, 500 * (x - y) / 128, 200 * (y - z) / 128])


def inverse_root(sums: Tensor) -> Tensor:
    """Return 1/√s, and 1 where a sum is 0."""
    return torch.where(sums == 0, 1, sums).rsqrt()
