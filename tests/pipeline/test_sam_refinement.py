"""The refinement of labels by SAM's decoder: prompts, masks, labels, and whole images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from cliptrase_d2.d2 import build_model
from cliptrase_d2.methods.trident import fit_photograph
from cliptrase_d2.pipeline import sam_refinement
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.sam_refinement import find_prompts, make_mask_prompt, merge_masks, refine_labels
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vision_models.sam_attention import SamReader
from cliptrase_d2.vision_models.sam_model import PromptedSam, load_sam
from cliptrase_d2.vocabulary import Vocabulary
from tests.methods.example_methods import Pixels
from tests.pipeline.tiny_segmenter import scene, tiny_config, tiny_segmenter
from tests.vision_models.tiny_models import save_sam, save_sam2

WORDS = Vocabulary.parse(["sky", "grass", "star"], ["wall", "floor"])
PROTOCOL = PublishedProtocol(window=64, stride=32, logit_scale=40.0)
SIZE = (60, 90)  # of the photograph


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def sam(sam_folder: str) -> PromptedSam:
    return load_sam(sam_folder)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def make_field(size: tuple[int, int], classes: int = 4, seed: int = 0) -> Tensor:
    """Return smooth probabilities, [C,H,W]."""
    coarse = torch.randn(1, classes, 3, 4, generator=torch.Generator().manual_seed(seed))
    return (4 * F.interpolate(coarse, size, mode="bilinear")[0]).softmax(0)


def one_hot(labels: Tensor, classes: int, probability: float) -> Tensor:
    """Return probabilities that are `probability` for the label and 0 for the other classes."""
    return probability * F.one_hot(labels, classes).movedim(2, 0).float()


# ------------------------------------------------------------------ prompts


def test_regions_touch_at_corners_and_give_a_box_and_a_point() -> None:
    labels = torch.zeros(50, 40, dtype=torch.int64)
    labels[:10, :15] = labels[10:20, 15:30] = 1  # 150 pixels each, joined at a corner
    labels[30:45, 5:20] = 1  # 225 pixels
    probabilities = one_hot(labels, 3, 0.5)
    probabilities[1, 12, 17] = probabilities[1, 40, 8] = 0.9
    (rest, _), (label, prompts) = find_prompts(labels, probabilities, 0.2)
    assert (rest, label) == (0, 1)
    scale = torch.tensor([40, 50])
    assert (prompts.boxes * scale.repeat(2)).round().tolist() == [[0, 0, 29, 19], [5, 30, 19, 44]]  # the last pixels
    assert (prompts.points[:, 0] * scale).round().tolist() == [[17, 12], [8, 40]]  # x, y
    assert prompts.is_point.tolist() == [[True], [True]]


def test_a_tie_of_probabilities_gives_the_first_pixel() -> None:
    labels = torch.zeros(20, 20, dtype=torch.int64)
    labels[3:, 2:] = 1
    labels[3, 2:8] = 0
    (_, prompts) = dict(find_prompts(labels, one_hot(labels, 2, 0.5), 0.2)).popitem()
    assert (prompts.points[0, 0] * 20).round().tolist() == [8, 3]


def test_a_component_under_225_pixels_is_no_prompt() -> None:
    labels = torch.zeros(15, 15, dtype=torch.int64)
    assert [label for label, _ in find_prompts(labels, one_hot(labels, 1, 0.5), 0.2)] == [0]
    labels[0, 0] = 1
    assert list(find_prompts(labels, one_hot(labels, 2, 0.5), 0.2)) == []


def test_no_component_above_the_threshold() -> None:
    labels = torch.zeros(20, 20, dtype=torch.int64)
    assert list(find_prompts(labels, one_hot(labels, 2, 0.5), 0.51)) == []
    assert len(list(find_prompts(labels, one_hot(labels, 2, 0.5), 0.5))) == 1  # reached


def test_pixels_below_the_threshold_divide_a_component() -> None:
    labels = torch.zeros(15, 31, dtype=torch.int64)
    probabilities = one_hot(labels, 2, 0.5)
    probabilities[:, :, 15] = 0.1
    ((_, prompts),) = find_prompts(labels, probabilities, 0.2)
    assert (prompts.boxes * torch.tensor([31, 15, 31, 15])).round().tolist() == [[0, 0, 14, 14], [16, 0, 30, 14]]


def test_a_class_that_is_probable_nowhere_is_no_prompt() -> None:
    """Pixels of the first class, such as the background, may have been set to it."""
    labels = torch.zeros(20, 40, dtype=torch.int64)
    probabilities = one_hot(1 - labels, 2, 0.5)
    assert list(find_prompts(labels, probabilities, 0.2)) == []
    probabilities[0, 0, 0] = 0.2
    assert len(list(find_prompts(labels, probabilities, 0.2))) == 1


@pytest.mark.parametrize("seed", range(3))
def test_prompts_equal_those_of_a_slow_loop(seed: int) -> None:
    probabilities = make_field((61, 47), classes=5, seed=seed)
    labels = probabilities.argmax(0)
    found = dict(find_prompts(labels, probabilities, 0.5))
    total = 0
    for label in range(5):
        inside = ((labels == label) & (probabilities.amax(0) >= 0.5)).numpy()
        numbers, count = ndimage.label(inside, np.ones((3, 3)))
        expected = []
        for number in range(1, count + 1):
            rows, columns = np.nonzero(numbers == number)
            if len(rows) >= 225:
                best = probabilities[label].numpy()[rows, columns].argmax()
                box = [columns.min(), rows.min(), columns.max(), rows.max()]
                expected.append([*map(int, box), int(columns[best]), int(rows[best])])
        total += len(expected)
        if not expected:
            assert label not in found
            continue
        own = torch.cat([found[label].boxes, found[label].points[:, 0]], dim=1) * torch.tensor([47, 61]).repeat(3)
        assert sorted(own.round().tolist()) == sorted(expected)
    assert total > 2


@pytest.mark.parametrize(
    ("size", "filled"), [((60, 90), (11, 16)), ((91, 61), (16, 11)), ((5, 700), (1, 16))], ids=["wide", "tall", "flat"]
)
def test_a_mask_prompt_fills_the_part_of_the_image(
    sam: PromptedSam, size: tuple[int, int], filled: tuple[int, int]
) -> None:
    assert sam.mask_side == 16
    probability = torch.full((size[0] // 2, size[1] // 2), 0.4)
    assert not make_mask_prompt(sam, probability, size, 0.401).any()
    mask = make_mask_prompt(sam, probability, size, 0.2)
    expected = torch.zeros(16, 16)
    expected[: filled[0], : filled[1]] = 0.4 * 0.005
    torch.testing.assert_close(mask, expected)


# ------------------------------------------------------------------ labels


def test_masks_are_merged_by_hand() -> None:
    labels = torch.tensor([[3, 3, 3, 3, 3]])
    probabilities = torch.tensor([0.5, 0.2, 0.4, 0.9])[:, None, None].expand(4, 1, 5)
    masks = [
        (0, torch.tensor([[-1.0, 1.0, 1.0, 0.0, 0.0]])),  # 0.5·0.731 = 0.366
        (1, torch.tensor([[-1.0, -1.0, 9.0, -1.0, -1.0]])),  # 0.2
        (2, torch.tensor([[-1.0, 3.0, 0.5, -1.0, 2.0]])),  # 0.4·0.953 = 0.381, 0.4·0.622 = 0.249, 0.4·0.881
        (2, torch.tensor([[-1.0, -5.0, 4.0, -1.0, -2.0]])),  # 0.4·0.982 = 0.393, the largest of the class
    ]
    assert merge_masks(labels, probabilities, masks).tolist() == [[3, 2, 2, 3, 2]]
    assert merge_masks(labels, probabilities, masks[:3]).tolist() == [[3, 2, 0, 3, 2]]
    assert torch.equal(merge_masks(labels, probabilities, []), labels)


def test_the_first_class_wins_a_tie() -> None:
    labels, mask = torch.full((1, 1), 2), torch.ones(1, 1)
    assert merge_masks(labels, torch.full((3, 1, 1), 0.3), [(0, mask), (1, mask)]).tolist() == [[0]]


def test_merging_equals_a_slow_loop() -> None:
    probabilities, generator = make_field((7, 9)), torch.Generator().manual_seed(1)
    labels = probabilities.argmin(0)
    masks = [(label, torch.randn(7, 9, generator=generator)) for label in (0, 1, 1, 3, 3, 3)]
    result = merge_masks(labels, probabilities, masks)
    for row in range(7):
        for column in range(9):
            scores = [0.0] * 4
            for label, mask in masks:
                logit = mask[row, column]
                if logit > 0:
                    scores[label] = max(scores[label], float(logit.sigmoid() * probabilities[label, row, column]))
            expected = scores.index(max(scores)) if max(scores) else int(labels[row, column])
            assert int(result[row, column]) == expected


# ------------------------------------------------------------------ the whole refinement


def embed(sam: PromptedSam, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    photograph = fit_photograph(scene(0, *size), 16)
    return SamReader(sam).embed(photograph), (photograph.shape[1], photograph.shape[2])


@pytest.mark.parametrize("size", [(60, 90), (61, 95), (95, 61), (64, 96)], ids=["even", "odd", "tall", "fits"])
def test_a_refinement_equals_a_slow_one(
    sam: PromptedSam, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    probabilities = make_field(size)
    labels = probabilities.argmax(0)
    embedding, seen = embed(sam, size)
    half = size[0] // 2, size[1] // 2
    small = F.interpolate(probabilities[None], half, mode="bilinear")[0]
    rows, columns = (torch.arange(n) * whole // n for n, whole in zip(half, size, strict=True))
    small_labels = labels[rows][:, columns]
    scale = torch.tensor([max(1, int(64 / max(half) * length + 0.5)) / length for length in half]).flip(0)  # of x, y
    drawn, scores = [], []
    for label, prompts in find_prompts(small_labels, small, 0.4):
        pixels = torch.tensor([half[1], half[0]])
        points, boxes = prompts.points * pixels, prompts.boxes * pixels.repeat(2)
        output = sam.model(
            image_embeddings=sam.add_mask_prompt(embedding, make_mask_prompt(sam, small[label], size, 0.4)),
            input_points=(points * scale)[None],
            input_labels=torch.ones(1, len(points), 1, dtype=torch.int64),
            input_boxes=(boxes * scale.repeat(2))[None],
            multimask_output=False,
        )
        scores.append(output.iou_scores.flatten())
        frame = [int(64 / max(seen) * length + 0.5) for length in seen]
        logits = F.interpolate(output.pred_masks[0], (64, 64), mode="bilinear")[..., : frame[0], : frame[1]]
        for resized in (seen, size):
            logits = F.interpolate(logits, resized, mode="bilinear")
        drawn += [(label, mask) for mask in logits[:, 0]]
    least = float(torch.cat(scores).sort().values[:2].mean())  # the worst mask is refused
    monkeypatch.setattr(sam_refinement, "_LEAST_IOU", least)
    kept = [one for one, score in zip(drawn, torch.cat(scores), strict=True) if score > least]
    assert len(kept) == len(drawn) - 1 > 0
    expected = torch.zeros_like(probabilities)
    for label, mask in kept:
        expected[label] = expected[label].maximum(torch.where(mask > 0, mask.sigmoid() * probabilities[label], 0))
    slow = torch.where(expected.sum(0) > 0, expected.argmax(0), labels)
    result = refine_labels(sam, embedding, seen, labels, probabilities, 0.4)
    assert (result != labels).any()
    assert (result == slow).float().mean() > 0.999


@pytest.mark.parametrize(
    ("least", "threshold"), [(1e9, 0.3), (-1e9, 1.0)], ids=["all masks refused", "no component above the threshold"]
)
def test_nothing_changes_without_a_mask(
    sam: PromptedSam, monkeypatch: pytest.MonkeyPatch, least: float, threshold: float
) -> None:
    monkeypatch.setattr(sam_refinement, "_LEAST_IOU", least)
    probabilities = 0.9 * make_field(SIZE)
    labels = probabilities.argmax(0)
    assert torch.equal(refine_labels(sam, *embed(sam, SIZE), labels, probabilities, threshold), labels)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (29, 30)], ids=str)
def test_an_image_that_is_too_small_for_a_component(sam: PromptedSam, size: tuple[int, int]) -> None:
    labels = torch.zeros(size, dtype=torch.int64)
    assert torch.equal(refine_labels(sam, *embed(sam, size), labels, one_hot(labels, 2, 0.9), 0.2), labels)


def test_one_class(sam: PromptedSam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam_refinement, "_LEAST_IOU", -1e9)
    labels = torch.zeros(SIZE, dtype=torch.int64)
    assert torch.equal(refine_labels(sam, *embed(sam, SIZE), labels, torch.ones(1, *SIZE), 0.2), labels)


# ------------------------------------------------------------------ the model


def build(sam: PromptedSam | None, method: str = "sclip", **changes: Any) -> CLIPtrase:
    options = {"window": 64, "stride": 32} if method == "trident" else {}
    settings = CLIPtraseSettings(method=method, clustering="none", method_options=options)
    protocol = replace(PROTOCOL, **{"sam_refinement": 0.2, **changes})
    return tiny_segmenter(settings=settings, protocol=protocol, vision_model=Pixels(), sam=sam)


def make_input(index: int = 0) -> dict[str, Any]:
    photograph = {"photograph": scene(index, *SIZE), "height": SIZE[0], "width": SIZE[1]}
    return {"image": scene(index, 84, 126), "vocabulary": WORDS, "output_sem_seg": True, **photograph}


@pytest.fixture
def accept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam_refinement, "_LEAST_IOU", -1e9)


@pytest.mark.usefixtures("accept_all")
@pytest.mark.parametrize("method", ["sclip", "trident"])
@pytest.mark.parametrize("prob_thd", [0.0, 0.3])
def test_any_method_is_refined(sam: PromptedSam, method: str, prob_thd: float) -> None:
    model, inputs = build(sam, method, prob_thd=prob_thd), make_input()
    (output,) = model([inputs])
    model.protocol = replace(model.protocol, sam_refinement=0.0, prob_thd=0.0)
    (plain,) = model([inputs])
    model.protocol = replace(model.protocol, prob_thd=prob_thd)
    (before,) = model([inputs])
    # In the published order the background, which is the last class here, is the first.
    embedding, seen = embed(sam, SIZE)
    labels, probabilities = (before["label_map"] + 1) % 4, plain["sem_seg"].roll(1, 0)
    expected = (refine_labels(sam, embedding, seen, labels, probabilities, 0.2) + 3) % 4
    changed = expected != before["label_map"]
    assert 0 < changed.float().mean() < 1
    assert (output["label_map"] == expected).float().mean() > 0.999
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])
    same = output["label_map"] == before["label_map"]
    torch.testing.assert_close(output["sem_seg"][:, same], before["sem_seg"][:, same])
    own = plain["sem_seg"].gather(0, output["label_map"][None])[0]
    torch.testing.assert_close(output["sem_seg"].sum(0)[~same], own[~same])


@pytest.mark.usefixtures("accept_all")
def test_the_vote_of_regions_comes_first(sam: PromptedSam) -> None:
    settings = CLIPtraseSettings(method="sclip", eps=0.5)
    protocol = replace(PROTOCOL, region_vote=True, sam_refinement=0.2)
    model, inputs = tiny_segmenter(settings=settings, protocol=protocol, sam=sam), make_input()
    (output,) = model([inputs])
    model.protocol = replace(protocol, sam_refinement=0.0)
    (voted,) = model([inputs])
    model.protocol = PROTOCOL
    model.configure(replace(settings, clustering="none"))
    (plain,) = model([inputs])
    assert (voted["label_map"] != plain["label_map"]).any()
    labels, probabilities = (voted["label_map"] + 1) % 4, plain["sem_seg"].roll(1, 0)
    expected = (refine_labels(sam, *embed(sam, SIZE), labels, probabilities, 0.2) + 3) % 4
    assert (output["label_map"] == expected).float().mean() > 0.999


@pytest.mark.usefixtures("accept_all")
@pytest.mark.parametrize("method", ["sclip", "trident"])
def test_two_images_of_a_batch_equal_each_alone(sam: PromptedSam, method: str) -> None:
    model, inputs = build(sam, method), [make_input(0), make_input(1)]
    for output, one in zip(model(inputs), inputs, strict=True):
        assert (output["label_map"] == model([one])[0]["label_map"]).float().mean() > 0.999


@pytest.mark.parametrize(("halves", "passes"), [(False, 1), (True, 3)], ids=["whole", "halves"])
def test_trident_and_the_refinement_share_a_pass_of_sam(sam: PromptedSam, halves: bool, passes: int) -> None:
    model, runs = build(sam, "trident"), []
    model.method.halves = halves
    handle = sam.model.vision_encoder.patch_embed.register_forward_hook(lambda *_: runs.append(1))
    model([make_input()])
    handle.remove()
    assert len(runs) == passes


# ------------------------------------------------------------------ errors and configuration


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(InputError, match=rf"sam_refinement: {threshold}"):
        PublishedProtocol(sam_refinement=threshold)


def test_a_missing_sam() -> None:
    with pytest.raises(InputError, match=r"^sam_refinement: 0\.2 without SAM"):
        build(None)


def test_sam_2_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^sam: .*a SAM 2"):
        build(load_sam(save_sam2(tmp_path)))


def test_a_missing_photograph(sam: PromptedSam) -> None:
    model, inputs = build(sam), make_input()
    assert model.needs_photograph
    del inputs["photograph"]
    with pytest.raises(InputError, match="photograph: missing"):
        model([inputs])


def test_sam_is_loaded_for_the_refinement_only(tmp_path: Path, sam_folder: str) -> None:
    options = ("MODEL.MASKS.SAM", sam_folder, "TEST.PROTOCOL", "published", "MODEL.CLIPTRASE.CLUSTERING", "none")
    plain = tiny_config(tmp_path, *options, "MODEL.CLIPTRASE.METHOD", "sclip")
    refined = tiny_config(tmp_path, *options, "TEST.PUBLISHED.SAM_REFINEMENT", "0.2", "MODEL.CLIPTRASE.METHOD", "sclip")
    assert [CLIPtrase.get_needs_photograph(cfg) for cfg in (plain, refined)] == [False, True]
    assert build_model(plain).sam is None
    assert build_model(refined).extra_models["sam"]["name"] == sam_folder
    slide = tiny_config(tmp_path, *options[:2], "TEST.PUBLISHED.SAM_REFINEMENT", "0.2")
    assert not CLIPtrase.get_needs_photograph(slide)  # a key of the published protocol
    assert build_model(slide).sam is None
