"""Copies of the class token, each of which sees a part of the patches."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens


def run_class_tokens(x: ImageTokens, is_visible: Tensor) -> Tensor:
    """Run copies of the class token through all blocks, [B,K,E].

    A copy attends to the class token and to the patches that it sees, and not to itself. All other tokens are those of
    the tower, since none attends to a copy.

    Args:
        x: tokens of the batch with hidden state 0 and q, k, v of all blocks.
        is_visible: [B,K,N] bool, the patches that each copy sees.
    """
    mask = F.pad(is_visible, (1, 0), value=True)[:, None]  # [B,1,K,T]
    tokens = x.class_token(0)[:, None].expand(-1, is_visible.shape[1], -1)
    for block in range(x.depth):
        _, key, value = x.qkv(block)
        query = x.project_qkv(tokens, block)[0]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        tokens = x.finish_block(attended, x=tokens, block=block)
    return tokens
