from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cliptrase_d2.pipeline import classify
from tests.pipeline import reference

NO_MASKS = torch.zeros(4, 5, dtype=torch.int64)  # what the proposals assign where there is no mask


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def vote(labels: Tensor, assignment: Tensor, masks: int, classes: int) -> classify.Classification:
    """Of one image."""
    return classify.vote(labels[None], [assignment], [masks], classes)[0]


def test_patch_logits_are_scaled_similarities() -> None:
    patches, words = torch.randn(2, 5, 3), unit(4, 3)
    found = classify.patch_logits(patches, words, 100.0)
    assert found.shape == (2, 5, 4)
    for image in range(2):
        for patch in range(5):
            for word in range(4):
                expected = 100 * reference.inner_product(patches[image, patch], words[word])
                assert found[image, patch, word].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_class_token_multiplies_word_by_word() -> None:
    # Scale 10: patch (1,0) has logits 10·(1, 0.6), the class token (0,1) has 10·(0, 0.8).
    words = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    patches, class_token = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[0.0, 1.0]])
    found = classify.patch_logits(patches, words, 10.0, class_token)
    torch.testing.assert_close(found, torch.tensor([[[0.0, 48.0]]]))


def test_each_image_is_weighted_by_its_own_class_token() -> None:
    patches, words, class_token = unit(3, 6, 8), unit(4, 8), unit(3, 8)
    found = classify.patch_logits(patches, words, 20.0, class_token)
    alone = [classify.patch_logits(patches[i : i + 1], words, 20.0, class_token[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(found, torch.cat(alone))


def test_half_precision_patches_give_float32_logits() -> None:
    patches, words = unit(1, 5, 8).half(), unit(3, 8)
    torch.testing.assert_close(
        classify.patch_logits(patches, words, 100.0), 100 * patches.float() @ words.T, atol=1e-4, rtol=1e-5
    )


def test_pixel_labels_are_the_classes_of_the_best_words() -> None:
    logits = torch.randn(2, 6, 3, 4)
    class_index = torch.tensor([0, 0, 1, 2, 2, 2])
    found = classify.pixel_labels(logits, class_index, (13, 9))
    for image in range(2):
        best = reference.first_argmax(reference.upsample(logits[image], (13, 9)))
        assert torch.equal(found[image], class_index[best])


def test_synonyms_do_not_add_up() -> None:
    # Class 1 has two good words, class 0 the best one.
    logits = torch.tensor([3.0, 2.0, 2.0])[None, :, None, None]
    assert classify.pixel_labels(logits, torch.tensor([0, 1, 1]), (2, 2)).eq(0).all()


def test_background_prompts_are_one_class_before_the_vote() -> None:
    # Prompts 2, 3, 4 are background. None of them has as many pixels as class 0, together they have more.
    words = torch.tensor([[0, 0, 0, 1], [2, 2, 3, 4]])
    logits = F.one_hot(words, 5).permute(2, 0, 1).float()
    labels = classify.pixel_labels(logits[None], torch.tensor([0, 1, 2, 2, 2]), (2, 4))[0]
    found = vote(labels, torch.zeros(2, 4, dtype=torch.int64), masks=1, classes=3)
    assert found.label_map.tolist() == [[2, 2, 2, 2], [2, 2, 2, 2]]


@given(masks=st.integers(1, 7), classes=st.integers(1, 9), seed=st.integers(0, 1000))
def test_vote_counts_ballots(masks: int, classes: int, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (6, 7), generator=chance)
    assignment = torch.randint(masks, (6, 7), generator=chance)
    found = vote(labels, assignment, masks, classes)
    assert torch.equal(found.label_map, reference.vote(labels, assignment))
    assert found.mask_logits.shape == (masks, classes)
    assert found.mask_logits.isfinite().all()


def test_a_tied_vote_goes_to_the_smallest_label() -> None:
    labels = torch.tensor([[5, 5, 3, 3, 8]])
    found = vote(labels, torch.zeros_like(labels), masks=1, classes=9)
    assert found.label_map.eq(3).all()


def test_vote_logits_are_log_shares() -> None:
    labels = torch.tensor([[0, 0, 0, 2], [1, 1, 1, 1]])
    assignment = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]])
    found = vote(labels, assignment, masks=2, classes=3).mask_logits.softmax(1)
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.0, 0.25], [0.0, 1.0, 0.0]]))


def test_a_mask_without_pixels_is_skipped_and_prefers_no_class() -> None:
    labels = torch.tensor([[1, 1, 0]])
    assignment = torch.tensor([[0, 0, 2]])  # nothing for mask 1
    found = vote(labels, assignment, masks=3, classes=2)
    assert found.label_map.tolist() == [[1, 1, 0]]
    assert found.mask_logits.isfinite().all()
    assert found.mask_logits[1].unique().numel() == 1


def test_without_masks_the_vote_leaves_the_pixel_labels() -> None:
    labels = torch.randint(3, (4, 5))
    found = vote(labels, NO_MASKS, masks=0, classes=3)
    assert torch.equal(found.label_map, labels)
    assert found.mask_logits.shape == (0, 3)


def test_images_of_a_batch_vote_on_their_own() -> None:
    labels, assignments, masks = torch.randint(4, (4, 6, 7)), torch.randint(3, (4, 6, 7)), [3, 0, 3, 5]
    assignments[1] = 0
    together = classify.vote(labels, list(assignments), masks, 4)
    for index, found in enumerate(together):
        alone = vote(labels[index], assignments[index], masks[index], 4)
        assert torch.equal(found.label_map, alone.label_map)
        assert torch.equal(found.mask_logits, alone.mask_logits)


def test_without_masks_the_mean_leaves_the_pixel_labels() -> None:
    labels = torch.randint(3, (4, 5))
    found = classify.mean(labels, NO_MASKS, 0, torch.randn(3, 2, 2), torch.arange(3), classes=3)
    assert torch.equal(found.label_map, labels)
    assert found.mask_logits.shape == (0, 3)


@given(
    masks=st.integers(1, 5),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 1000),
)
def test_mean_logits_are_those_of_the_upsampled_logits(
    masks: int, grid: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, *grid, generator=chance)
    assignment = torch.randint(masks, size, generator=chance)
    class_index = torch.tensor([0, 1, 1, 2, 3])
    found = classify.mean(torch.zeros_like(assignment), assignment, masks, logits, class_index, classes=4)
    words = reference.mean_logits(reference.upsample(logits, size), assignment, masks)
    expected = torch.stack([words[:, 0], words[:, 1:3].amax(1), words[:, 3], words[:, 4]], dim=1)
    torch.testing.assert_close(found.mask_logits.double(), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(found.label_map, found.mask_logits.argmax(1)[assignment])


def test_the_mean_of_a_mask_without_pixels_is_finite() -> None:
    found = classify.mean(
        torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.int64), 2, torch.randn(3, 2, 2),
        torch.arange(3), classes=3,
    )  # fmt: skip
    assert found.mask_logits.isfinite().all()
    assert found.mask_logits[1].eq(0).all()


def test_vote_and_mean_may_differ() -> None:
    # One pixel is very sure of class 1, two are barely of class 0.
    logits = torch.tensor([[[1.0, 1.0, 0.0]], [[0.9, 0.9, 9.0]]])
    index, one_mask = torch.arange(2), torch.zeros(1, 3, dtype=torch.int64)
    labels = classify.pixel_labels(logits[None], index, (1, 3))[0]
    assert labels.tolist() == [[0, 0, 1]]
    assert vote(labels, one_mask, 1, 2).label_map.tolist() == [[0, 0, 0]]
    found = classify.mean(labels, one_mask, 1, logits, index, 2)
    assert found.label_map.tolist() == [[1, 1, 1]]
    torch.testing.assert_close(found.mask_logits, torch.tensor([[2 / 3, 3.6]]))


def test_one_class_is_everywhere() -> None:
    logits, index = torch.randn(1, 3, 3), torch.zeros(1, dtype=torch.int64)
    labels = classify.pixel_labels(logits[None], index, (6, 6))[0]
    assignment = torch.randint(2, (6, 6))
    for found in (vote(labels, assignment, 2, 1), classify.mean(labels, assignment, 2, logits, index, 1)):
        assert found.label_map.eq(0).all()
        assert found.mask_logits.shape == (2, 1)


def test_847_classes() -> None:
    logits, index = torch.randn(847, 5, 7), torch.arange(847)
    labels = classify.pixel_labels(logits[None], index, (40, 56))[0]
    assignment = torch.randint(3, (40, 56))
    found = vote(labels, assignment, 3, 847)
    assert torch.equal(found.label_map, reference.vote(labels, assignment))
    assert math.isclose(found.mask_logits.exp().sum().item(), 3, abs_tol=1e-4)


def test_confidence_is_the_mean_probability_over_a_classs_pixels() -> None:
    # Two patches beside each other: ln 3 against 0 is 3/4 to 1/4, ln 1 against 0 a half each.
    logits = torch.tensor([[[math.log(3), 0.0]], [[0.0, 0.0]]])  # [2,1,2]
    index, one_each = torch.tensor([0, 1]), torch.tensor([[0, 1]])
    torch.testing.assert_close(classify.class_confidence(one_each, logits, index, 2), torch.tensor([0.75, 0.5]))
    both = torch.tensor([[0, 0]])  # the mean of 3/4 and 1/2; the other class has no pixel
    torch.testing.assert_close(classify.class_confidence(both, logits, index, 2), torch.tensor([0.625, 0.0]))


def test_confidence_of_a_class_is_that_of_its_best_word() -> None:
    logits = torch.tensor([0.0, math.log(3), 0.0])[:, None, None]  # two words, then one: 3/4 to 1/4
    found = classify.class_confidence(torch.zeros(2, 2, dtype=torch.int64), logits, torch.tensor([0, 0, 1]), 2)
    assert found[0].item() == pytest.approx(0.75)


def test_confidence_is_the_mean_of_upsampled_probabilities() -> None:
    logits, index = torch.randn(5, 3, 4), torch.tensor([0, 0, 1, 2, 3])
    labels = torch.randint(0, 3, (11, 17))
    best = torch.stack([logits[index == c].amax(0) for c in range(4)])  # [4,3,4]
    upsampled = reference.upsample(best.softmax(0), (11, 17))
    expected = [upsampled[c][labels == c].mean() for c in range(3)]
    found = classify.class_confidence(labels, logits, index, 4)
    torch.testing.assert_close(found, torch.tensor([*expected, 0.0]), atol=1e-5, rtol=1e-5)
