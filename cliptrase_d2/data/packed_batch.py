"""Carries what a process has read to another one in a single piece of shared memory.

PyTorch hands tensors over one by one, each with a file of its own that the receiver asks the sender for: half a
millisecond for every one of them, in the process that has a GPU to keep busy.
"""

from __future__ import annotations

import pickle  # nosec B403  # of what a process of this package has made itself
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cliptrase_d2.utils.errors import InputError

_ALIGNMENT = 64  # bytes, of the beginning of every tensor


@dataclass(frozen=True)
class BadRecord:
    """A record that could not be read, in the place of its input."""

    file_name: str
    error: InputError


Item = dict[str, Any] | BadRecord


@dataclass(frozen=True)
class PackedBatch:
    """Some inputs of a model, ready to be handed over.

    Attributes:
        head: all of them but the values of their tensors.
        spans: beginning and end of each tensor among the values.
        values: uint8.
    """

    head: bytes
    spans: list[tuple[int, int]]
    values: Tensor

    @classmethod
    def of(cls, batch: list[Item]) -> PackedBatch:
        """Pack inputs; the values of their tensors are copied."""
        pieces: list[pickle.PickleBuffer] = []
        arrays = [_as_arrays(item) for item in batch]
        head = pickle.dumps(arrays, protocol=5, buffer_callback=pieces.append)
        spans, end = [], 0
        bytes_of = [np.frombuffer(piece.raw(), dtype=np.uint8) for piece in pieces]
        for piece in bytes_of:
            spans.append((end, end + len(piece)))
            end += -(-len(piece) // _ALIGNMENT) * _ALIGNMENT
        values = torch.empty(end, dtype=torch.uint8)
        for (first, last), piece in zip(spans, bytes_of, strict=True):
            values.numpy()[first:last] = piece
        return cls(head, spans, values)

    def unpack(self) -> list[Item]:
        """The same inputs; their tensors are views of one piece of memory."""
        pieces = [self.values.numpy()[first:last] for first, last in self.spans]
        return [_as_tensors(item) for item in pickle.loads(self.head, buffers=pieces)]  # nosec B301  # packed by `of`


def _as_arrays(item: Item) -> Item:
    if isinstance(item, BadRecord):
        return item
    return {key: value.contiguous().numpy() if isinstance(value, Tensor) else value for key, value in item.items()}


def _as_tensors(item: Item) -> Item:
    if isinstance(item, BadRecord):
        return item
    return {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in item.items()}
