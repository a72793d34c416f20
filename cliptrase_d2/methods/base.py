"""The contracts of methods: CLIP's tokens in, dense features out; or a whole image in, values of all words out.

A method is one class in one file. It states what it needs. A `DenseMethod` reads the tokens of images or windows, and
returns patch features in the joint space, on CLIP's grid or its own::

    @register_method("mine")
    class Mine(LastBlockAttention):
        title = "Mine, queries with keys of the same head"
        source = "https://arxiv.org/abs/..."

        def attend(self, x):
            query, key, value = x.qkv()
            return scaled_dot_product_attention(query, key, value)

An `ImageMethod` sees one image at a time, cuts and encodes its parts itself, and returns the values of all words.

The arguments of the constructor are the options, which MODEL.CLIPTRASE.METHOD_OPTIONS sets by name.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, Needs
from cliptrase_d2.methods.options import construct
from cliptrase_d2.methods.whole_image import WholeImage
from cliptrase_d2.methods.word_maps import WordValues
from cliptrase_d2.utils.errors import InputError, check_range


class Method(ABC):
    """What the two kinds of methods share.

    Attributes:
        title: a short description.
        source: where it is described.
        needs: inputs that it reads besides the input of CLIP's last block.
        has_class_token: whether it returns features with a class token.
        vision_model: the second vision model by default, a ViT of timm, for a method that needs one.
        towers: kinds of image towers that it can read, "clip" or "siglip2".
    """

    title: ClassVar[str]
    source: ClassVar[str]
    needs: Needs = Needs()
    has_class_token: ClassVar[bool] = False
    vision_model: ClassVar[str] = ""
    towers: ClassVar[tuple[str, ...]] = ("clip",)


class DenseMethod(Method):
    """A training-free way to read dense features out of CLIP.

    Images of a batch must not influence one another: the result of a batch equals the results of its images.
    """

    has_class_token: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, x: ImageTokens) -> DenseFeatures:
        """Compute the dense features of a batch."""

    @property
    def refines_logits(self) -> bool:
        """Whether `refine_logits` changes the logits, with the options of this instance."""
        return type(self).refine_logits is not DenseMethod.refine_logits

    def refine_logits(self, logits: Tensor, features: DenseFeatures, size: tuple[int, int]) -> Tensor:
        """Return the logits that decide; by default those of the features.

        Args:
            logits: [B,R,h,w] of every word, CLIP's scale times the cosine.
            features: of the whole images.
            size: (H, W) of the result, to which logits are upsampled bilinearly.
        """
        return logits


class LastBlockAttention(DenseMethod):
    """A method that replaces the attention of CLIP's last blocks.

    Args:
        residual: whether the last block keeps the residual connection around its attention; None for the attribute of
            the class.
        mlp: whether it keeps its MLP, with its own residual connection; None for the attribute of the class.
        blocks: number of blocks with the method's attention, counted from the last, ≥ 1; more than the tower has means
            all. All blocks but the last keep residual connection and MLP.
    Attributes:
        residual, mlp: as the arguments.
    """

    residual: bool = True
    mlp: bool = True

    def __init__(self, residual: bool | None = None, mlp: bool | None = None, blocks: int = 1):
        check_range("blocks", blocks, blocks >= 1, "1 or more")
        self.residual = self.residual if residual is None else residual
        self.mlp = self.mlp if mlp is None else mlp
        self.blocks = blocks
        if blocks > 1:
            self.needs = replace(self.needs, hidden_states=range(-blocks, 0))

    @abstractmethod
    def attend(self, x: ImageTokens) -> Tensor:
        """Return the output that replaces that of the attention, [B,A,T,d]."""

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        """Run the last blocks with the method's attention."""
        first = max(0, x.depth - self.blocks)
        tokens = x.hidden_state(first)
        for block in range(first, x.depth - 1):
            inputs = x.replace_block(block, tokens)
            tokens = inputs.finish_block(self.attend(inputs))
        if self.blocks > 1:
            x = x.replace_block(x.depth - 1, tokens)
        return x.to_features(x.finish_block(self.attend(x), residual=self.residual, mlp=self.mlp))


class ImageMethod(Method):
    """A training-free way to label a whole image, with an answer that one window or one grid of patches cannot give.

    It runs within the published protocol, which decides by its values. Of `needs`, `regions` stands for
    `WholeImage.masks` and `photograph` for `WholeImage.photograph`.

    Attributes:
        reads_windows: whether it reads the windows of the protocol. TEST.WINDOW has no meaning for the others.
        pads_windows: whether it pads windows to whole patches itself, so that they may be smaller than a patch.
    """

    reads_windows: ClassVar[bool] = False
    pads_windows: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: WholeImage) -> WordValues:
        """Compute the values of all words, such as cosines, at every place of an image."""


_Method = TypeVar("_Method", bound=type[Method])
DENSE_METHODS: dict[str, type[DenseMethod]] = {}
IMAGE_METHODS: dict[str, type[ImageMethod]] = {}
_REGISTRIES: tuple[tuple[type[Method], MutableMapping[str, Any]], ...] = (
    (DenseMethod, DENSE_METHODS),
    (ImageMethod, IMAGE_METHODS),
)
# All methods, those of windows first.
METHOD_CLASSES: Mapping[str, type[DenseMethod | ImageMethod]]
METHOD_CLASSES = ChainMap(IMAGE_METHODS, DENSE_METHODS)  # type: ignore[arg-type]


def register_method(name: str) -> Callable[[_Method], _Method]:
    """Return a decorator that makes a class known to `get_method` and MODEL.CLIPTRASE.METHOD.

    Registering a name again replaces the earlier class.
    """

    def register(method: _Method) -> _Method:
        for kind, registry in _REGISTRIES:
            registry.pop(name, None)
            if issubclass(method, kind):
                registry[name] = method
        return method

    return register


def get_method(name: str, options: Mapping[str, object] | None = None) -> DenseMethod | ImageMethod:
    """Return a method by its name.

    Args:
        name: of a registered method.
        options: arguments of its constructor by name; the others have their defaults.
    Raises:
        InputError: the name or an option is unknown, or an option has a wrong value.
    """
    if name not in METHOD_CLASSES:
        close = difflib.get_close_matches(name, METHOD_CLASSES, n=1)
        fix = f"Did you mean {close[0]!r}?" if close else "Use one of these, or import the module that registers it."
        raise InputError("method", f"unknown method {name!r}", fix, allowed=", ".join(METHOD_CLASSES))
    return construct(name, METHOD_CLASSES[name], options or {})


def get_dense_method(name: str, options: Mapping[str, object] | None = None) -> DenseMethod:
    """Return a method that reads patch features out of CLIP.

    Raises:
        InputError: as `get_method`, or the method labels whole images.
    """
    method = get_method(name, options)
    if isinstance(method, ImageMethod):
        got = f"{name!r}, which labels whole images and has no patch features to read"
        raise InputError("method", got, "Choose another method.", allowed=", ".join(DENSE_METHODS))
    return method
