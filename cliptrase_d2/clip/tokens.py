"""What CLIP's two towers hand over: typed, named, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class VisualTokens:
    """An image batch as CLIP sees it.

    Attributes:
        class_token: [B,D], L2-normalised, in the joint space.
        patches: [B,N,D], L2-normalised, in the joint space, row by row of the grid.
        query, key, value: [B,A,N+1,d] of the block that correlations are read from; token 0 is the class token.
        grid: (h, w) with h·w = N.
    """

    class_token: Tensor
    patches: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    grid: tuple[int, int]


@dataclass(frozen=True)
class TextFeatures:
    """A vocabulary in the joint space.

    Attributes:
        features: [R,D], one L2-normalised row per word (a class has one or more).
        class_index: [R] int64, the class 0 to C-1 of each row; ascending.
        classes: C class names.
    """

    features: Tensor
    class_index: Tensor
    classes: tuple[str, ...]
