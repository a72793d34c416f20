"""The side network: what it decodes, where CLIP's features enter, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cliptrase_d2.san.fusion import AddFusion, ChannelNorm
from cliptrase_d2.san.mask_decoder import MaskDecoder, Perceptron
from cliptrase_d2.san.side_network import SideAdapterNetwork
from cliptrase_d2.san.split_tower import BlockTokens
from cliptrase_d2.utils.errors import InputError

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def features(seed: int = 0) -> BlockTokens:
    generator = torch.Generator().manual_seed(seed)
    return BlockTokens(tuple(torch.randn(2, 7, 10, generator=generator) for _ in range(3)), (2, 3))


def network(**changes: Any) -> SideAdapterNetwork:
    torch.manual_seed(0)
    arguments = {
        "clip_width": 10, "clip_heads": 4, "image_size": 64, "width": 24, "depth": 2, "heads": 2, "num_queries": 5,
        "fusion": {0: 0, 1: 2}, "supervised_blocks": (1, 2), "decoder_channels": 8,
    }  # fmt: skip
    return SideAdapterNetwork(**{**arguments, **changes})


def test_masks_and_biases_have_a_value_for_every_patch() -> None:
    (masks, biases), (last_masks, _) = network().train()(IMAGES, features())
    assert masks.shape == last_masks.shape == (2, 5, 4, 6)
    assert biases.shape == (2, 4, 5, 4, 6)


def test_only_the_last_block_is_decoded_without_training() -> None:
    model = network()
    in_training = model.train()(IMAGES, features())
    (alone,) = model.eval()(IMAGES, features())
    assert torch.allclose(alone[0], in_training[-1][0], atol=1e-6)


def test_a_decoder_by_hand() -> None:
    decoder = MaskDecoder(2, heads=1, channels=2, layers=1)
    for perceptron in (decoder.query_mlp, decoder.pix_mlp, decoder.attn_mlp):
        layer = perceptron.layers[0]
        nn.init.zeros_(layer.bias)
        layer.weight.data = torch.eye(2).reshape(layer.weight.shape)
    decoder.bias_scaling.weight.data.fill_(2.0)
    decoder.bias_scaling.bias.data.fill_(1.0)
    queries, patches = torch.tensor([[[1.0, 0], [1, 2]]]), torch.tensor([[[[3.0, 4]], [[5, 6]]]])
    masks, biases = decoder(queries, patches)
    assert masks.tolist() == [[[[3, 4]], [[13, 16]]]]  # 1·3 + 2·5 and 1·4 + 2·6
    assert biases.tolist() == [[[[[7, 9]], [[27, 33]]]]]  # twice that, and one


def test_a_perceptron_has_no_relu_at_its_end() -> None:
    perceptron = Perceptron(1, 1, 1)
    for layer in perceptron.layers:
        layer.weight.data.fill_(-1.0)
        layer.bias.data.zero_()
    assert perceptron(torch.tensor([[-2.0], [3.0]])).tolist() == [[-2.0], [0.0]]


def test_a_fusion_adds_what_it_projects() -> None:
    fusion = AddFusion(10, 6)
    tokens, seen = torch.randn(2, 8, 6), torch.randn(2, 10, 2, 4)
    projected = fusion.input_proj(seen).flatten(2).transpose(1, 2)
    assert torch.allclose(fusion(tokens, seen, (2, 4)), tokens + projected, atol=1e-6)
    assert fusion(torch.zeros(2, 24, 6), seen, (3, 8)).shape == (2, 24, 6)


def test_the_norm_of_maps_is_that_of_their_channels() -> None:
    norm, plain = ChannelNorm(10), nn.LayerNorm(10, eps=1e-6)
    maps = torch.randn(2, 10, 3, 4)
    assert torch.allclose(norm(maps).permute(0, 2, 3, 1), plain(maps.permute(0, 2, 3, 1)), atol=1e-6)


@pytest.mark.parametrize(("index", "matters"), [(0, True), (1, False), (2, True)])
def test_only_fused_features_matter(index: int, matters: bool) -> None:
    model, seen = network().eval(), features()
    other = [token.clone() for token in seen.tokens]
    other[index] = torch.randn_like(other[index])
    before, after = (model(IMAGES, given)[0][0] for given in (seen, BlockTokens(tuple(other), seen.grid)))
    assert torch.allclose(before, after, atol=1e-6) != matters


def test_no_offset_and_an_offset_of_zero_are_the_same_to_the_bit() -> None:
    model = network().eval()
    plain, zero = model(IMAGES, features())[0], model(IMAGES, features(), torch.zeros(2, 5, 24))[0]
    assert all(torch.equal(a, b) for a, b in zip(plain, zero, strict=True))


def test_an_offset_is_of_its_own_image_and_query() -> None:
    model = network().eval()
    offset = torch.zeros(2, 5, 24)
    offset[1, 3] = 1.0
    plain, moved = (model(IMAGES, features(), given)[0][0] for given in (None, offset))
    assert torch.allclose(plain[0], moved[0], atol=1e-6)
    assert not torch.allclose(plain[1, 3], moved[1, 3], atol=1e-4)


def test_the_position_of_the_trained_grid_is_not_resized() -> None:
    model = network()
    assert model._position((4, 4)) is model.vit_model.pos_embed
    assert model._position((3, 5)).shape == (1, 15, 24)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"fusion": {3: 0}}, "FUSION_MAP"),
        ({"fusion": {}}, "FUSION_MAP"),
        ({"supervised_blocks": (1,)}, "DEEP_SUPERVISION_IDXS"),
        ({"supervised_blocks": (2, 1)}, "DEEP_SUPERVISION_IDXS"),
        ({"width": 25}, "WIDTH"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=key):
        network(**changes)
