"""The two pictures that explain an image, from arrays made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cliptrase_d2.visualization import explanation
from cliptrase_d2.visualization.explanation import Grouping, clustering_picture, correlation_picture
from cliptrase_d2.visualization.legend import paragraphs, with_caption
from cliptrase_d2.visualization.overlay import overlay, palette

GREY = np.full((40, 80, 3), 90, np.uint8)  # 2x4 patches of 20 pixels
MAGENTA = (255, 0, 255)
NONE = np.zeros((2, 4), bool)


def correlation(count: int = 2, **arguments: object) -> np.ndarray:
    values = np.arange(8.0).reshape(2, 4)
    maps, is_global = np.stack([values] * count), np.stack([NONE] * count)
    return correlation_picture(GREY, (0, 0), maps, maps, is_global, side=80, **arguments)  # type: ignore[arg-type]


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written above panels, in turn."""
    found: list[str] = []

    def note(picture: np.ndarray, text: str) -> np.ndarray:
        found.append(text)
        return picture

    monkeypatch.setattr(explanation, "with_caption", note)
    return found


def test_layers_stand_side_by_side_attention_above_and_recovered_below(captions: list[str]) -> None:
    is_global = np.stack([NONE, NONE])
    is_global[1, 1, 2:] = True
    maps = np.stack([np.eye(2, 4)] * 2)
    picture = correlation_picture(GREY, (0, 3), maps, maps, is_global, clustered=0, side=80)
    assert captions == [
        "layer 1: attention, 0 global", "layer 2: attention, 2 global",
        "layer 1: recovered, clustered", "layer 2: recovered", "image, with one patch",
    ]  # fmt: skip
    marked = np.argwhere((picture == MAGENTA).all(2))  # the last panel of the first row alone
    left = picture.shape[1] - 80
    assert marked.min(0).tolist() == [20, left + 40]
    assert marked.max(0).tolist() == [39, left + 79]


def test_only_the_layers_that_are_asked_for_are_drawn(captions: list[str]) -> None:
    correlation(3, layers=[2, 0])
    assert captions[:2] == ["layer 3: attention, 0 global", "layer 1: attention, 0 global"]
    assert len(captions) == 5


def test_seven_layers_take_two_more_rows_and_no_more_width() -> None:
    six, seven = correlation(6), correlation(7)
    assert seven.shape[1] == six.shape[1]
    assert len(seven) > len(six) + 2 * 40


def test_the_note_comes_first_under_the_image() -> None:
    without, noted = correlation(), correlation(note="random weights")
    assert noted.shape[1] == without.shape[1]
    below = with_caption(GREY, "image, with one patch").shape[0] + 12
    first = paragraphs(["random weights"], (1, 200))
    np.testing.assert_array_equal(noted[below : below + len(first), :200], first)


@pytest.mark.parametrize("size", [(20, 900), (900, 20), (1200, 800)], ids=str)
def test_thin_and_large_images_can_be_drawn(size: tuple[int, int]) -> None:
    image, maps = np.full((*size, 3), 90, np.uint8), np.ones((1, 2, 4))
    picture = correlation_picture(image, (1, 3), maps, maps, np.ones((1, 2, 4), bool))
    assert max(picture.shape) < 1000
    labels = np.zeros(size, np.int64)
    both = Grouping(np.zeros((2, 4), np.int64), labels)
    assert max(clustering_picture(image, NONE, both, both).shape) < 1400


def grouping(clusters: Sequence[Sequence[int]]) -> Grouping:
    """Clusters, and masks of the same shape."""
    array = np.array(clusters)
    return Grouping(array, np.repeat(np.repeat(array, 20, 0), 20, 1))


BEFORE = grouping([[0, 1, 1, -1], [0, 2, -1, -1]])
AFTER = grouping([[-1, 0, 0, 0], [1, 2, 0, 0]])


def test_captions_count_clusters_noise_and_masks(captions: list[str]) -> None:
    is_global = NONE.copy()
    is_global[0, 0] = True
    clustering_picture(GREY, is_global, BEFORE, AFTER)
    assert captions == [
        "before denoising: 3 clusters, 38 % noise", "before denoising: 3 masks",
        "after denoising: 3 clusters, 12 % noise", "after denoising: 3 masks",
        "image, 1 global patch",
    ]  # fmt: skip


def test_all_noise_and_one_cluster(captions: list[str]) -> None:
    noise, one = grouping([[-1] * 4] * 2), grouping([[0] * 4] * 2)
    picture = clustering_picture(GREY, NONE, noise, one, side=80)
    assert captions == [
        "before denoising: 0 clusters, 100 % noise", "before denoising: 0 masks",
        "after denoising: 1 cluster, 0 % noise", "after denoising: 1 mask",
        "image, 0 global patches",
    ]  # fmt: skip
    assert (picture[:40, -80:] == 45).all()  # in the dark
    clustering_picture(GREY, NONE, one, noise)
    assert captions[5:7] == ["before denoising: 1 cluster, 0 % noise", "before denoising: 1 mask"]


def test_clusters_that_share_patches_have_one_colour(captions: list[str]) -> None:
    # Cluster 1 before is 0 after, cluster 0 is 1, and cluster 2 stays.
    picture = clustering_picture(GREY, NONE, BEFORE, AFTER, side=80)
    before, after = picture[:40, -80:], picture[52:92, -80:]  # 12 pixels between them
    for place, number in (((5, 30), 0), ((30, 5), 1), ((30, 30), 2)):
        shown = overlay(GREY, np.zeros((40, 80), int), palette(3)[number][None])[0, 0]
        np.testing.assert_array_equal(before[place], shown)
        np.testing.assert_array_equal(after[place], shown)


def test_a_cluster_without_a_partner_has_a_colour_of_its_own() -> None:
    numbered = explanation.numbered_like(grouping([[0, 0, 1, 2], [0, 0, 1, -1]]), grouping([[0, 0, -1, -1]] * 2))
    assert numbered.clusters.tolist() == [[0, 0, 1, 2], [0, 0, 1, -1]]
    numbered = explanation.numbered_like(grouping([[0, 0, 1, 1], [0, 2, 1, -1]]), grouping([[-1, 0, 1, 1]] * 2))
    # The second shares four patches with cluster 1; the first and the third one each with cluster 0.
    assert sorted(np.unique(numbered.clusters)) == [-1, 0, 1, 2]
    assert numbered.clusters[0, 2] == 1
    assert numbered.masks[5, 45] == 1


def test_global_patches_are_outlined_before_and_not_after() -> None:
    picture = clustering_picture(GREY, ~NONE, BEFORE, AFTER, side=80)
    rows = np.argwhere((picture == MAGENTA).all(2))[:, 0]
    assert rows.size
    assert rows.max() < len(picture) - 40
