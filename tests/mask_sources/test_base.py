"""Sources by name: the user's own, the names that are none, and what every one of them is held to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import build_model
from cliptrase_d2.mask_sources import (
    MASK_SOURCES,
    CorrelationSource,
    MaskSettings,
    MaskSource,
    build_mask_source,
    register_mask_source,
)
from cliptrase_d2.mask_sources.hard_masks import make_proposals
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.settings import Method, PatchScene
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene, tiny_config, tiny_segmenter

SCENE = PatchScene(torch.zeros(2, 6, 4), torch.zeros(2, 4), torch.zeros(2, 6, 6), (2, 3))
IMAGES = torch.zeros(2, 3, 32, 48)


class Stripes(MaskSource):
    """Two masks: the left half and the right half. Keeps what it saw."""

    @classmethod
    def from_settings(cls, method: Method, settings: MaskSettings) -> Stripes:
        source = cls(method)
        source.settings = settings
        return source

    def propose(self, images: Tensor, scene: PatchScene, sizes: Sequence[tuple[int, int]]) -> list[MaskProposals]:
        self.seen = images, scene
        halves = [(torch.arange(width) >= width // 2).long().expand(height, width) for height, width in sizes]
        return [make_proposals(half, 2, (8, 8)) for half in halves]


@pytest.fixture
def stripes() -> Iterator[None]:
    register_mask_source("stripes")(Stripes)
    yield
    del MASK_SOURCES["stripes"]


def test_the_sources_of_this_package_have_names() -> None:
    assert set(MASK_SOURCES) == {"scr", "backbone", "sam", "sam_automatic"}


@pytest.mark.usefixtures("stripes")
def test_a_source_of_the_users_names_both_halves(tmp_path: Path) -> None:
    words = ("MODEL.CLIPTRASE.VOCABULARY", "['sky', 'grass']", "MODEL.MASKS.SOURCE", "stripes")
    model = build_model(tiny_config(tmp_path, *words)).eval()
    (output,) = model([{"image": scene(), "height": 50, "width": 70}])
    assert output["pred_masks"].shape == (2, 50, 70)
    assert all(len(half.unique()) == 1 for half in (output["label_map"][:, :35], output["label_map"][:, 35:]))


@pytest.mark.usefixtures("stripes")
def test_a_source_sees_the_whole_image_in_rgb_though_clip_sees_windows() -> None:
    model = tiny_segmenter(mask_source=Stripes(Method()), window=64, stride=32)
    model([{"image": scene()}])
    images, seen = model.mask_source.seen
    torch.testing.assert_close(images[0], scene().float(), atol=1e-3, rtol=0)
    assert seen.grid == (6, 8)
    assert seen.correlation.shape == (1, 48, 48)


def test_an_image_that_does_not_fit_the_patches_comes_resized_and_within_the_range() -> None:
    model = tiny_segmenter(mask_source=Stripes(Method()))
    extreme = 255 * (torch.rand(3, 90, 120) > 0.5)
    model([{"image": extreme.to(torch.uint8)}])
    images, seen = model.mask_source.seen
    assert images.shape == (1, 3, 96, 128)
    assert seen.grid == (6, 8)
    assert images.min() == 0
    assert images.max() == 255


@pytest.mark.usefixtures("stripes")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("BACKBONE", "vit_tiny_patch16_224"),
        ("BACKBONE_WEIGHTS", "some.safetensors"),
        ("SAM", "facebook/sam-vit-huge"),
        ("SAM_PROMPT", "box"),
        ("SAM_POINTS_PER_SIDE", 16),
        ("SAM_MIN_IOU", 0.5),
        ("SAM_MIN_STABILITY", 0.25),
    ],
)
def test_key_reaches_the_source(tmp_path: Path, key: str, value: object) -> None:
    options = ("MODEL.MASKS.SOURCE", "stripes", f"MODEL.MASKS.{key}", str(value))
    assert getattr(build_model(tiny_config(tmp_path, *options)).mask_source.settings, key.lower()) == value
    assert getattr(MaskSettings(), key.lower()) != value  # the default is another


def test_the_settings_own_defaults_are_those_of_the_configuration() -> None:
    keys = load_config().MODEL.MASKS
    assert {field.name: keys[field.name.upper()] for field in fields(MaskSettings)} == vars(MaskSettings())


def test_a_method_put_in_place_of_the_models_reaches_the_source() -> None:
    model = tiny_segmenter()
    model.method = Method(eps=0.25)
    assert model.mask_source.method.eps == 0.25
    model.change_method("qk", Method(eps=0.5))
    assert model.mask_source.method.eps == 0.5


def test_without_clusters_there_are_no_masks_from_any_source() -> None:
    for masks in Stripes(Method(clustering="none"))(IMAGES, SCENE, [(4, 6), (5, 7)]):
        assert len(masks) == 0
        assert not masks.assignment.any()


def test_a_wrong_name_is_refused_and_corrected() -> None:
    with pytest.raises(InputError, match=r"MODEL\.MASKS\.SOURCE: the name 'backbones'.*Did you mean 'backbone'"):
        build_mask_source("backbones", Method())
    with pytest.raises(InputError, match="import the module"):
        build_mask_source("my_own", Method())


@pytest.mark.parametrize("fault", ["too few", "too small"])
def test_a_source_that_answers_wrongly_is_named(fault: str) -> None:
    class Wrong(Stripes):
        def propose(self, images: Tensor, scene: PatchScene, sizes: Sequence[tuple[int, int]]) -> list[MaskProposals]:
            right = super().propose(images, scene, sizes)
            return right[:1] if fault == "too few" else [right[0], right[0]]

    with pytest.raises(InputError, match=r"mask source Wrong: .*\(4, 6\)"):
        Wrong(Method())(IMAGES, SCENE, [(4, 6), (5, 7)])


def test_the_default_is_clips_own_correlation(tmp_path: Path) -> None:
    assert type(build_model(tiny_config(tmp_path)).mask_source) is CorrelationSource
    assert not CorrelationSource(Method()).state_dict()
