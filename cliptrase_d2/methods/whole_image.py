"""One image with everything that a method of whole images can ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens, Needs, TextFeatures
from cliptrase_d2.methods.word_maps import Size, WindowAxis, cut_windows


class EncodeViews(Protocol):
    """Runs CLIP's image tower on views of an image, about a megapixel at a time, and reads their tokens.

    The tower and `read` run in the precision of the model.

    Args:
        views: [n,3,H,W] normalised. A remainder beyond the last whole patches is left out.
        read: the tokens of some views, [n',…], with the features of a second vision model where the method needs them,
            to one or more tensors, each [n',…].
        needs: hidden states, q, k and v to keep; None for the needs of the method.
    Returns:
        The tensors of all views, each [n,…].
    """

    def __call__(
        self, views: Tensor, read: Callable[[ImageTokens], tuple[Tensor, ...]], needs: Needs | None = None
    ) -> tuple[Tensor, ...]: ...


class HeadAttention(Protocol):
    """The last attention of SAM's image encoder for one image, M patches on a grid (h, w), without padding."""

    @property
    def grid(self) -> Size:
        """(h, w), h·w = M."""

    @property
    def values(self) -> Tensor:
        """The values of every head, [A,h,w,d]."""

    def attend(self, head: int) -> Tensor:
        """Return the attention of one head, [M,M] float32. A row has the sum 1 minus its attention to the padding."""


@dataclass(frozen=True, eq=False)
class WholeImage:
    """One image, its words, and functions that encode parts of it.

    Attributes:
        pixels: [3,H,W] normalised, in the size that the protocol gives it, with any number of pixels.
        size: (H', W') of the result, which is that of the photograph.
        text: the words, those of the background first.
        patch_size: side of CLIP's patches in pixels.
        encode: runs the image tower on views, which the method cuts out of `pixels` and may resize.
        tower: the operations of the image tower, without tokens, to finish values that `encode` returned.
        fixed_side: side of the only square that the tower reads, in pixels; None if it reads any size.
        black: [3,1,1], the normalised value of a black pixel.
        score: features […,D], L2-normalised, to the values of all words, […,R]: cosines, or the logits of SigLIP 2.
        windows: rows and columns of the protocol's windows; None from a method without `reads_windows`.
        photograph: [3,H',W'] uint8 RGB; None from a method whose needs do not name it.
        masks: [K,H',W'] mask logits of any real type, above 0 inside, which may overlap and leave pixels out; None from
            a method that needs no regions.
        vision_model: the second vision model of a method that needs one, for other images than the views.
        rgb: [3,H,W] uint8, the image that `pixels` are normalised from.
        read_sam: runs SAM on an image [3,H'',W''] uint8 RGB; None from a method that does not need it.
    """

    pixels: Tensor
    size: Size
    text: TextFeatures
    patch_size: int
    encode: EncodeViews
    tower: ImageTokens
    fixed_side: int | None
    black: Tensor
    score: Callable[[Tensor], Tensor]
    windows: tuple[WindowAxis, WindowAxis] | None = None
    photograph: Tensor | None = None
    masks: Tensor | None = None
    vision_model: Callable[..., Any] | None = None
    rgb: Tensor | None = None
    read_sam: Callable[[Tensor], HeadAttention] | None = None

    def cut_windows(self) -> Tensor:
        """Return the protocol's windows, [K,3,h,w] normalised, row by row."""
        assert self.windows is not None, "the method must declare reads_windows"
        return cut_windows(self.pixels[None], *self.windows)
