"""DIH-CLIP: SC-CLIP without repair, with the attention of selected heads over all channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens, Needs
from cliptrase_d2.methods.base import register_method
from cliptrase_d2.methods.scclip import SCCLIP, Branches, Detector, at_depth
from cliptrase_d2.utils.errors import check_range

Attention = Callable[[int], Tensor]  # number of a head -> its attention [B,T,T]
_EPSILON = 1e-6  # in the logarithm of the entropy


@register_method("dih_clip")
@dataclass(eq=False)
class DIHCLIP(SCCLIP):
    """SC-CLIP with selective head attention, as DIH-CLIP's published code computes it.

    A head is selected if the entropy of its attention, -Σ p·log2(p + 1e-6) over all pairs of tokens, is one of the
    lowest ``heads`` of its layer. The attention of each selected head applies to the values of all heads. The sum over
    these heads passes the output projection. The differences to `SCCLIP`:

    - No outliers are repaired.
    - S are the cosines of x_9 + a, where a is the output for softmax(k·kᵀ/√d) of block 9. Its heads are selected by the
      entropy of the trained attention, softmax(q·kᵀ/√d).
    - In the last block, heads are selected by the entropy of W, and the sum is divided by the number of all heads.

    Cost: as `SCCLIP`, and explicit attention matrices of all heads, one at a time, in block 9 and in both branches.

    Args: as `SCCLIP`, with other defaults, and
        heads: number of selected heads, ≥ 1.
    """

    title = "DIH-CLIP, selected heads over all channels"
    source = "https://github.com/duan-song/DiH-CLIP"

    outliers: Detector = "none"
    attention: Branches = "kk"
    level_attention: Branches = "kk"
    heads: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("heads", self.heads, self.heads >= 1, "1 or more")
        # q, k and v of all blocks up to this one, since a shallow tower takes a lower one.
        self.needs = Needs(self.needs.hidden_states, qkv=range(self.similarity_block))

    def get_similarity_patches(self, x: ImageTokens) -> Tensor:
        """Return the patches of x_9 with the output of the selected heads, [B,N,E]."""
        number = at_depth(self.similarity_block, x.depth)
        query, key, value = x.qkv(number - 1)  # each [B,A,T,d]

        def attend_to_keys(head: int) -> Tensor:
            return _softmax_of_products(key[:, head], key[:, head])

        def attend_as_trained(head: int) -> Tensor:
            return _softmax_of_products(query[:, head], key[:, head])

        selected = select_heads(measure_entropies(attend_as_trained, value.shape[1]), self.heads)
        attended = mix_heads(attend_to_keys, value, selected)
        tokens = x.finish_block(attended, block=number - 1, residual=False, mlp=False)
        return (x.hidden_state(number) + tokens)[:, 1:]

    def attend(self, x: ImageTokens, patches: Tensor, weights: Tensor, class_token: Tensor, branches: str) -> Tensor:
        """Run the last block with the selected heads, as in `SCCLIP.attend`."""
        query, key, value = x.project_qkv(patches)  # each [B,A,N,d]
        own = [part for name, part in (("qq", query), ("kk", key)) if name in branches.split("+")]

        share = 1 / (1 + len(own))
        shared = share * weights

        def mix(head: int) -> Tensor:
            total = shared
            for part in own:
                total = torch.add(total, _softmax_of_products(part[:, head], part[:, head]), alpha=share)
            return total

        selected = select_heads(measure_entropies(mix, value.shape[1]), self.heads)
        attended = mix_heads(mix, value, selected) / value.shape[1]
        return x.finish_block(attended, residual=False, mlp=False) + self.class_token * class_token


def measure_entropies(attention: Attention, heads: int) -> Tensor:
    """Return the entropy of every head's attention over all pairs of tokens, in bits, [B,A]."""
    # One head at a time, since the attention of all heads may not fit into memory.
    parts = (attention(head) for head in range(heads))
    return torch.stack([-(part + _EPSILON).log2_().mul_(part).sum((1, 2)) for part in parts], dim=1)


def select_heads(entropies: Tensor, count: int) -> Tensor:
    """Return which heads have the ``count`` lowest entropies, [B,A] to [B,A] bool. Equal ones are selected together."""
    highest = entropies.sort(dim=1).values[:, min(count, entropies.shape[1]) - 1]  # [B]
    return entropies <= highest[:, None]


def mix_heads(attention: Attention, value: Tensor, selected: Tensor) -> Tensor:
    """Apply the sum of the selected heads' attention to the values of all heads.

    Args:
        attention: of each head.
        value: [B,A,T,d].
        selected: [B,A] bool.
    Returns:
        [B,A,T,d].
    """
    heads = selected.any(0).nonzero().flatten().tolist()
    parts = (attention(head) * selected[:, head, None, None] for head in heads)  # each [B,T,T]
    total = sum(parts, torch.zeros((), dtype=value.dtype, device=value.device))
    mixed = total @ value.transpose(1, 2).flatten(2)  # [B,T,A·d]
    return mixed.unflatten(2, (value.shape[1], -1)).transpose(1, 2)


def _softmax_of_products(first: Tensor, second: Tensor) -> Tensor:
    """Return softmax(first·secondᵀ/√d) of one head, [B,T,d] to [B,T,T]."""
    products = (first.shape[-1] ** -0.5 * first) @ second.transpose(1, 2)
    return torch.softmax(products.float(), dim=-1).to(first.dtype)
