"""The registry and the contract of mask sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from cliptrase_d2.config import load_config
from cliptrase_d2.d2 import build_model
from cliptrase_d2.mask_sources import (
    MASK_SOURCES,
    CorrelationClusters,
    MaskInputs,
    MaskSettings,
    MaskSource,
    build_mask_source,
    register_mask_source,
)
from cliptrase_d2.mask_sources.hard_masks import make_proposals
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene, tiny_config, tiny_segmenter

SIZES = [(4, 6), (5, 7)]


class Stripes(MaskSource):
    """Two masks, the left half and the right half. Stores its inputs."""

    @classmethod
    def from_settings(cls, settings: MaskSettings) -> Stripes:
        source = cls()
        source.settings = settings
        return source

    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        self.inputs = inputs
        halves = [(torch.arange(width) >= width // 2).long().expand(height, width) for height, width in inputs.sizes]
        return [make_proposals(half, 2, (8, 8)) for half in halves]


def make_inputs(**settings: object) -> MaskInputs:
    return MaskInputs((2, 3), SIZES, CLIPtraseSettings(**settings), torch.device("cpu"))


@pytest.fixture
def stripes() -> Iterator[None]:
    register_mask_source("stripes")(Stripes)
    yield
    del MASK_SOURCES["stripes"]


@pytest.mark.usefixtures("stripes")
def test_a_registered_source_is_used_by_its_name(tmp_path: Path) -> None:
    options = ("MODEL.CLIPTRASE.VOCABULARY", "['sky', 'grass']", "MODEL.MASKS.SOURCE", "stripes")
    model = build_model(tiny_config(tmp_path, *options)).eval()
    (output,) = model([{"image": scene(), "height": 50, "width": 70}])
    assert output["pred_masks"].shape == (2, 50, 70)
    assert all(len(half.unique()) == 1 for half in (output["label_map"][:, :35], output["label_map"][:, 35:]))


def test_a_source_receives_whole_images_while_clip_runs_in_windows() -> None:
    model = tiny_segmenter(mask_source=Stripes(), window=64, stride=32)
    model([{"image": scene()}])
    inputs = model.mask_source.inputs
    torch.testing.assert_close(inputs.pixels[0], scene().float(), atol=1e-3, rtol=0)
    assert inputs.grid == (6, 8)
    assert inputs.correlation.shape == (1, 48, 48)
    model.configure(CLIPtraseSettings(eps=0.25))
    model([{"image": scene()}])
    assert model.mask_source.inputs.settings.eps == 0.25


@pytest.mark.parametrize("needed", [False, True])
def test_a_source_receives_only_its_needs(monkeypatch: pytest.MonkeyPatch, needed: bool) -> None:
    monkeypatch.setattr(Stripes, "needs_correlation", needed)
    monkeypatch.setattr(Stripes, "needs_pixels", not needed)
    model = tiny_segmenter(mask_source=Stripes())
    model([{"image": scene()}])
    inputs = model.mask_source.inputs
    assert (inputs.correlation is None, inputs.pixels is None) == (not needed, needed)


def test_resized_pixels_stay_in_their_range() -> None:
    model = tiny_segmenter(mask_source=Stripes())
    extreme = 255 * (torch.rand(3, 90, 120) > 0.5)
    model([{"image": extreme.to(torch.uint8)}])
    pixels = model.mask_source.inputs.pixels
    assert pixels.shape == (1, 3, 96, 128)
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.usefixtures("stripes")
def test_all_keys_reach_the_source(tmp_path: Path) -> None:
    settings = MaskSettings(
        backbone="vit_tiny_patch16_224", backbone_weights="some.safetensors", sam="facebook/sam-vit-huge",
        sam_prompt="box", sam_points_per_side=16, sam_min_iou=0.5, sam_min_stability=0.25,
        sam_duplicate_iou=0.9, sam_merge=0.8, sam_masks_per_point=1, sam_large_on_top=True,
    )  # fmt: skip
    assert not vars(settings).items() & vars(MaskSettings()).items()  # no value is the default
    options = [text for name, value in vars(settings).items() for text in (f"MODEL.MASKS.{name.upper()}", str(value))]
    model = build_model(tiny_config(tmp_path, "MODEL.MASKS.SOURCE", "stripes", *options))
    assert model.mask_source.settings == settings


def test_the_settings_have_the_defaults_of_the_configuration() -> None:
    keys = load_config().MODEL.MASKS
    assert {field.name: keys[field.name.upper()] for field in fields(MaskSettings)} == vars(MaskSettings())


def test_without_clustering_no_source_proposes_masks() -> None:
    for masks in Stripes()(make_inputs(clustering="none")):
        assert len(masks) == 0
        assert not masks.assignment.any()


@pytest.mark.parametrize(("name", "fix"), [("backbones", "'backbone'"), ("my_own", "import")])
def test_an_unknown_source_is_rejected(name: str, fix: str) -> None:
    with pytest.raises(InputError, match=rf"mask_source: .*{name}.*{fix}"):
        build_mask_source(name)


@pytest.mark.parametrize("fault", ["too few", "too small"])
def test_wrong_proposals_are_rejected(fault: str) -> None:
    class Wrong(Stripes):
        def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
            masks = super().propose(inputs)
            return masks[:1] if fault == "too few" else [masks[0], masks[0]]

    with pytest.raises(InputError, match=r"mask source Wrong: .*\(4, 6\)"):
        Wrong()(make_inputs())


def test_sources_and_the_default(tmp_path: Path) -> None:
    assert type(build_model(tiny_config(tmp_path)).mask_source) is CorrelationClusters
    assert not CorrelationClusters().state_dict()
    assert set(MASK_SOURCES) == {"scr", "backbone", "sam", "sam_automatic"}
