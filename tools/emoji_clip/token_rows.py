"""Sparse token embeddings: the weights file of a model that was trained with a few tokens of CLIP's vocabulary."""

from __future__ import annotations

import torch
from open_clip.model import CLIP
from torch import Tensor

from cliptrase_d2.clip.token_rows import TOKEN_IDS, WEIGHT


def sparse_state_dict(model: CLIP, token_ids: Tensor) -> dict[str, Tensor]:
    """Return a model's weights in half precision, for `safetensors.torch.save_file`. `load_clip` reads them.

    Args:
        model: built for a vocabulary of U tokens, those of its training.
        token_ids: [U], their ids in CLIP's vocabulary, strictly increasing.
    """
    state = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in model.state_dict().items()}
    weight = next(name for name in state if name.endswith(WEIGHT))
    state[weight.removesuffix(WEIGHT) + TOKEN_IDS] = token_ids.to("cpu", torch.int32)
    return state
