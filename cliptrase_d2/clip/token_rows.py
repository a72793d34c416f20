"""Sparse token embeddings: a weights file with the rows of the trained tokens only.

CLIP's vocabulary has 49408 tokens. A model that was trained on a few words has learned nothing about the others. Their
rows, which are most of a small model's weights, are zero after loading.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cliptrase_d2.utils.errors import InputError

WEIGHT, TOKEN_IDS = "token_embedding.weight", "token_embedding.token_ids"  # after "text." in CustomTextCLIP


def expand_token_rows(
    tensors: Mapping[str, Tensor], model: Mapping[str, Tensor], file: object
) -> tuple[dict[str, Tensor], str]:
    """Expand a sparse token embedding with rows of zeros.

    Args:
        tensors: the file's weights. May contain rows [U,E] with their token ids [U], integer, strictly increasing.
        model: the model's weights, by the same names.
        file: named in error messages.
    Returns:
        The weights with an embedding [V,E] and without the token ids, and "U of V"; "" if the file is not sparse.
    Raises:
        InputError: the token ids do not fit the rows or the model.
    """
    weight = next(name for name in model if name.endswith(WEIGHT))
    dense = dict(tensors)
    ids = dense.pop(weight.removesuffix(WEIGHT) + TOKEN_IDS, None)
    if ids is None:
        return dense, ""
    rows, vocab_size = dense.get(weight, torch.empty(0)), len(model[weight])
    if problem := _find_problem(ids, rows, vocab_size):
        fix = "Name the model that the file belongs to, or write the file again."
        raise InputError(file, f"{TOKEN_IDS} has {problem}", fix)
    dense[weight] = rows.new_zeros(vocab_size, *rows.shape[1:])
    dense[weight][ids.long()] = rows
    return dense, f"{len(ids)} of {vocab_size}"


def _find_problem(ids: Tensor, rows: Tensor, vocab_size: int) -> str:
    if ids.ndim != 1 or ids.dtype not in (torch.int32, torch.int64):
        return f"{ids.dtype} of shape {list(ids.shape)}"
    if rows.ndim != 2 or len(ids) != len(rows):
        return f"{len(ids)} ids for rows of shape {list(rows.shape)}"
    if (ids.diff() <= 0).any():
        return "ids that do not increase strictly"
    if ((ids < 0) | (ids >= vocab_size)).any():
        return f"ids from {int(ids[0])} to {int(ids[-1])}, outside 0 to {vocab_size - 1}"
    return ""
