"""Values of words over an image, which are read row by row at any size, and the windows that they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
# Returns the values of all words in the rows start to stop - 1, [n,R,W] float32.
ReadRows = Callable[[int, int], Tensor]
_VALUES_AT_ONCE = 2**24  # of maps whose extremes are computed
_ABSENT = -1e4  # the value of a word that another one of its class stands for


class WordValues(ABC):
    """The values of all words, R, at every place of an image."""

    @abstractmethod
    def reader(self, size: Size) -> ReadRows:
        """Return a function that computes rows of the values at a size (H, W)."""

    def at(self, size: Size) -> Tensor:
        """Return the values at a size (H, W), [R,H,W] float32."""
        return self.reader(size)(0, size[0]).movedim(1, 0)


@dataclass(frozen=True)
class WindowAxis:
    """One axis of the windows of an image.

    Attributes:
        length: pixels of the image.
        starts: the first pixel of each window. The last window ends at the border.
        side: pixels of a window.
        padded: pixels of a window with its padding, half of which, rounded down, comes first.
        patch: pixels of a patch. Patches cover a window from its start. The remainder has no patch.
        is_direct: whether the points of the only window are stretched over the result in one step.
        points: grid points of a window; by default its patches.
    """

    length: int
    starts: tuple[int, ...]
    side: int
    padded: int
    patch: int
    is_direct: bool
    points: int = 0

    @property
    def before(self) -> int:
        """Pixels of the padding before a window."""
        return (self.padded - self.side) // 2

    def crop(self, images: Tensor, start: int, axis: int) -> Tensor:
        """Return the pixels of a window along an axis of images, with zeros for the padding."""
        part = images.narrow(axis, start, self.side)
        after = self.padded - self.side - self.before
        if self.padded > self.side:
            part = F.pad(part, [0, 0] * (part.dim() - 1 - axis) + [self.before, after])
        return part


@dataclass(frozen=True)
class WordMaps(WordValues):
    """The values of all words on grids whose rows and columns are stretched independently.

    Attributes:
        values: [m,R,k] float32, the points of all windows along both axes.
        rows, columns: the axes.
    """

    values: Tensor
    rows: WindowAxis
    columns: WindowAxis

    @classmethod
    def of_windows(cls, values: Tensor, rows: WindowAxis, columns: WindowAxis) -> WordMaps:
        """Return the mean of the windows of an image.

        Args:
            values: [K,R,h,w] float32 of every window, row by row.
            rows, columns: of the windows. Their points become those of the values.
        """
        rows, columns = replace(rows, points=values.shape[2]), replace(columns, points=values.shape[3])
        windows = values.unflatten(0, (len(rows.starts), len(columns.starts)))  # [I,J,R,h,w]
        return cls(windows.permute(0, 3, 2, 1, 4).flatten(3).flatten(0, 1), rows, columns)  # [I·h,R,J·w]

    @classmethod
    def of_grid(cls, values: Tensor) -> WordMaps:
        """Return maps of one grid over the whole image, [R,h,w] float32, resized bilinearly in one step."""
        axes = (WindowAxis(points, (0,), points, points, 1, True, points) for points in values.shape[1:])
        return cls(values.movedim(1, 0), *axes)

    def reader(self, size: Size) -> ReadRows:
        """Return a function that computes rows of the maps at a size (H, W)."""
        down = stretch(self.rows, size[0])  # [H,m] on the CPU
        wide = self.values @ stretch(self.columns, size[1]).T.to(self.values)  # [m,R,W]

        def read(start: int, stop: int) -> Tensor:
            used = down[start:stop].any(0).nonzero()[:, 0]
            first, end = int(used[0]), int(used[-1]) + 1
            weights = down[start:stop, first:end].to(wide)
            return (weights @ wide[first:end].flatten(1)).unflatten(1, wide.shape[1:])  # [n,R,W]

        return read

    def at(self, size: Size) -> Tensor:
        """Return the maps at a size (H, W), [R,H,W]."""
        wide = self.values.transpose(0, 1) @ stretch(self.columns, size[1]).T.to(self.values)  # [R,m,W]
        return stretch(self.rows, size[0]).to(wide) @ wide

    def min_max(self) -> WordMaps:
        """Return the maps with each word scaled to 0 to 1 over the pixels of the resized image."""
        size = (self.rows.length, self.columns.length)
        read, words = self.reader(size), self.values.shape[1]
        count = max(1, _VALUES_AT_ONCE // (words * size[1]))
        bands = (read(start, min(start + count, size[0])) for start in range(0, size[0], count))
        extremes = torch.stack([torch.stack([band.amin((0, 2)), band.amax((0, 2))]) for band in bands])  # [bands,2,R]
        least, greatest = extremes[:, 0].amin(0)[:, None], extremes[:, 1].amax(0)[:, None]  # [R,1]
        # Scaling the points scales the pixels equally: each is a mean of points.
        span = (greatest - least).clamp_min(torch.finfo(least.dtype).tiny)
        return replace(self, values=(self.values - least) / span)


@dataclass(frozen=True)
class ClassMaps(WordValues):
    """Maps whose words are joined to classes at one size, by the largest value of each pixel, and then resized.

    The first word of a class takes its value. The others have a value that no softmax notices.

    Attributes:
        maps: of the words.
        class_index: [R] int64, the class 0 to C-1 of each word, ascending.
        size: (H, W) at which words are joined.
    """

    maps: WordValues
    class_index: Tensor
    size: Size

    def reader(self, size: Size) -> ReadRows:
        """Return a function that computes rows of the maps at a size (H', W')."""
        read_words = self.maps.reader(self.size)
        down, right = (interpolation(*pair).float() for pair in zip(self.size, size, strict=True))  # [H',H], [W',W]
        is_first = self.class_index.diff(prepend=self.class_index.new_tensor([-1])) > 0  # [R]

        def read(start: int, stop: int) -> Tensor:
            used = down[start:stop].any(0).nonzero()[:, 0]
            first, end = int(used[0]), int(used[-1]) + 1
            words = read_words(first, end)  # [n,R,W]
            index = self.class_index[:, None].expand_as(words)
            classes = words.new_full((len(words), int(is_first.sum()), words.shape[2]), -torch.inf)
            classes.scatter_reduce_(1, index, words, "amax")
            wide = classes @ right.T.to(words)  # [n,C,W']
            result = words.new_full((stop - start, len(is_first), size[1]), _ABSENT)
            rows = down[start:stop, first:end].to(words) @ wide.flatten(1)
            result[:, is_first] = rows.unflatten(1, wide.shape[1:])
            return result

        return read


def cut_windows(images: Tensor, rows: WindowAxis, columns: WindowAxis) -> Tensor:
    """Cut windows out of images, [B,3,H,W] to [B·K,3,H',W'], all windows of the first image first.

    The remainder behind the last whole patch is left out, as CLIP's convolution does.
    """
    parts = [
        columns.crop(rows.crop(images, top, 2), left, 3) for top in rows.starts for left in columns.starts
    ]  # each [B,3,H',W']
    return torch.stack(parts, dim=1).flatten(0, 1)


@lru_cache(maxsize=64)  # the images of a data set have few sizes
@torch.inference_mode(False)  # training cannot use inference tensors that an evaluation has cached
def stretch(axis: WindowAxis, size: int) -> Tensor:
    """Return the matrix from the points of all windows to the pixels of a result, [size,K·points] float32 on the CPU.

    Points are upsampled to the window, its padding is cut off, windows are averaged at every pixel, and the image is
    resized. Each row sums to 1.
    """
    if axis.is_direct:
        return interpolation(axis.points, size).float()
    inside = interpolation(axis.points, axis.padded)[axis.before : axis.before + axis.side]  # [side,points]
    mean = inside.new_zeros(axis.length, len(axis.starts), axis.points)
    for window, start in enumerate(axis.starts):
        mean[start : start + axis.side, window] = inside
    mean = mean.flatten(1) / mean.sum((1, 2))[:, None]  # by the number of windows
    return (interpolation(axis.length, size) @ mean).float()


def interpolation(points: int, size: int) -> Tensor:
    """Return the matrix of PyTorch's linear interpolation with align_corners off, [size,points] float64."""
    return F.interpolate(torch.eye(points)[None], size, mode="linear", align_corners=False)[0].T.double()
