"""Side network: decoded blocks, fusion with CLIP, and query offsets."""

from typing import Any

import pytest
import torch
from torch import nn

from cliptrase_d2.san.side_network import MLP, AddFusion, ChannelNorm, MaskDecoder, SideAdapterNetwork
from cliptrase_d2.san.split_tower import BlockTokens

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
FEATURES = BlockTokens(tuple(torch.randn(3, 2, 7, 10, generator=torch.Generator().manual_seed(0))), (2, 3))


def network(**changes: Any) -> SideAdapterNetwork:
    torch.manual_seed(0)
    arguments = {
        "clip_width": 10, "clip_heads": 4, "image_size": 64, "width": 24, "depth": 2, "heads": 2, "num_queries": 5,
        "fusion": {0: 0, 1: 2}, "supervised_blocks": (1, 2), "decoder_channels": 8,
    }  # fmt: skip
    return SideAdapterNetwork(**{**arguments, **changes}).eval()


def test_training_decodes_all_supervised_blocks_and_evaluation_the_last() -> None:
    model = network()
    ((masks, biases),) = model(IMAGES, FEATURES)
    assert masks.shape == (2, 5, 4, 6)
    assert biases.shape == (2, 4, 5, 4, 6)
    first, last = model.train()(IMAGES, FEATURES)
    assert first[0].shape == masks.shape
    assert torch.allclose(last[0], masks, atol=1e-6)


def test_decoder_by_hand() -> None:
    decoder = MaskDecoder(2, heads=1, channels=2, layers=1)
    for mlp in (decoder.query_mlp, decoder.pix_mlp, decoder.attn_mlp):
        layer = mlp.layers[0]
        nn.init.zeros_(layer.bias)
        layer.weight.data = torch.eye(2).reshape(layer.weight.shape)
    decoder.bias_scaling.weight.data.fill_(2.0)
    decoder.bias_scaling.bias.data.fill_(1.0)
    queries, patches = torch.tensor([[[1.0, 0], [1, 2]]]), torch.tensor([[[[3.0, 4]], [[5, 6]]]])
    masks, biases = decoder(queries, patches)
    assert masks.tolist() == [[[[3, 4]], [[13, 16]]]]  # 1·3 + 2·5 and 1·4 + 2·6
    assert biases.tolist() == [[[[[7, 9]], [[27, 33]]]]]  # 2·mask + 1


def test_mlp_has_no_relu_at_its_output() -> None:
    mlp = MLP(1, 1, 1)
    for layer in mlp.layers:
        layer.weight.data.fill_(-1.0)
        layer.bias.data.zero_()
    assert mlp(torch.tensor([[-2.0], [3.0]])).tolist() == [[-2.0], [0.0]]


def test_fusion_adds_projected_and_resized_features() -> None:
    fusion = AddFusion(10, 6)
    tokens, features = torch.randn(2, 8, 6), torch.randn(2, 10, 2, 4)
    projected = fusion.input_proj(features).flatten(2).transpose(1, 2)
    assert torch.allclose(fusion(tokens, features, (2, 4)), tokens + projected, atol=1e-6)
    assert fusion(torch.zeros(2, 24, 6), features, (3, 8)).shape == (2, 24, 6)


def test_channel_norm_equals_layer_norm() -> None:
    norm, plain = ChannelNorm(10), nn.LayerNorm(10, eps=1e-6)
    maps = torch.randn(2, 10, 3, 4)
    assert torch.allclose(norm(maps).permute(0, 2, 3, 1), plain(maps.permute(0, 2, 3, 1)), atol=1e-6)


@pytest.mark.parametrize(("index", "matters"), [(0, True), (1, False), (2, True)])
def test_only_fused_features_affect_the_masks(index: int, matters: bool) -> None:
    tokens = list(FEATURES.tokens)
    tokens[index] = torch.randn_like(tokens[index])
    changed = BlockTokens(tuple(tokens), FEATURES.grid)
    before, after = (network()(IMAGES, features)[0][0] for features in (FEATURES, changed))
    assert torch.allclose(before, after, atol=1e-6) != matters
