"""Explanations: maps of one patch, clusters and masks, and the inputs they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cliptrase_d2.clip.open_clip_modules import blocks
from cliptrase_d2.mask_sources import CorrelationClusters
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.segmenter.explanation import Explanation, explain
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter
from tests.san.tiny_san import tiny_san

PIXELS = scene().permute(1, 2, 0).numpy()  # [96,128,3]: 6x8 patches of 16 pixels
ORIENTATION, TURN_RIGHT = 0x0112, 6
MAPS = ("attention", "recovered", "global_patches")
LABELS = ("clusters_before", "clusters", "masks_before", "masks")


def whole(model: CLIPtrase) -> Segmenter:
    return Segmenter(model=model, protocol="whole", short_side=96, max_size=256)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return whole(tiny_segmenter(settings=CLIPtraseSettings(eps=0.5)))


@pytest.fixture(scope="module")
def explanation(segmenter: Segmenter) -> Explanation:
    return explain(segmenter, PIXELS, (70, 20))


def same(first: Explanation, second: Explanation) -> bool:
    return first.patch == second.patch and all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in ("image", *MAPS, *LABELS)
    )


def test_maps_have_a_grid_that_is_not_square_for_every_block(explanation: Explanation) -> None:
    assert explanation.patch == (1, 4)
    assert explanation.block == 1  # the last but one of three
    np.testing.assert_array_equal(explanation.image, PIXELS)
    for name, dtype in zip(MAPS, (np.float32, np.float32, np.bool_), strict=True):
        assert getattr(explanation, name).shape == (3, 6, 8)
        assert getattr(explanation, name).dtype == dtype
    for name, shape in zip(LABELS, ((6, 8), (6, 8), (96, 128), (96, 128)), strict=True):
        assert getattr(explanation, name).shape == shape
        assert getattr(explanation, name).dtype == np.int64


def test_clusters_and_masks_are_those_of_the_model(segmenter: Segmenter, explanation: Explanation) -> None:
    model = segmenter.model
    with torch.inference_mode():
        result = model.segment(model.preprocess([{"image": scene()}]), None, [(96, 128)])
    correlation, masks = result.correlation, result.masks[0]
    assert len(masks) > 1
    np.testing.assert_array_equal(explanation.recovered[1].ravel(), correlation[0, 1 * 8 + 4].numpy())
    np.testing.assert_array_equal(explanation.clusters.ravel(), masks.clusters.numpy())
    np.testing.assert_array_equal(explanation.masks, masks.assignment.numpy())


def test_before_is_the_method_without_suppressing_global_patches(explanation: Explanation) -> None:
    settings = CLIPtraseSettings(eps=0.5, suppress_global_patches=False)
    ablated = explain(whole(tiny_segmenter(settings=settings)), PIXELS, (70, 20))
    np.testing.assert_array_equal(explanation.clusters_before, ablated.clusters)
    np.testing.assert_array_equal(explanation.masks_before, ablated.masks)
    np.testing.assert_array_equal(ablated.clusters_before, ablated.clusters)
    np.testing.assert_allclose(ablated.recovered[:, 1, 4], 1, rtol=1e-5)  # the cosine of a patch with itself
    # Similarities below those of the class token are cut off.
    assert ablated.recovered.min() < 0 == explanation.recovered.min()


def test_attention_is_that_of_open_clips_own_blocks() -> None:
    # open_clip itself can run the tiny model at its trained size of 64 pixels.
    model, image = tiny_segmenter(), scene(0, 64, 64)
    weights: list[Tensor] = []

    def note(attention: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        weights.append(attention.forward(*inputs, need_weights=True)[1])  # [1,N+1,N+1], mean over heads

    hooks = [block.attn.register_forward_hook(note) for block in blocks(model.clip.visual)]
    with torch.inference_mode():
        model.clip.encode_image(model.tower.normalise(image)[None])
    for hook in hooks:
        hook.remove()
    segmenter = Segmenter(model=model, protocol="whole", short_side=64, max_size=64)
    found = explain(segmenter, image.permute(1, 2, 0).numpy(), (40, 30))
    expected = torch.cat(weights)[:, 1 + 1 * 4 + 2, 1:].view(3, 4, 4)  # the class token, a row of 4, two more
    np.testing.assert_allclose(found.attention, expected.numpy(), atol=1e-6)
    assert (found.attention.sum((1, 2)) < 1).all()  # the class token has the rest


def test_a_patch_with_the_attention_of_all_others_is_global(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_: object) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for target in (5, 41, None):  # tokens: one before the patch of this number
            query, key, value = (0.1 * torch.randn(1, 2, 49, 8) for _ in range(3))
            if target is not None:
                query[..., 0], key[:, :, target, 0] = 5.0, 5.0
            yield query, key, value

    model = tiny_segmenter()
    monkeypatch.setattr(model.tower, "block_qkv", planted)
    found = explain(whole(model), PIXELS, (0, 0))
    assert np.argwhere(found.global_patches).tolist() == [[0, 0, 4], [1, 5, 0]]
    assert found.attention[0].argmax() == 4
    assert found.recovered[0].argmax() == 0  # itself


@pytest.mark.parametrize(
    ("point", "patch"), [((0, 0), (0, 0)), ((127, 95), (5, 7)), ((15, 16), (1, 0)), ((16, 15), (0, 1))]
)
def test_points_at_borders(segmenter: Segmenter, point: tuple[int, int], patch: tuple[int, int]) -> None:
    assert explain(segmenter, PIXELS, point).patch == patch


@pytest.mark.parametrize("point", [(128, 0), (0, 96), (-1, 0)])
def test_a_point_outside_is_refused(segmenter: Segmenter, point: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="128x96 pixels"):
        explain(segmenter, PIXELS, point)


def test_a_point_of_the_image_is_found_in_the_crop() -> None:
    segmenter = Segmenter(model=tiny_segmenter(), protocol="center_crop", short_side=64, max_size=256)
    # 128x96 pixels become 85x64, of which columns 10 to 73 are left: x of 15 to 110.
    assert explain(segmenter, PIXELS, (15, 0)).patch == (0, 0)
    found = explain(segmenter, PIXELS, (110, 95))
    assert found.patch == (3, 3)
    assert found.image.shape == (*found.masks.shape, 3) == (64, 64, 3)
    with pytest.raises(InputError, match="x of 15 to 110"):
        explain(segmenter, PIXELS, (111, 95))


def test_a_point_is_a_pixel_of_the_upright_image(segmenter: Segmenter, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_RIGHT
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    upright = np.ascontiguousarray(np.rot90(PIXELS, -1))  # 128 rows of 96 pixels
    found = explain(segmenter, tmp_path / "a.png", (80, 100))
    assert found.patch == (6, 5)
    assert same(found, explain(segmenter, upright, (80, 100)))
    with pytest.raises(InputError, match="96x128 pixels"):
        explain(segmenter, tmp_path / "a.png", (100, 80))


def test_half_precision_is_confined_to_the_tower(explanation: Explanation) -> None:
    found = explain(whole(tiny_segmenter(precision="bf16")), PIXELS, (70, 20))
    assert found.attention.dtype == found.recovered.dtype == np.float32
    assert not np.array_equal(found.attention, explanation.attention)
    np.testing.assert_allclose(found.attention, explanation.attention, atol=0.01)
    np.testing.assert_allclose(found.recovered, explanation.recovered, atol=0.05)


@pytest.mark.parametrize(("settings", "label"), [({"min_samples": 1000}, -1), ({"eps": 100.0}, 0)])
def test_noise_alone_gives_no_mask_and_one_cluster_one_mask(settings: dict[str, Any], label: int) -> None:
    found = explain(whole(tiny_segmenter(settings=CLIPtraseSettings(**settings))), PIXELS, (0, 0))
    assert all((getattr(found, name) == label).all() for name in LABELS)


class OtherMasks(CorrelationClusters):
    """Another source of masks."""


@pytest.mark.parametrize(
    ("protocol", "arguments", "message"),
    [
        ("slide", {"window": 64, "stride": 32}, r"TEST\.PROTOCOL: slide"),
        ("tiles", {"window": 64, "stride": 32, "in_tiles": True}, r"TEST\.PROTOCOL: tiles"),
        (
            "published",
            {"settings": CLIPtraseSettings(clustering="none"), "protocol": PublishedProtocol()},
            r"TEST\.PROTOCOL: published",
        ),
        ("whole", {"settings": CLIPtraseSettings(clustering="none")}, r"MODEL\.CLIPTRASE\.CLUSTERING: 'none'"),
        ("whole", {"mask_source": OtherMasks()}, r"MODEL\.MASKS\.SOURCE: masks of OtherMasks"),
        ("whole", None, "SAN"),
    ],
)
def test_models_without_clusters_of_whole_images_are_refused(
    tmp_path: Path, protocol: str, arguments: dict[str, Any] | None, message: str
) -> None:
    model = tiny_san(tmp_path) if arguments is None else tiny_segmenter(**arguments)
    with pytest.raises(InputError, match=message):
        explain(Segmenter(model=model, protocol=protocol, short_side=96, max_size=256), PIXELS, (0, 0))
