"""Results of models that several methods of one evaluation read, computed once for each image."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar
from weakref import ref

import torch
from torch import Tensor, nn

Result = TypeVar("Result")
LIMIT = 2**30  # bytes of the results that are kept


class _Kept(NamedTuple):
    result: Any
    size: int  # in bytes
    seconds: float  # of computing it


class SharedResults:
    """The last results of models, without the oldest ones beyond a size.

    A result is found by the model object, the versions of its weights, the precision, a name for the kind of result,
    and the bytes of the images. Results must not be changed in place.

    Args:
        limit: in bytes. A larger result is not kept.

    Attributes:
        saved: seconds that computing the kept results anew would have taken, whenever one was returned.
    """

    def __init__(self, limit: int = LIMIT):
        self.limit, self.size, self.saved = limit, 0, 0.0
        self.parts: dict[Hashable, frozenset[int]] = {}  # of each kind, all that were asked for
        self._results: OrderedDict[Hashable, _Kept] = OrderedDict()

    def get(self, model: nn.Module, kind: Hashable, images: Tensor, compute: Callable[[], Result]) -> Result:
        """Return a kept result, or compute and keep it."""
        key = (_identify(model), kind, _identify_images(images))
        if key in self._results:
            self._results.move_to_end(key)
            kept = self._results[key]
            self.saved += kept.seconds
            result: Result = kept.result
            return result
        start = time.monotonic()
        result = compute()
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        size = _count_bytes(result)
        if size <= self.limit:
            self._results[key] = _Kept(result, size, time.monotonic() - start)
            self.size += size
        while self.size > self.limit:
            self.size -= self._results.popitem(last=False)[1].size
        return result

    def clear(self) -> None:
        """Forget all results."""
        self._results.clear()
        self.size = 0


_shared: ContextVar[SharedResults | None] = ContextVar("shared_results", default=None)


@contextmanager
def share_results(limit: int = LIMIT) -> Iterator[SharedResults]:
    """Keep results of `compute_once` in memory until the context ends."""
    results = SharedResults(limit)
    token = _shared.set(results)
    try:
        yield results
    finally:
        _shared.reset(token)


def compute_once(model: nn.Module, kind: Hashable, images: Tensor, compute: Callable[[], Result]) -> Result:
    """Return the result of a model for images, computed once within `share_results` and every time outside.

    Args:
        model: whose weights and settings determine the result. They must be the same as long as the object is.
        kind: all other things that determine it.
        images: input of the model.
        compute: the result: a tensor, or a sequence, a dict or a dataclass with tensors.
    """
    results = _shared.get()
    return compute() if results is None else results.get(model, kind, images, compute)


def collect_parts(model: nn.Module, kind: Hashable, parts: frozenset[int]) -> frozenset[int]:
    """Return all parts of a kind of result that were asked for within `share_results`; outside only these parts.

    A result with all of them serves every method. It is computed anew when a method first asks for another part.

    Args:
        model: of the result.
        kind: of the parts.
        parts: that are needed now.
    """
    results = _shared.get()
    if results is None:
        return parts
    key = (ref(model), kind)
    results.parts[key] = results.parts.get(key, frozenset()) | parts
    return results.parts[key]


def count_saved_seconds() -> float:
    """Return the seconds that `share_results` has saved so far, 0 outside."""
    results = _shared.get()
    return 0.0 if results is None else results.saved


def forget_results() -> None:
    """Release the memory of the results that are kept."""
    results = _shared.get()
    if results is not None:
        results.clear()


def _identify(model: nn.Module) -> Hashable:
    """Return a key that changes with every change of a weight in place."""
    weights = [weight for weight in model.parameters() if not weight.is_inference()]  # others have no version
    return ref(model), tuple((weight.data_ptr(), weight._version) for weight in weights)


def _identify_images(images: Tensor) -> Hashable:
    kind = images.device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    pixels = images.detach().cpu().contiguous().view(torch.uint8).numpy().data
    return images.shape, images.dtype, images.device, precision, hashlib.sha256(pixels).digest()


def _count_bytes(value: Any) -> int:
    """Return the bytes of memory that a result holds. Views of one tensor hold it once."""
    storages = [tensor.untyped_storage() for tensor in _tensors(value)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif dataclasses.is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in dataclasses.fields(value)])
