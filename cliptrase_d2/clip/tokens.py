"""Outputs of CLIP's two towers: image tokens, dense features and text features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from cliptrase_d2.clip import open_clip_modules as clip
from cliptrase_d2.utils.errors import InputError

QKV = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class TextFeatures:
    """A vocabulary in the joint space.

    Attributes:
        features: [R,D], one L2-normalised row per word. A class has one or more words.
        class_index: [R] int64, the class 0 to C-1 of each row, ascending.
        classes: C class names.
    """

    features: Tensor
    class_index: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True)
class DenseFeatures:
    """Patch features of a batch in the joint space.

    Attributes:
        patches: [B,N,D] float32, L2-normalised, row by row of the grid.
        grid: (h, w) with h·w = N. A method may answer on another grid than CLIP's.
        class_token: [B,D] float32, L2-normalised; None from a method that has none.
        keys: [B,N,E], keys of the patches with the heads side by side; None from a method whose logits need none.
    """

    patches: Tensor
    grid: tuple[int, int]
    class_token: Tensor | None = None
    keys: Tensor | None = None


@dataclass(frozen=True)
class PatchFeatures:
    """Patch features of a second vision model.

    Attributes:
        features: [B,M,F], row by row of the grid.
        grid: (h', w') with h'·w' = M; need not be CLIP's grid.
    """

    features: Tensor
    grid: tuple[int, int]

    def affinity(self) -> Tensor:
        """Return the cosine of every two patches, [B,M,M] float32 in [-1,1]."""
        return cosine_matrix(self.features)


def cosine_matrix(vectors: Tensor) -> Tensor:
    """Return the cosine of every two vectors, [B,M,F] to [B,M,M] float32 in [-1,1]."""
    unit = F.normalize(vectors.float(), dim=-1)
    return torch.bmm(unit, unit.transpose(1, 2))


@dataclass(frozen=True)
class Needs:
    """Inputs of a method besides the tokens that enter CLIP's last block.

    Attributes:
        hidden_states: which hidden states to keep. State i holds the tokens after i blocks: 0 the embedded image, -1
            the input of the last block, which is always kept. A number that the tower does not have is skipped.
        qkv: blocks whose q, k and v to keep, as indices: 0 is the first block, -1 the last, which is always available.
            An index that the tower does not have is skipped.
        vision_features: which patch features of a second vision model the method reads: "tokens" after its last norm;
            "queries", "keys", "values" or "queries+keys" of its last block; "" for none.
        regions: whether it reads a label map of regions, made of the model's own masks.
        true_labels: whether it is an oracle, which reads the ground truth as its regions.
        text: whether it reads the text features.
        photograph: whether a method of whole images reads the photograph at its original size.
        sam: whether a method of whole images reads the last attention of SAM.
        position_resize: how the position embedding is fitted to another grid, see `pos_embed.RESIZE_MODES`; "" as the
            tower is configured.
    """

    hidden_states: Sequence[int] = ()
    qkv: Sequence[int] = ()
    vision_features: str = ""
    regions: bool = False
    true_labels: bool = False
    text: bool = False
    photograph: bool = False
    sam: bool = False
    position_resize: str = ""

    def resolve(self, depth: int) -> tuple[frozenset[int], frozenset[int]]:
        """Return the hidden states and the blocks of a tower of `depth` blocks, counted from 0."""
        states, blocks = (
            frozenset(index for index in range(depth) if index in wanted or index - depth in wanted)
            for wanted in (self.hidden_states, self.qkv)
        )
        return states, blocks


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """Tokens of a batch before CLIP's last block, with the operations of the tower that methods are made of.

    T = N+1 tokens, token 0 being the class token. Blocks and hidden states are numbered as in `Needs`.

    Attributes:
        tower: holds CLIP's last norm and projection.
        blocks: CLIP's blocks by index. The last one is always there.
        states: [B,T,E] by number, those that were asked for and the last.
        projections: q, k, v [B,A,T,d] by block, those that were asked for.
        grid: (h, w) with h·w = N.
        images: [B,3,H,W] normalised, possibly with a remainder beyond the last patches; None where only tokens are
            known.
        vision_features: of a second vision model, where a method needs them.
        regions: [B,H,W] int64, a label map of the image, where a method needs it.
        text: the vocabulary, where a method needs it.
    """

    tower: nn.Module
    blocks: Mapping[int, ResidualAttentionBlock]
    states: Mapping[int, Tensor]
    projections: dict[int, QKV]
    grid: tuple[int, int]
    images: Tensor | None = None
    vision_features: PatchFeatures | None = None
    regions: Tensor | None = None
    text: TextFeatures | None = None

    @property
    def depth(self) -> int:
        """Number of CLIP's blocks, L."""
        return max(self.blocks) + 1

    def replace_block(self, block: int, x: Tensor) -> ImageTokens:
        """Return these inputs with another last block, which reads the tokens x, [B,T,E]."""
        blocks = {index: self.blocks[index] for index in self.blocks if index <= block}
        return replace(self, blocks=blocks, states={block: x}, projections={})

    def hidden_state(self, index: int = -1) -> Tensor:
        """Return the tokens after `index` blocks, [B,T,E].

        Raises:
            InputError: the method did not declare it in its `Needs`.
        """
        number = index % self.depth
        if number not in self.states:
            raise InputError(
                "needs.hidden_states", f"hidden state {number} was not kept", "Add it to the method's needs."
            )
        return self.states[number]

    def class_token(self, index: int = -1) -> Tensor:
        """Return the class token after `index` blocks, [B,E]."""
        return self.hidden_state(index)[:, 0]

    def qkv(self, block: int = -1) -> QKV:
        """Return q, k and v of a block, each [B,A,T,d].

        Raises:
            InputError: the method did not declare it in its `Needs`.
        """
        index = block % self.depth
        if index not in self.projections:
            if index != self.depth - 1:
                raise InputError(
                    "needs.qkv", f"q, k, v of block {index} were not kept", "Add it to the method's needs."
                )
            self.projections[index] = clip.project_qkv(self.blocks[index], self.hidden_state())
        return self.projections[index]

    def project_qkv(self, x: Tensor, block: int = -1) -> QKV:
        """Project other tokens [B,T',E] with a block's norm and weights to q, k and v, each [B,A,T',d]."""
        return clip.project_qkv(self.blocks[block % self.depth], x)

    def normalize_input(self, block: int = -1) -> Tensor:
        """Return a block's input after its first norm, [B,T,E], from which q, k and v are projected."""
        return clip.first_norm(self.blocks[block % self.depth], self.hidden_state(block))

    def finish_block(
        self, attended: Tensor, *, x: Tensor | None = None, block: int = -1, residual: bool = True, mlp: bool = True
    ) -> Tensor:
        """Apply the rest of a block after its attention: output projection, residual connection and MLP.

        Args:
            attended: [B,A,T',d].
            x: [B,T',E] of the residual connection; None for the block's own input.
            block: index.
            residual: whether to keep the residual connection around the attention.
            mlp: whether to keep the MLP, with its own residual connection.
        Returns:
            [B,T',E].
        """
        if x is None:
            x = self.hidden_state(block) if residual else attended  # without a residual connection x is not read
        return clip.finish_block(self.blocks[block % self.depth], x, attended, residual=residual, mlp=mlp)

    def to_features(
        self, tokens: Tensor, *, has_class_token: bool = True, grid: tuple[int, int] | None = None
    ) -> DenseFeatures:
        """Apply CLIP's last norm and projection, and normalise.

        Args:
            tokens: [B,T',E], or [B,N',E] without a class token.
            has_class_token: whether token 0 is a class token.
            grid: (h', w') of the patches; None for CLIP's own grid.
        """
        joint = F.normalize(clip.to_joint_space(self.tower, tokens).float(), dim=-1)  # [B,T',D]
        patches, class_token = (joint[:, 1:], joint[:, 0]) if has_class_token else (joint, None)
        return DenseFeatures(patches, grid or self.grid, class_token)

    def patch_regions(self) -> Tensor:
        """Return the most frequent region of every patch, [B,N] int64; the smallest of equally frequent ones."""
        assert self.regions is not None, "the method must declare regions or true_labels"
        rows, columns = self.grid
        side = self.regions.shape[1] // rows
        patches = self.regions.view(-1, rows, side, columns, side).transpose(2, 3)  # [B,h,w,p,p]
        return torch.mode(patches.flatten(3).flatten(1, 2), dim=2).values  # [B,N]
