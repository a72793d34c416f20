"""Masks of SAM: what is painted over what, by hand with a SAM that answers as it is told, and with tiny real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptrase_d2.d2 import build_model
from cliptrase_d2.mask_sources.sam import SamAutomaticSource, SamSource
from cliptrase_d2.mask_sources.sam_model import Prompts
from cliptrase_d2.pipeline.settings import Method, PatchScene
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene, tiny_config

METHOD = Method(eps=0.5, min_samples=2, mask_upsample=1, median_filter=1)
IMAGE = torch.zeros(1, 3, 32, 64)


class ToldSam(nn.Module):
    """Gives the masks that it is told, [n,M,4,8] of 0 and 1, whatever it is asked; keeps what it was."""

    def __init__(self, masks: list[Any], scores: list[Any]):
        super().__init__()
        self.masks, self.scores = torch.tensor(masks) * 20.0 - 10.0, torch.tensor(scores)
        self.embedded, self.asked = 0, list[Prompts]()

    def embed(self, image: Tensor) -> Tensor:
        self.embedded += 1
        return image

    def ask(self, embedding: Tensor, prompts: Prompts, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
        self.asked.append(prompts)
        yield self.masks, self.scores

    def within(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return logits

    def enlarge(self, logits: Tensor, size: tuple[int, int], output: tuple[int, int]) -> Tensor:
        return F.interpolate(logits[None], output, mode="nearest")[0]


def _scene(groups: list[int]) -> PatchScene:
    """On a grid of 1×4: patches of one group are alike, those of -1 to nothing."""
    labels = torch.tensor(groups)
    rows = ((labels[:, None] == labels[None]) & (labels >= 0)).float()
    rows = rows + torch.diag((labels < 0).float() * torch.arange(5, 9))  # far from everything
    return PatchScene(torch.zeros(1, 4, 2), torch.zeros(1, 2), rows[None], (1, 4))


def _mask(*columns: int) -> list[list[float]]:
    return [[float(column in columns) for column in range(8)] for _ in range(4)]


TWO = _scene([0, 0, 1, 1])  # the left and the right half
NONE = _scene([-1, -1, -1, -1])


def _columns(assignment: Tensor) -> list[int]:
    """The masks of the columns, of which all rows are alike."""
    assert (assignment == assignment[:1]).all()
    return assignment[0].tolist()


def test_masks_stand_over_clusters_and_the_better_over_the_worse() -> None:
    # Cluster 0 has columns 0 to 3. Its best mask is its second one; both claim column 4.
    masks = [[_mask(7), _mask(1, 2, 3, 4)], [_mask(4, 5), _mask(0)]]
    sam = ToldSam(masks, [[0.1, 0.6], [0.9, 0.2]])
    (found,) = SamSource(METHOD, sam)(IMAGE, TWO, [(4, 8)])
    # Columns 0, 6 and 7 are in no best mask: they keep their clusters.
    assert _columns(found.assignment) == [0, 0, 0, 0, 1, 1, 1, 1]
    sam.scores = torch.tensor([[0.1, 0.95], [0.9, 0.2]])
    (found,) = SamSource(METHOD, sam)(IMAGE, TWO, [(4, 8)])
    assert _columns(found.assignment) == [0, 0, 0, 0, 0, 1, 1, 1]
    assert sam.embedded == 2


def test_of_equally_good_masks_the_first_cluster_wins() -> None:
    sam = ToldSam([[_mask(3, 4)], [_mask(3, 4)]], [[0.5], [0.5]])
    (found,) = SamSource(METHOD, sam)(IMAGE, TWO, [(4, 8)])
    assert _columns(found.assignment) == [0, 0, 0, 0, 0, 1, 1, 1]


def test_where_sam_finds_nothing_the_clusters_stay() -> None:
    sam = ToldSam([[_mask()], [_mask()]], [[0.5], [0.5]])
    (found,) = SamSource(METHOD, sam)(IMAGE, TWO, [(4, 8)])
    assert _columns(found.assignment) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len(found) == 2
    assert found.coarse.shape == (2, 1, 4)


def test_a_mask_that_is_painted_over_wholly_stays_in_the_count() -> None:
    everywhere = _mask(*range(8))
    sam = ToldSam([[everywhere], [everywhere]], [[0.9], [0.5]])
    (found,) = SamSource(METHOD, sam)(IMAGE, TWO, [(4, 8)])
    assert len(found) == 2
    assert not found.assignment.any()
    assert not found.coarse[1].any()


def test_without_a_cluster_sam_is_not_asked() -> None:
    sam = ToldSam([], [])
    (found,) = SamSource(METHOD, sam)(IMAGE, NONE, [(4, 8)])
    assert len(found) == 0
    assert sam.embedded == 0


def test_points_are_patches_of_the_cluster_and_boxes_go_around_it() -> None:
    sam = ToldSam([[_mask()], [_mask()]], [[0.5], [0.5]])
    SamSource(METHOD, sam, "points")(IMAGE, TWO, [(4, 8)])
    SamSource(METHOD, sam, "box")(IMAGE, TWO, [(4, 8)])
    points, boxes = sam.asked
    assert points.is_point.tolist() == [[True, True, False]] * 2
    assert sorted(points.points[1, :2].tolist()) == [[0.625, 0.5], [0.875, 0.5]]  # patches 2 and 3 of 4
    assert boxes.boxes.tolist() == [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]


def _automatic(masks: list[Any], scores: list[Any], groups: PatchScene, **settings: Any) -> tuple[list[int], int]:
    (found,) = SamAutomaticSource(METHOD, ToldSam(masks, scores), **settings)(IMAGE, groups, [(4, 8)])
    return _columns(found.assignment), len(found)


def test_small_masks_are_painted_over_large_ones_and_gaps_fall_to_clusters() -> None:
    masks = [[_mask(2)], [_mask(0, 1, 2, 3, 4)]]
    assert _automatic(masks, [[0.9], [0.95]], TWO) == ([0, 0, 1, 0, 0, 2, 2, 2], 3)


def test_gaps_are_one_rest_without_a_cluster() -> None:
    assert _automatic([[_mask(2, 3)]], [[0.9]], NONE) == ([1, 1, 0, 0, 1, 1, 1, 1], 2)


def test_masks_that_sam_doubts_are_left_out() -> None:
    assert _automatic([[_mask(2), _mask(6)]], [[0.87, 0.89]], TWO) == ([1, 1, 1, 1, 2, 2, 0, 2], 3)
    assert _automatic([[_mask(2), _mask(6)]], [[0.87, 0.89]], TWO, min_iou=0.5)[1] == 4


def test_unstable_masks_are_left_out() -> None:
    source = SamAutomaticSource(METHOD, ToldSam([[_mask(2, 3)]], [[0.9]]))
    source.sam.masks[..., 3] = 0.5  # in the mask, but not if the threshold were 1
    (found,) = source(IMAGE, TWO, [(4, 8)])
    assert _columns(found.assignment) == [0, 0, 0, 0, 1, 1, 1, 1]
    source.min_stability = 0.4
    (found,) = source(IMAGE, TWO, [(4, 8)])
    assert _columns(found.assignment) == [1, 1, 0, 0, 2, 2, 2, 2]


def test_of_masks_with_the_same_box_the_better_stays() -> None:
    masks = [[_mask(0, 1, 2, 3, 5)], [_mask(0, 2, 3, 5)]]
    assert _automatic(masks, [[0.9], [0.95]], NONE)[0] == [0, 1, 0, 0, 1, 0, 1, 1]


def test_without_a_mask_of_sam_the_clusters_stay() -> None:
    assert _automatic([[_mask(2)]], [[0.1]], TWO) == ([0, 0, 0, 0, 1, 1, 1, 1], 2)


def test_without_a_mask_and_without_a_cluster_there_is_none() -> None:
    assert _automatic([[_mask(2)]], [[0.1]], NONE) == ([0] * 8, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points_per_side": 0}, "SAM_POINTS_PER_SIDE: 0"),
        ({"min_iou": 1.5}, "SAM_MIN_IOU: 1.5"),
        ({"min_stability": -1.0}, "SAM_MIN_STABILITY: -1.0"),
    ],
)
def test_a_setting_outside_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamAutomaticSource(METHOD, ToldSam([], []), **settings)


def test_another_prompt_is_refused() -> None:
    with pytest.raises(InputError, match=r"SAM_PROMPT: 'mask'.*'points' or 'box'"):
        SamSource(METHOD, ToldSam([], []), "mask")


@pytest.mark.parametrize("kind", ["save_sam", "save_sam2"])
@pytest.mark.parametrize(
    "options",
    [("sam",), ("sam", "MODEL.MASKS.SAM_PROMPT", "box"), ("sam_automatic", "MODEL.MASKS.SAM_MIN_IOU", "0.05")],
    ids=["points", "box", "automatic"],
)
def test_the_whole_model_takes_its_masks_from_a_real_sam(tmp_path: Path, kind: str, options: tuple[str, ...]) -> None:
    pytest.importorskip("transformers")
    from tests.mask_sources import tiny_models

    name, *others = options
    always = {
        "MODEL.MASKS.SOURCE": name,
        "MODEL.MASKS.SAM": getattr(tiny_models, kind)(tmp_path / "sam"),
        "MODEL.MASKS.SAM_MIN_STABILITY": "0.2",
        "MODEL.MASKS.SAM_POINTS_PER_SIDE": "3",
        "MODEL.CLIPTRASE.VOCABULARY": "['sky', 'grass']",
        "MODEL.CLIPTRASE.EPS": "0.5",
    }
    words = [word for pair in always.items() for word in pair]
    model = build_model(tiny_config(tmp_path, *words, *others)).eval()
    batch = [{"image": scene(index), "height": 50 + index, "width": 70} for index in range(2)]
    seen = model.see(model.tower.normalise(torch.stack([inputs["image"] for inputs in batch])))
    with torch.inference_mode():
        found = model.mask_source(torch.stack([scene(0), scene(1)]).float(), seen, [(50, 70), (51, 70)])
    plain = build_model(tiny_config(tmp_path, *words, "MODEL.MASKS.SOURCE", "scr")).eval()
    for output, masks, inputs in zip(model(batch), found, batch, strict=True):
        assert output["label_map"].shape == (inputs["height"], inputs["width"])
        assert output["pred_masks"].shape == (len(masks), *output["label_map"].shape)
        assert masks.assignment.unique().max() < len(masks)
        (clusters,) = plain([inputs])
        if name == "sam":
            assert len(masks) == len(clusters["pred_masks"]) > 1
        assert masks.coarse.amin() >= 0
        torch.testing.assert_close(masks.coarse.sum(0), torch.ones_like(masks.coarse[0]))
        alone = model([inputs])[0]["label_map"]
        assert (alone == output["label_map"]).float().mean() > 0.97
