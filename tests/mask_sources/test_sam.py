"""Masks of SAM: the order of drawing with a stub, and whole models with tiny real ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliptrase_d2.d2 import build_model
from cliptrase_d2.mask_sources import MaskInputs, SamAutomaticSource, SamSource
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vision_models.sam_model import Prompts
from tests.pipeline.tiny_segmenter import scene, tiny_config

SETTINGS = CLIPtraseSettings(eps=0.5, min_samples=2, mask_upsample=1, median_filter=1)
EMPTY = [[0.0] * 8] * 4


class StubSam(nn.Module):
    """Predicts given masks, [n,M,4,8] in 0 to 1 with threshold 0.5, for any prompts. Stores the prompts."""

    name = "stub"

    def __init__(self, masks: list[Any], scores: list[Any]):
        super().__init__()
        self.masks, self.scores = torch.tensor(masks) * 20.0 - 10.0, torch.tensor(scores)
        self.prompts = list[Prompts]()

    def embed(self, image: Tensor) -> Tensor:
        return image

    def predict(
        self, embedding: Tensor, prompts: Prompts, size: tuple[int, int], *, multimask: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        self.prompts.append(prompts)
        yield (self.masks, self.scores) if multimask else (self.masks[:, :1], self.scores[:, :1])

    def crop(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return logits

    def enlarge(self, logits: Tensor, size: tuple[int, int], output: tuple[int, int]) -> Tensor:
        return F.interpolate(logits[None], output, mode="nearest")[0]


def make_inputs(kinds: list[int]) -> MaskInputs:
    """Return inputs on a grid of 1×4, in which patches of one kind are similar; -1 is noise."""
    labels = torch.tensor(kinds)
    rows = ((labels[:, None] == labels[None]) & (labels >= 0)).float()
    rows = rows + torch.diag((labels < 0).float() * torch.arange(5, 9))  # far from all others
    return MaskInputs((1, 4), [(4, 8)], SETTINGS, labels.device, rows[None], torch.zeros(1, 3, 32, 64))


def mask(*columns: int, faint: int = -1) -> list[list[float]]:
    """Return a mask of whole columns. One column may have a logit of only 0.5."""
    return [[0.525 if column == faint else float(column in columns) for column in range(8)]] * 4


def get_columns(assignment: Tensor) -> list[int]:
    assert (assignment == assignment[:1]).all()
    return assignment[0].tolist()


TWO = make_inputs([0, 0, 1, 1])  # clusters in columns 0-3 and 4-7
NOISE = make_inputs([-1, -1, -1, -1])
OVERLAP = [[mask(7), mask(1, 2, 3, 4)], [mask(4, 5), mask(0)]]  # the best masks of both clusters contain column 4


@pytest.mark.parametrize(
    ("masks", "scores", "expected"),
    [
        # Columns 0, 6 and 7 are in no best mask and keep their clusters.
        pytest.param(OVERLAP, [[0.1, 0.6], [0.9, 0.2]], [0, 0, 0, 0, 1, 1, 1, 1], id="second is better"),
        pytest.param(OVERLAP, [[0.1, 0.95], [0.9, 0.2]], [0, 0, 0, 0, 0, 1, 1, 1], id="first is better"),
        pytest.param([[mask(3, 4)]] * 2, [[0.5]] * 2, [0, 0, 0, 0, 0, 1, 1, 1], id="equally good"),
        pytest.param([[EMPTY]] * 2, [[0.5]] * 2, [0, 0, 0, 0, 1, 1, 1, 1], id="empty masks"),
        pytest.param([[mask(*range(8))]] * 2, [[0.9], [0.5]], [0] * 8, id="all covered"),
    ],
)
def test_better_masks_are_drawn_over_worse_ones_and_clusters(
    masks: list[Any], scores: list[Any], expected: list[int]
) -> None:
    sam = StubSam(masks, scores)
    (proposals,) = SamSource(sam)(TWO)
    assert get_columns(proposals.assignment) == expected
    assert proposals.coarse.shape == (2, 1, 4)
    assert len(sam.prompts) == 1


def test_sam_is_not_run_without_clusters() -> None:
    sam = StubSam([], [])
    (proposals,) = SamSource(sam)(NOISE)
    assert len(proposals) == 0
    assert not sam.prompts


def test_prompts_are_points_or_the_box_of_each_cluster() -> None:
    sam = StubSam([[EMPTY]] * 2, [[0.5]] * 2)
    for prompt in ("points", "box"):
        SamSource(sam, prompt)(TWO)
    points, boxes = sam.prompts
    assert points.is_point.tolist() == [[True, True, False]] * 2
    assert sorted(points.points[1, :2].tolist()) == [[0.625, 0.5], [0.875, 0.5]]  # patches 2 and 3 of 4
    assert boxes.boxes.tolist() == [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]


DOUBTFUL, UNSTABLE = ([[mask(2), mask(6)]], [[0.87, 0.89]], TWO), ([[mask(2, faint=3)]], [[0.9]], TWO)


@pytest.mark.parametrize(
    ("masks", "scores", "inputs", "settings", "expected", "count"),
    [
        pytest.param(
            [[mask(2)], [mask(0, 1, 2, 3, 4)]], [[0.9], [0.95]], TWO, {}, [0, 0, 1, 0, 0, 2, 2, 2], 3, id="small on top"
        ),
        pytest.param([[mask(2, 3)]], [[0.9]], NOISE, {}, [1, 1, 0, 0, 1, 1, 1, 1], 2, id="gaps without clusters"),
        pytest.param(*DOUBTFUL, {}, [1, 1, 1, 1, 2, 2, 0, 2], 3, id="low IoU"),
        pytest.param(*DOUBTFUL, {"min_iou": 0.5}, [2, 2, 0, 2, 3, 3, 1, 3], 4, id="lower min_iou"),
        pytest.param(*UNSTABLE, {}, [0, 0, 0, 0, 1, 1, 1, 1], 2, id="unstable"),
        pytest.param(*UNSTABLE, {"min_stability": 0.4}, [1, 1, 0, 0, 2, 2, 2, 2], 3, id="lower min_stability"),
        pytest.param(
            [[mask(0, 1, 2, 3, 5)], [mask(0, 2, 3, 5)]], [[0.9], [0.95]], NOISE, {}, [0, 1, 0, 0, 1, 0, 1, 1], 2,
            id="the better of two masks with one box",
        ),
        pytest.param(
            [[mask(2)], [mask(0, 1, 2, 3, 4)]], [[0.9], [0.95]], TWO, {"large_on_top": True},
            [0, 0, 0, 0, 0, 1, 1, 1], 2, id="large on top",
        ),
        pytest.param(
            [[mask(2), mask(6)]], [[0.9, 0.9]], TWO, {"masks_per_point": 1}, [1, 1, 0, 1, 2, 2, 2, 2], 3,
            id="one mask per point",
        ),
        pytest.param([[mask(2)]], [[0.1]], TWO, {}, [0, 0, 0, 0, 1, 1, 1, 1], 2, id="no mask"),
        pytest.param([[mask(2)]], [[0.1]], NOISE, {}, [0] * 8, 0, id="no mask and no cluster"),
    ],
)  # fmt: skip
def test_automatic_masks(
    masks: list[Any], scores: list[Any], inputs: MaskInputs, settings: dict[str, Any], expected: list[int], count: int
) -> None:
    (proposals,) = SamAutomaticSource(StubSam(masks, scores), **settings)(inputs)
    assert (get_columns(proposals.assignment), len(proposals)) == (expected, count)


LEFT, PART = mask(0, 1, 2, 3, 4, 5, 6), mask(0, 1, 2, 3, 4)  # the part lies in the left mask


@pytest.mark.parametrize(
    ("masks", "scores", "settings", "expected"),
    [
        ([[mask(2), mask(5, 6)]], [[0.9, 0.95]], {}, [mask(5, 6), mask(2)]),  # the better first
        ([[PART, LEFT]], [[0.95, 0.9]], {"duplicate_iou": 0.9}, [PART, LEFT]),  # they overlap
        ([[PART, LEFT]], [[0.95, 0.9]], {"duplicate_iou": 0.5}, [PART]),
        ([[PART, LEFT]], [[0.95, 0.9]], {"duplicate_iou": 0.9, "merge": 0.8}, [LEFT]),
        ([[mask(2), LEFT]], [[0.95, 0.9]], {"merge": 0.8}, [LEFT, mask(2)]),  # small masks are not merged
        ([[mask(2)]], [[0.1]], {"merge": 0.8}, []),
    ],
)
def test_logits_of_overlapping_masks(
    masks: list[Any], scores: list[Any], settings: dict[str, float], expected: list[Any]
) -> None:
    logits = SamAutomaticSource(StubSam(masks, scores), **settings).predict_logits(torch.zeros(3, 32, 64), (4, 8))
    assert logits.dtype == torch.float16
    assert torch.equal(logits.float(), torch.tensor(expected).view(-1, 4, 8) * 20 - 10)


def test_sources_that_divide_the_image_have_no_logits() -> None:
    assert SamSource(StubSam([], [])).predict_logits(torch.zeros(3, 32, 64), (4, 8)) is None


def test_pixels_in_no_automatic_mask_are_in_no_region() -> None:
    (proposals,) = SamAutomaticSource(StubSam([[mask(2)], [mask(0, 1, 2, 3, 4)]], [[0.9], [0.95]]))(TWO)
    assert get_columns(proposals.regions()) == [0, 0, 1, 0, 0, -1, -1, -1]
    (proposals,) = SamAutomaticSource(StubSam([[mask(2)]], [[0.1]]))(NOISE)
    assert get_columns(proposals.regions()) == [-1] * 8
    (proposals,) = SamSource(StubSam([[EMPTY]] * 2, [[0.5]] * 2))(TWO)
    assert get_columns(proposals.regions()) == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("source", "setting", "value"),
    [
        (SamSource, "prompt", "mask"),
        (SamAutomaticSource, "points_per_side", 0),
        (SamAutomaticSource, "min_iou", 1.5),
        (SamAutomaticSource, "min_stability", -1.0),
        (SamAutomaticSource, "duplicate_iou", 2.0),
        (SamAutomaticSource, "merge", -0.5),
        (SamAutomaticSource, "masks_per_point", 2),
    ],
)
def test_a_setting_out_of_range_is_rejected(source: Any, setting: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"sam_{setting}: {value!r}"):
        source(StubSam([], []), **{setting: value})


@pytest.mark.parametrize("kind", ["save_sam", "save_sam2"])
@pytest.mark.parametrize(
    "options",
    [("sam",), ("sam", "MODEL.MASKS.SAM_PROMPT", "box"), ("sam_automatic", "MODEL.MASKS.SAM_MIN_IOU", "0.05")],
    ids=["points", "box", "automatic"],
)
def test_a_model_with_a_real_sam(tmp_path: Path, kind: str, options: tuple[str, ...]) -> None:
    pytest.importorskip("transformers")
    from tests.vision_models import tiny_models

    name, *others = options
    common = {
        "MODEL.MASKS.SOURCE": name,
        "MODEL.MASKS.SAM": getattr(tiny_models, kind)(tmp_path / "sam"),
        "MODEL.MASKS.SAM_MIN_STABILITY": "0.2",
        "MODEL.MASKS.SAM_POINTS_PER_SIDE": "3",
        "MODEL.CLIPTRASE.VOCABULARY": "['sky', 'grass']",
        "MODEL.CLIPTRASE.EPS": "0.5",
    }
    texts = [text for pair in common.items() for text in pair]
    model = build_model(tiny_config(tmp_path, *texts, *others)).eval()
    batch = [{"image": scene(index), "height": 50 + index, "width": 70} for index in range(2)]
    with torch.inference_mode():
        images = model.preprocess(batch)
        expected = model.predict_masks(images, model.encode_image(images).correlation, [(50, 70), (51, 70)])
    plain = build_model(tiny_config(tmp_path, *texts, "MODEL.MASKS.SOURCE", "scr")).eval()
    for output, masks, inputs in zip(model(batch), expected, batch, strict=True):
        assert output["label_map"].shape == (inputs["height"], inputs["width"])
        assert output["pred_masks"].shape == (len(masks), *output["label_map"].shape)
        assert masks.assignment.max() < len(masks)
        if name == "sam":
            assert len(masks) == len(plain([inputs])[0]["pred_masks"]) > 1
        assert masks.coarse.amin() >= 0
        torch.testing.assert_close(masks.coarse.sum(0), torch.ones_like(masks.coarse[0]))
        assert (model([inputs])[0]["label_map"] == output["label_map"]).float().mean() > 0.97
