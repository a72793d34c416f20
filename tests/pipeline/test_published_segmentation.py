"""Masks in the published protocol: regions of windows, and the vote of regions after the decision of any method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, Needs
from cliptrase_d2.mask_sources import MaskInputs, MaskSource
from cliptrase_d2.methods import DENSE_METHODS, DenseMethod, get_dense_method
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.proposals import MaskProposals
from cliptrase_d2.pipeline.published import PublishedProtocol, place_windows
from cliptrase_d2.pipeline.published_segmentation import cut_regions, predict_masks
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.methods.example_methods import Pixels
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter

WORDS = Vocabulary.parse(["sky", "grass", "star"], ["wall", "floor"])
SMALL = {"window": 64, "stride": 32, "logit_scale": 20.0}
SIZE = (60, 90)  # of the photograph


class Stripes(MaskSource):
    """Vertical stripes of 30 pixels, the first of which is a gap. Records the sizes of the images that it reads."""

    needs_correlation = False

    def __init__(self) -> None:
        super().__init__()
        self.read = list[tuple[int, ...]]()

    def propose(self, inputs: MaskInputs) -> list[MaskProposals]:
        assert inputs.pixels is not None
        self.read.append(tuple(inputs.pixels.shape[2:]))
        maps = [torch.arange(width).expand(height, width) // 30 for height, width in inputs.sizes]
        return [MaskProposals(torch.zeros(4, *inputs.grid), one.contiguous(), is_gap=one == 0) for one in maps]


class Recorder(DenseMethod):
    """SCLIP, which records the regions of every window."""

    title = source = "example"
    needs = Needs(regions=True)
    seen: ClassVar[list[Tensor]] = []

    def __call__(self, x: ImageTokens) -> DenseFeatures:
        assert x.regions is not None
        self.seen.append(x.regions)
        return get_dense_method("sclip")(x)


def build(method: str, protocol: dict[str, Any], **arguments: Any) -> CLIPtrase:
    settings = CLIPtraseSettings(method=method, eps=0.5)
    arguments = {"mask_source": Stripes(), **arguments}
    return tiny_segmenter(settings=settings, protocol=PublishedProtocol(**protocol), **arguments)


def make_input(index: int = 0, **changes: Any) -> dict[str, Any]:
    defaults = {"image": scene(index, 84, 115), "photograph": scene(index, *SIZE), "height": SIZE[0], "width": SIZE[1]}
    return {**defaults, "vocabulary": WORDS, "output_sem_seg": True, **changes}


def slow_windows(regions: Tensor, size: tuple[int, int], protocol: PublishedProtocol) -> list[Tensor]:
    """The nearest pixel at every pixel of the resized image, cut window by window, and padded with a new number."""
    height, width = size
    resized = torch.tensor(
        [
            [int(regions[i * regions.shape[0] // height, j * regions.shape[1] // width]) for j in range(width)]
            for i in range(height)
        ]
    )
    side, stride, parts = protocol.window or max(size), protocol.stride, []
    for row in range(max(height - side + stride - 1, 0) // stride + 1):
        for column in range(max(width - side + stride - 1, 0) // stride + 1):
            y2, x2 = min(row * stride + side, height), min(column * stride + side, width)
            part = resized[max(y2 - side, 0) : y2, max(x2 - side, 0) : x2]
            below, right = (-length % protocol.pad_to if protocol.pad_to else 0 for length in part.shape)
            padded = torch.full((part.shape[0] + below, part.shape[1] + right), int(regions.max()) + 1)
            padded[below // 2 :, right // 2 :][: part.shape[0], : part.shape[1]] = part
            parts.append(padded[: padded.shape[0] // 16 * 16, : padded.shape[1] // 16 * 16])
    return parts


@pytest.mark.parametrize("regions", [torch.arange(54).view(6, 9) - 1, torch.full((3, 5), -1)], ids=["many", "none"])
@pytest.mark.parametrize(
    "protocol",
    [SMALL, {"window": 40, "stride": 24}, {"window": 40, "stride": 24, "pad_to": 56}, {"window": 0, "pad_to": 16}],
    ids=str,
)
@pytest.mark.parametrize("size", [(84, 115), (33, 70)], ids=str)
def test_regions_of_windows(regions: Tensor, protocol: dict[str, int], size: tuple[int, int]) -> None:
    settings = PublishedProtocol(**protocol)
    parts = cut_regions(regions, size, place_windows(size, 16, settings))
    expected = slow_windows(regions, size, settings)
    assert len(parts) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(parts, expected, strict=True))


@pytest.mark.parametrize("protocol", [SMALL, {"window": 40, "stride": 24, "pad_to": 56}], ids=str)
def test_a_method_reads_the_regions_of_its_windows(protocol: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DENSE_METHODS, "recorder", Recorder)
    monkeypatch.setattr(Recorder, "seen", seen := [])
    model = build("recorder", protocol)
    model([make_input(0), make_input(1)])
    regions = predict_masks(model, make_input()).regions()
    expected = slow_windows(regions, (84, 115), model.protocol)
    assert torch.equal(torch.cat(seen), torch.stack(expected * 2))
    assert regions.unique().tolist() == [-1, 1, 2]


def test_masks_are_those_of_the_photograph() -> None:
    model = build("corrclip", SMALL, vision_model=Pixels())
    model([make_input()])
    assert model.mask_source.read == [SIZE]
    with pytest.raises(InputError, match=r"photograph: missing in an input of 'corrclip'"):
        model([{key: value for key, value in make_input().items() if key != "photograph"}])


@pytest.mark.parametrize("method", ["sclip", "corrclip"])
@pytest.mark.parametrize("thresholds", [{}, {"prob_thd": 0.28}, {"area_thd": 0.2, "prob_thd": 0.26}], ids=str)
def test_the_regions_of_any_method_vote(method: str, thresholds: dict[str, float]) -> None:
    model = build(method, {**SMALL, **thresholds, "region_vote": True}, vision_model=Pixels())
    (output,) = model([make_input()])
    model.protocol = replace(model.protocol, region_vote=False)
    if method == "sclip":
        model.configure(replace(model.settings, clustering="none"))
    (before,) = model([make_input()])
    expected = before["label_map"].clone()
    for first in (30, 60):  # in the published order the background, here the last class, is the first
        stripe = expected[:, first : first + 30]
        stripe[:] = (torch.bincount(((stripe + 1) % 4).flatten()).argmax() + 3) % 4
    assert torch.equal(output["label_map"], expected)
    assert torch.equal(output["sem_seg"].argmax(0), expected)
    same = before["label_map"] == expected
    torch.testing.assert_close(output["sem_seg"][:, same], before["sem_seg"][:, same])
    own = output["sem_seg"].gather(0, expected[None])[0]
    assert torch.equal(output["sem_seg"].sum(0)[~same], own[~same])


@pytest.mark.parametrize("vote", [False, True])
def test_a_batch_equals_its_images(vote: bool) -> None:
    model = build("corrclip", {**SMALL, "region_vote": vote}, vision_model=Pixels(), mask_source=None)
    inputs = [make_input(index) for index in range(3)]
    for output, one in zip(model(inputs), inputs, strict=True):
        torch.testing.assert_close(output["sem_seg"], model([one])[0]["sem_seg"], atol=1e-5, rtol=0)


def test_a_photograph_is_read_for_a_vote() -> None:
    assert build("sclip", {**SMALL, "region_vote": True}).needs_photograph
