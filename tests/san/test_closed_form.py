"""Closed-form start: masks are inner products of queries and CLIP's fused features, before any training."""

from pathlib import Path

import pytest
import torch

from cliptrase_d2.d2 import build_model
from cliptrase_d2.san.closed_form import FusedMasks, apply_closed_form, count_channels, fit_closed_form
from cliptrase_d2.san.side_network import SideAdapterNetwork
from cliptrase_d2.san.split_tower import BlockTokens
from cliptrase_d2.san.training import train
from cliptrase_d2.utils.errors import InputError
from tests.san.tiny_san import training_config, weights

CENTRES = torch.tensor([[8.0, 0, 0, 0, 0, 0], [0, 8, 0, 0, 0, 0], [0, 0, 8, 0, 0, 0]])


def images(count: int = 20) -> list[FusedMasks]:
    """Images of 12 patches, each with two of three kinds of masks, whose features lie around three centres."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for index in range(count):
        kinds = torch.tensor([index % 3, (index + 1) % 3]).repeat_interleave(6)
        features = CENTRES[kinds] + torch.randn(12, 6, generator=generator)
        patches = kinds == kinds.unique()[:, None]
        found.append(FusedMasks.pool(features, patches, generator))
    return found


def side_network(**options: int) -> SideAdapterNetwork:
    torch.manual_seed(0)
    small = {"image_size": 64, "width": 16, "depth": 3, "heads": 2, "num_queries": 3, "decoder_channels": 20} | options
    return SideAdapterNetwork(clip_width=6, clip_heads=2, fusion={0: 0, 1: 1}, supervised_blocks=(3,), **small).eval()


def test_queries_are_the_prototypes_and_logits_separate_the_masks() -> None:
    start = fit_closed_form(images(), 3, 4)
    centres = CENTRES @ start.weight.T + start.bias
    kinds = torch.cdist(start.queries, centres).argmin(1)
    assert sorted(kinds.tolist()) == [0, 1, 2]
    logits = start.scale * start.queries @ centres.T + start.offset  # [query, kind]
    assert torch.equal(logits > 0, kinds[:, None] == torch.arange(3))


def test_projection_has_orthogonal_directions_and_unit_magnitude() -> None:
    sample = images()
    start = fit_closed_form(sample, 3, 4)
    gram = start.weight @ start.weight.T
    assert torch.allclose(gram, gram[0, 0] * torch.eye(4), atol=1e-5)
    projected = torch.cat([image.features for image in sample]) @ start.weight.T + start.bias
    assert projected.square().mean().sqrt().item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(projected.mean(0), torch.zeros(4), atol=1e-5)


def test_fewer_dimensions_than_channels() -> None:
    assert fit_closed_form(images(), 3, 99).weight.shape == (6, 6)


def test_pooling_leaves_out_hidden_masks_and_keeps_at_most_100_patches() -> None:
    features = torch.arange(300.0)[:, None]
    patches = torch.zeros(2, 300, dtype=torch.bool)
    patches[1, 10:20] = True
    pooled = FusedMasks.pool(features, patches, torch.Generator().manual_seed(0))
    assert pooled.pooled.tolist() == [[14.5]]
    assert pooled.features.shape == (100, 1)
    assert pooled.inside.tolist() == [[10 <= value < 20 for value in pooled.features[:, 0].tolist()]]


def test_masks_that_cover_every_patch_are_rejected() -> None:
    covered = [FusedMasks(image.pooled, image.features, torch.ones_like(image.inside)) for image in images()]
    with pytest.raises(InputError, match="cover all patches"):
        fit_closed_form(covered, 3, 4)


def test_masks_against_the_features_are_rejected() -> None:
    inverted = [FusedMasks(image.pooled, image.features, ~image.inside) for image in images()]
    with pytest.raises(InputError, match="do not separate"):
        fit_closed_form(inverted, 3, 4)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("spare", [0, 5])
def test_masks_and_biases_are_inner_products(layers: int, spare: int) -> None:
    start = fit_closed_form(images(), 3, 4)
    side = side_network(decoder_layers=layers, decoder_channels=12 + spare)
    apply_closed_form(side, start)
    pixels, features = torch.randn(2, 3, 64, 96), BlockTokens((torch.randn(2, 25, 6), torch.randn(2, 25, 6)), (4, 6))
    masks, biases = side(pixels, features)[-1]
    fused = side.normalise_fused(features)  # [B,E,h,w]
    projected = torch.einsum("ke,behw->bkhw", start.weight, fused) + start.bias[:, None, None]
    expected = start.scale * torch.einsum("qk,bkhw->bqhw", start.queries, projected) + start.offset
    assert torch.allclose(masks, expected, atol=1e-4)
    assert torch.allclose(biases, expected[:, None].expand_as(biases), atol=1e-4)


def test_every_weight_has_a_gradient_after_the_first_step() -> None:
    side = side_network().train()
    apply_closed_form(side, fit_closed_form(images(), 3, 4))
    pixels, tokens = torch.randn(1, 3, 64, 64), BlockTokens((torch.randn(1, 17, 6), torch.randn(1, 17, 6)), (4, 4))
    optimizer = torch.optim.SGD(side.parameters(), 1e-6)
    for _ in range(2):
        optimizer.zero_grad()
        masks, biases = side(pixels, tokens)[-1]
        (masks.square().sum() + biases.sigmoid().sum()).backward()
        optimizer.step()
    assert not [name for name, value in side.named_parameters() if not value.grad.abs().sum()]


def test_carried_channels_fit_the_width_and_the_decoder() -> None:
    assert count_channels(side_network(width=16, decoder_channels=20)) == 8
    assert count_channels(side_network(width=24, decoder_channels=15)) == 7


def test_start_is_deterministic_and_changes_only_weights_of_the_published_layout(tmp_path: Path) -> None:
    options = ("MODEL.SAN.QUERY_INIT", "closed_form", "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.0")
    states = []
    for name in ("first", "second"):
        cfg = training_config(tmp_path, *options, "OUTPUT_DIR", str(tmp_path / name))
        Path(cfg.OUTPUT_DIR).mkdir()
        torch.manual_seed(0)
        train(cfg, resume=False)
        states.append(weights(tmp_path / name / "model_final.pth"))
    cold = build_model(training_config(tmp_path)).state_dict()
    assert {name: value.shape for name, value in states[0].items()} == {name: cold[name].shape for name in cold}
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
