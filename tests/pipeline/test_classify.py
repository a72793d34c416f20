import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cliptrase_d2.pipeline import classify
from tests.pipeline import reference


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def vote(labels: Tensor, assignment: Tensor, masks: int, classes: int) -> classify.Classification:
    """Vote in one image."""
    return classify.vote(labels[None], [assignment], [masks], classes)[0]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "class-token"])
def test_patch_logits_are_scaled_similarities(weighted: bool) -> None:
    patches, words, class_token = unit(2, 5, 3).half(), unit(4, 3), unit(2, 3)
    logits = classify.patch_logits(patches, words, 20.0, class_token if weighted else None)
    assert (logits.shape, logits.dtype) == ((2, 5, 4), torch.float32)
    for image in range(2):
        for patch in range(5):
            for word in range(4):
                expected = 20 * reference.inner_product(patches[image, patch], words[word])
                if weighted:
                    expected *= 20 * reference.inner_product(class_token[image], words[word])
                assert logits[image, patch, word].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_class_token_multiplies_word_by_word() -> None:
    # Scale 10: patch (1,0) has logits 10·(1, 0.6), the class token (0,1) has 10·(0, 0.8).
    words = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    patches, class_token = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[0.0, 1.0]])
    logits = classify.patch_logits(patches, words, 10.0, class_token)
    torch.testing.assert_close(logits, torch.tensor([[[0.0, 48.0]]]))


def test_pixel_labels_are_the_classes_of_the_best_words() -> None:
    logits, class_index = torch.randn(2, 6, 3, 4), torch.tensor([0, 0, 1, 2, 2, 2])
    for labels, image in zip(classify.pixel_labels(logits, class_index, (13, 9)), logits, strict=True):
        assert torch.equal(labels, class_index[reference.first_argmax(reference.upsample(image, (13, 9)))])


def test_background_prompts_are_one_class_in_the_vote() -> None:
    # Prompts 2, 3, 4 are background. None of them has as many pixels as class 0, together they have more.
    words = torch.tensor([[0, 0, 0, 1], [2, 2, 3, 4]])
    logits = F.one_hot(words, 5).permute(2, 0, 1).float()
    labels = classify.pixel_labels(logits[None], torch.tensor([0, 1, 2, 2, 2]), (2, 4))[0]
    prediction = vote(labels, torch.zeros(2, 4, dtype=torch.int64), masks=1, classes=3)
    assert prediction.label_map.eq(2).all()


@given(masks=st.integers(1, 7), classes=st.integers(1, 9), seed=st.integers(0, 1000))
def test_vote_counts_labels(masks: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (6, 7), generator=generator)
    assignment = torch.randint(masks, (6, 7), generator=generator)
    prediction = vote(labels, assignment, masks, classes)
    assert torch.equal(prediction.label_map, reference.vote(labels, assignment))
    assert prediction.mask_logits.shape == (masks, classes)
    assert prediction.mask_logits.isfinite().all()


def test_a_tied_vote_goes_to_the_smallest_label() -> None:
    labels = torch.tensor([[5, 5, 3, 3, 8]])
    assert vote(labels, torch.zeros_like(labels), masks=1, classes=9).label_map.eq(3).all()


def test_vote_logits_are_log_shares() -> None:
    labels = torch.tensor([[0, 0, 0, 2], [1, 1, 1, 1]])
    assignment = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]])
    shares = vote(labels, assignment, masks=2, classes=3).mask_logits.softmax(1)
    torch.testing.assert_close(shares, torch.tensor([[0.75, 0.0, 0.25], [0.0, 1.0, 0.0]]))


def test_a_mask_without_pixels_prefers_no_class() -> None:
    labels, assignment = torch.tensor([[1, 1, 0]]), torch.tensor([[0, 0, 2]])  # mask 1 has no pixel
    prediction = vote(labels, assignment, masks=3, classes=2)
    assert prediction.label_map.tolist() == [[1, 1, 0]]
    assert prediction.mask_logits.isfinite().all()
    assert prediction.mask_logits[1].unique().numel() == 1
    logits = torch.randn(2, 1, 3)
    assert classify.mean(labels, assignment, 3, logits, torch.arange(2), 2).mask_logits[1].eq(0).all()


@pytest.mark.parametrize("rule", ["vote", "mean"])
def test_without_masks_the_pixel_labels_stay(rule: str) -> None:
    labels, assignment = torch.randint(3, (4, 5)), torch.zeros(4, 5, dtype=torch.int64)
    if rule == "vote":
        prediction = vote(labels, assignment, masks=0, classes=3)
    else:
        prediction = classify.mean(labels, assignment, 0, torch.randn(3, 2, 2), torch.arange(3), classes=3)
    assert torch.equal(prediction.label_map, labels)
    assert prediction.mask_logits.shape == (0, 3)


def test_a_batch_votes_as_its_images_do_one_by_one() -> None:
    labels, assignments, masks = torch.randint(4, (4, 6, 7)), torch.randint(3, (4, 6, 7)), [3, 0, 3, 5]
    assignments[1] = 0
    for index, prediction in enumerate(classify.vote(labels, list(assignments), masks, 4)):
        alone = vote(labels[index], assignments[index], masks[index], 4)
        assert torch.equal(prediction.label_map, alone.label_map)
        assert torch.equal(prediction.mask_logits, alone.mask_logits)


@given(
    masks=st.integers(1, 5),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 1000),
)
def test_mean_logits_are_means_of_the_upsampled_logits(
    masks: int, grid: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, *grid, generator=generator)
    assignment = torch.randint(masks, size, generator=generator)
    class_index = torch.tensor([0, 1, 1, 2, 3])
    prediction = classify.mean(torch.zeros_like(assignment), assignment, masks, logits, class_index, classes=4)
    words = reference.mean_logits(reference.upsample(logits, size), assignment, masks)
    expected = torch.stack([words[:, 0], words[:, 1:3].amax(1), words[:, 3], words[:, 4]], dim=1)
    torch.testing.assert_close(prediction.mask_logits.double(), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(prediction.label_map, prediction.mask_logits.argmax(1)[assignment])


def test_vote_and_mean_may_differ() -> None:
    # One pixel prefers class 1 strongly, two prefer class 0 slightly.
    logits = torch.tensor([[[1.0, 1.0, 0.0]], [[0.9, 0.9, 9.0]]])
    index, one_mask = torch.arange(2), torch.zeros(1, 3, dtype=torch.int64)
    labels = classify.pixel_labels(logits[None], index, (1, 3))[0]
    assert labels.tolist() == [[0, 0, 1]]
    assert vote(labels, one_mask, 1, 2).label_map.tolist() == [[0, 0, 0]]
    prediction = classify.mean(labels, one_mask, 1, logits, index, 2)
    assert prediction.label_map.tolist() == [[1, 1, 1]]
    torch.testing.assert_close(prediction.mask_logits, torch.tensor([[2 / 3, 3.6]]))


@pytest.mark.parametrize("classes", [1, 847])
def test_number_of_classes(classes: int) -> None:
    logits, index = torch.randn(classes, 5, 7), torch.arange(classes)
    labels = classify.pixel_labels(logits[None], index, (40, 56))[0]
    assignment = torch.randint(3, (40, 56))
    voted, averaged = vote(labels, assignment, 3, classes), classify.mean(labels, assignment, 3, logits, index, classes)
    assert torch.equal(voted.label_map, reference.vote(labels, assignment))
    assert math.isclose(voted.mask_logits.exp().sum().item(), 3, abs_tol=1e-4)
    assert voted.mask_logits.shape == averaged.mask_logits.shape == (3, classes)


def test_confidence_is_the_mean_probability_over_the_pixels_of_a_class() -> None:
    # Two patches side by side: logits ln 3 and 0 are probabilities 3/4 and 1/4, equal logits 1/2 each.
    logits = torch.tensor([[[math.log(3), 0.0]], [[0.0, 0.0]]])  # [2,1,2]
    scores, one_each = classify.class_probabilities(logits, torch.tensor([0, 1]), 2), torch.tensor([[0, 1]])
    torch.testing.assert_close(classify.class_confidence(one_each, scores), torch.tensor([0.75, 0.5]))
    both = torch.tensor([[0, 0]])  # the mean of 3/4 and 1/2; the other class has no pixel
    torch.testing.assert_close(classify.class_confidence(both, scores), torch.tensor([0.625, 0.0]))
    unknown = torch.tensor([[0, -1]])
    torch.testing.assert_close(classify.class_confidence(unknown, scores), torch.tensor([0.75, 0.0]))


def test_confidence_is_the_mean_of_upsampled_probabilities_of_the_best_words() -> None:
    logits, index = torch.randn(5, 3, 4), torch.tensor([0, 0, 1, 2, 3])
    labels = torch.randint(0, 3, (11, 17))
    best = torch.stack([logits[index == c].amax(0) for c in range(4)])  # [4,3,4]
    upsampled = reference.upsample(best.softmax(0), (11, 17))
    expected = torch.tensor([*(upsampled[c][labels == c].mean() for c in range(3)), 0.0])
    confidence = classify.class_confidence(labels, classify.class_probabilities(logits, index, 4))
    torch.testing.assert_close(confidence, expected, atol=1e-5, rtol=1e-5)


def test_pixels_below_the_threshold_become_unknown() -> None:
    scores = torch.tensor([[[0.8, 0.4]], [[0.2, 0.6]]])  # [2,1,2]; upsampled, class 0 has 0.8, 0.7, 0.5, 0.4
    labels = torch.tensor([[0, 0, 0, -1]])
    assert classify.mark_unknown(labels, scores, 0.6).tolist() == [[0, 0, -1, -1]]
    assert classify.mark_unknown(labels, scores, 0.0).tolist() == labels.tolist()


def test_votes_of_large_images_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, assignments = torch.randint(4, (2, 30, 20)), [torch.randint(3, (30, 20)) for _ in range(2)]
    expected = classify.vote(labels, assignments, [3, 3], 4)
    monkeypatch.setattr(classify, "_VOTES_AT_ONCE", 100)
    for found, whole in zip(classify.vote(labels, assignments, [3, 3], 4), expected, strict=True):
        assert torch.equal(found.label_map, whole.label_map)
        assert torch.equal(found.mask_logits, whole.mask_logits)
