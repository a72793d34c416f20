"""What one patch looks at, and which patches go together, as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cliptrase_d2.clip.open_clip_modules import blocks
from cliptrase_d2.mask_sources import CorrelationSource
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import Method
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
    return whole(tiny_segmenter(method=Method(eps=0.5)))


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


def test_what_is_clustered_is_what_the_model_clusters(segmenter: Segmenter, explanation: Explanation) -> None:
    model = segmenter.model
    with torch.inference_mode():
        seen = model.see(model.tower.normalise(scene())[None])
        masks = model.mask_source(scene()[None], seen, [(96, 128)])[0]
    assert len(masks) > 1
    np.testing.assert_array_equal(explanation.recovered[1].ravel(), seen.correlation[0, 1 * 8 + 4].numpy())
    np.testing.assert_array_equal(explanation.clusters.ravel(), model.method.cluster(seen.correlation)[0].numpy())
    np.testing.assert_array_equal(explanation.masks, masks.assignment.numpy())


def test_before_is_the_method_without_taking_away_global_patches(explanation: Explanation) -> None:
    ablated = explain(whole(tiny_segmenter(method=Method(eps=0.5, suppress_global_patches=False))), PIXELS, (70, 20))
    np.testing.assert_array_equal(explanation.clusters_before, ablated.clusters)
    np.testing.assert_array_equal(explanation.masks_before, ablated.masks)
    np.testing.assert_array_equal(ablated.clusters_before, ablated.clusters)
    np.testing.assert_allclose(ablated.recovered[:, 1, 4], 1, rtol=1e-5)  # the cosine of a patch with itself
    # What the class token is more alike to is cut off.
    assert ablated.recovered.min() < 0 == explanation.recovered.min()


def test_attention_is_that_of_open_clips_own_blocks() -> None:
    # 64 pixels are what the tiny model was built for, so open_clip itself can run it.
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


def test_a_patch_that_all_others_look_at_is_global(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_: object) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for target in (5, 41, None):  # tokens: one before the patch of this number
            query, key, value = (0.1 * torch.randn(1, 2, 49, 8) for _ in range(3))
            if target is not None:
                query[..., 0], key[:, :, target, 0] = 5.0, 5.0
            yield query, key, value

    model = tiny_segmenter()
    monkeypatch.setattr(model.tower, "layers", planted)
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


def test_a_point_is_meant_in_the_image_and_found_in_the_crop() -> None:
    segmenter = Segmenter(model=tiny_segmenter(), protocol="center_crop", short_side=64, max_size=256)
    # 128x96 pixels become 85x64, of which columns 10 to 73 are left: x of 15 to 110.
    assert explain(segmenter, PIXELS, (15, 0)).patch == (0, 0)
    found = explain(segmenter, PIXELS, (110, 95))
    assert found.patch == (3, 3)
    assert found.image.shape == (*found.masks.shape, 3) == (64, 64, 3)
    with pytest.raises(InputError, match="x of 15 to 110"):
        explain(segmenter, PIXELS, (111, 95))


def test_a_point_is_meant_in_the_image_as_it_is_looked_at(segmenter: Segmenter, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_RIGHT
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    upright = np.ascontiguousarray(np.rot90(PIXELS, -1))  # 128 rows of 96 pixels
    found = explain(segmenter, tmp_path / "a.png", (80, 100))
    assert found.patch == (6, 5)
    assert same(found, explain(segmenter, upright, (80, 100)))
    with pytest.raises(InputError, match="96x128 pixels"):
        explain(segmenter, tmp_path / "a.png", (100, 80))


def test_where_everything_is_noise_there_are_no_masks() -> None:
    found = explain(whole(tiny_segmenter(method=Method(min_samples=1000))), PIXELS, (0, 0))
    assert all((getattr(found, name) == -1).all() for name in LABELS)


def test_where_everything_is_one_cluster_there_is_one_mask() -> None:
    found = explain(whole(tiny_segmenter(method=Method(eps=100.0))), PIXELS, (0, 0))
    assert all((getattr(found, name) == 0).all() for name in LABELS)


def test_half_precision_is_that_of_the_tower_alone(explanation: Explanation) -> None:
    found = explain(whole(tiny_segmenter(precision="bf16")), PIXELS, (70, 20))
    assert found.attention.dtype == found.recovered.dtype == np.float32
    assert not np.array_equal(found.attention, explanation.attention)
    np.testing.assert_allclose(found.attention, explanation.attention, atol=0.01)
    np.testing.assert_allclose(found.recovered, explanation.recovered, atol=0.05)


@pytest.mark.parametrize("protocol", ["slide", "tiles"])
def test_windows_are_refused(protocol: str) -> None:
    model = tiny_segmenter(window=64, stride=32, in_tiles=protocol == "tiles")
    with pytest.raises(InputError, match=rf"TEST\.PROTOCOL: {protocol}.*whole or center_crop"):
        explain(Segmenter(model=model, protocol=protocol, short_side=96, max_size=256), PIXELS, (0, 0))


def test_no_clustering_is_refused() -> None:
    with pytest.raises(InputError, match=r"MODEL\.CLIPTRASE\.CLUSTERING: 'none'"):
        explain(whole(tiny_segmenter(method=Method(clustering="none"))), PIXELS, (0, 0))


def test_masks_of_another_source_are_refused() -> None:
    class Another(CorrelationSource):
        pass

    with pytest.raises(InputError, match=r"MODEL\.MASKS\.SOURCE: masks of Another"):
        explain(whole(tiny_segmenter(mask_source=Another(Method()))), PIXELS, (0, 0))


def test_a_san_is_refused(tmp_path: Path) -> None:
    segmenter = Segmenter(model=tiny_san(tmp_path), protocol="whole", short_side=64, max_size=128)
    with pytest.raises(InputError, match="SAN"):
        explain(segmenter, PIXELS, (0, 0))
