"""The contract of a method: CLIP's tokens in, dense features out.

A method is one class in one file. It states what it needs besides the input of CLIP's last block, and returns patch
features in the joint space, on CLIP's grid or its own::

    @register_method("mine")
    class Mine(LastBlockAttention):
        title = "Mine, queries with keys of the same head"
        source = "https://arxiv.org/abs/..."

        def attend(self, x):
            query, key, value = x.qkv()
            return scaled_dot_product_attention(query, key, value)
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeVar

from torch import Tensor

from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, Needs
from cliptrase_d2.utils.errors import InputError


class DenseMethod(ABC):
    """A training-free way to read dense features out of CLIP.

    Images of a batch must not influence one another: the result of a batch equals the results of its images.

    Attributes:
        title: a short description.
        source: where it is described.
        needs: inputs that it reads besides the input of CLIP's last block.
        has_class_token: whether its features have a class token.
    """

    title: ClassVar[str]
    source: ClassVar[str]
    needs: Needs = Needs()
    has_class_token: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, x: ImageTokens) -> DenseFeatures:
        """Compute the dense features of a batch."""


class LastBlockAttention(DenseMethod):
    """A method that replaces the attention of CLIP's last block.

    Attributes:
        residual: whether the block keeps the residual connection around its attention.
        mlp: whether it keeps its MLP, with its own residual connection.
    """

    residual: ClassVar[bool] = True
    mlp: ClassVar[bool] = True

    @abstractmethod
    def attend(self, x: ImageTokens) -> Tensor:
        """Return the output that replaces that of the attention, [B,A,T,d]."""

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        """Run the last block with the method's attention."""
        return x.to_features(x.finish_block(self.attend(x), residual=self.residual, mlp=self.mlp))


_Method = TypeVar("_Method", bound=type[DenseMethod])
DENSE_METHODS: dict[str, type[DenseMethod]] = {}


def register_method(name: str) -> Callable[[_Method], _Method]:
    """Return a decorator that makes a class known to `get_method` and MODEL.CLIPTRASE.METHOD.

    Registering a name again replaces the earlier class.
    """

    def register(method: _Method) -> _Method:
        DENSE_METHODS[name] = method
        return method

    return register


def get_method(name: str) -> DenseMethod:
    """Return a method by its name, with its default options.

    Raises:
        InputError: the name is unknown.
    """
    if name not in DENSE_METHODS:
        close = difflib.get_close_matches(name, DENSE_METHODS, n=1)
        fix = f"Did you mean {close[0]!r}?" if close else "Use one of these, or import the module that registers it."
        raise InputError("method", f"unknown method {name!r}", fix, allowed=", ".join(DENSE_METHODS))
    return DENSE_METHODS[name]()
