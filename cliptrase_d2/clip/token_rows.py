"""A weights file with a sparse token embedding: it holds the rows of the tokens that training met, and no others.

CLIP's vocabulary has 49408 tokens. A model that was trained on a few words has learnt nothing of the rest, and
their rows, which are most of a small model's numbers, are zero once loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from open_clip.model import CLIP
from torch import Tensor

from cliptrase_d2.utils.errors import InputError

# With the prefix "text." in CustomTextCLIP.
WEIGHT, TOKEN_IDS = "token_embedding.weight", "token_embedding.token_ids"


def expand_token_rows(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: object
) -> tuple[dict[str, Tensor], str]:
    """Fill up a token embedding with rows of zeros, where it is stored with the numbers of its tokens.

    Args:
        tensors: a file's weights; may hold rows [U,E] and their token numbers [U], integer, strictly increasing.
        wanted: the model's weights, by the same names.
        where: the file, for error messages.
    Returns:
        The weights with an embedding [V,E] and without the token numbers, and "U of V"; "" for a file of all rows.
    Raises:
        InputError: the token numbers do not fit the rows or the model.
    """
    weight = next(name for name in wanted if name.endswith(WEIGHT))
    dense = dict(tensors)
    ids = dense.pop(weight.removesuffix(WEIGHT) + TOKEN_IDS, None)
    if ids is None:
        return dense, ""
    rows = dense.get(weight, torch.empty(0))
    vocab_size = len(wanted[weight])
    _check(ids, rows, vocab_size, where)
    dense[weight] = rows.new_zeros(vocab_size, *rows.shape[1:])
    dense[weight][ids.long()] = rows
    return dense, f"{len(ids)} of {vocab_size}"


def sparse_state_dict(model: CLIP, token_ids: Tensor) -> dict[str, Tensor]:
    """The inverse: a model's weights in half precision, ready for `safetensors.torch.save_file`.

    Args:
        model: built for a vocabulary of U tokens, those that training can meet.
        token_ids: [U] their numbers in CLIP's vocabulary, strictly increasing.
    """
    state = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in model.state_dict().items()}
    weight = next(name for name in state if name.endswith(WEIGHT))
    state[weight.removesuffix(WEIGHT) + TOKEN_IDS] = token_ids.to("cpu", torch.int32)
    return state


def _check(ids: Tensor, rows: Tensor, vocab_size: int, where: object) -> None:
    found = _fault(ids, rows, vocab_size)
    if found:
        raise InputError(
            where,
            f"{TOKEN_IDS} with {found}",
            "Name the model that the file belongs to, or write the file again.",
            allowed=f"one number for each row of {WEIGHT}, strictly increasing, 0 to {vocab_size - 1}",
        )


def _fault(ids: Tensor, rows: Tensor, vocab_size: int) -> str:
    if ids.ndim != 1 or ids.dtype not in (torch.int32, torch.int64):
        return f"{ids.dtype} of shape {list(ids.shape)}"
    if rows.ndim != 2 or len(ids) != len(rows):
        return f"{len(ids)} numbers for rows of shape {list(rows.shape)}"
    if (ids.diff() <= 0).any():
        return "numbers that do not increase"
    if ((ids < 0) | (ids >= vocab_size)).any():
        return f"the numbers {int(ids[0])} to {int(ids[-1])}"
    return ""
