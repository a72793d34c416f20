"""The two explanation pictures, from hand-made arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cliptrase_d2.visualization import explanation
from cliptrase_d2.visualization.colours import palette
from cliptrase_d2.visualization.explanation import Grouping, draw_clustering, draw_correlation, renumber
from cliptrase_d2.visualization.legend import add_caption, paragraphs
from cliptrase_d2.visualization.overlay import overlay

GREY = np.full((40, 80, 3), 90, np.uint8)  # 2x4 patches of 20 pixels
MAGENTA = (255, 0, 255)
NONE = np.zeros((2, 4), bool)


def draw_example(count: int = 2, **options: object) -> np.ndarray:
    maps, is_global = np.stack([np.arange(8.0).reshape(2, 4)] * count), np.stack([NONE] * count)
    return draw_correlation(GREY, (0, 0), maps, maps, is_global, side=80, **options)  # type: ignore[arg-type]


def make_grouping(clusters: Sequence[Sequence[int]]) -> Grouping:
    """Clusters, and masks of the same shapes."""
    array = np.array(clusters)
    return Grouping(array, array.repeat(20, 0).repeat(20, 1))


BEFORE = make_grouping([[0, 1, 1, -1], [0, 2, -1, -1]])
AFTER = make_grouping([[-1, 0, 0, 0], [1, 2, 0, 0]])
NOISE, SINGLE = make_grouping([[-1] * 4] * 2), make_grouping([[0] * 4] * 2)


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The captions of all panels, which are drawn without them."""
    texts: list[str] = []

    def record(picture: np.ndarray, text: str) -> np.ndarray:
        texts.append(text)
        return picture

    monkeypatch.setattr(explanation, "add_caption", record)
    return texts


def test_attention_is_above_the_recovered_correlation(captions: list[str]) -> None:
    is_global = np.stack([NONE, NONE])
    is_global[1, 1, 2:] = True
    maps = np.stack([np.eye(2, 4)] * 2)
    picture = draw_correlation(GREY, (0, 3), maps, maps, is_global, clustered=0, side=80)
    assert sorted(captions) == [
        "image, with one patch", "layer 1: attention, 0 global", "layer 1: recovered, clustered",
        "layer 2: attention, 2 global", "layer 2: recovered",
    ]  # fmt: skip
    outlined = np.argwhere((picture == MAGENTA).all(2))  # only in the last panel of the first row
    left = picture.shape[1] - 80
    assert outlined.min(0).tolist() == [20, left + 40]
    assert outlined.max(0).tolist() == [39, left + 79]


def test_only_the_selected_layers_are_drawn(captions: list[str]) -> None:
    draw_example(3, layers=[2, 0])
    assert [text for text in captions if "attention" in text] == [
        "layer 3: attention, 0 global", "layer 1: attention, 0 global",
    ]  # fmt: skip


def test_the_seventh_layer_starts_new_rows() -> None:
    six, seven = draw_example(6), draw_example(7)
    assert seven.shape[1] == six.shape[1]
    assert len(seven) > len(six) + 2 * 40


def test_the_note_is_the_first_line_below_the_image() -> None:
    picture = draw_example(note="random weights")
    top = add_caption(GREY, "image, with one patch").shape[0] + 12
    line = paragraphs(["random weights"], (1, 200))
    np.testing.assert_array_equal(picture[top : top + len(line), :200], line)


@pytest.mark.parametrize("size", [(20, 900), (900, 20), (1200, 800)], ids=str)
def test_thin_and_large_images(size: tuple[int, int]) -> None:
    image, maps = np.full((*size, 3), 90, np.uint8), np.ones((1, 2, 4))
    assert max(draw_correlation(image, (1, 3), maps, maps, np.ones((1, 2, 4), bool)).shape) < 1000
    grouping = Grouping(np.zeros((2, 4), np.int64), np.zeros(size, np.int64))
    assert max(draw_clustering(image, NONE, grouping, grouping).shape) < 1400


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (BEFORE, AFTER, ["3 clusters, 38 % noise", "3 masks", "3 clusters, 12 % noise", "3 masks"]),
        (NOISE, SINGLE, ["0 clusters, 100 % noise", "0 masks", "1 cluster, 0 % noise", "1 mask"]),
        (SINGLE, NOISE, ["1 cluster, 0 % noise", "1 mask", "0 clusters, 100 % noise", "0 masks"]),
    ],
    ids=["mixed", "all noise before", "all noise after"],
)
def test_captions_count_clusters_noise_and_masks(
    captions: list[str], before: Grouping, after: Grouping, expected: list[str]
) -> None:
    is_global = NONE.copy()
    is_global[0, 0] = True
    picture = draw_clustering(GREY, is_global, before, after, side=80)
    assert [text.split(": ")[1] for text in captions[:4]] == expected
    assert captions[4] == "image, 1 global patch"
    if before is NOISE:
        assert np.ptp(picture[:40, -80:]) == 0
        assert picture[0, -1, 0] < 60  # dark


def test_clusters_that_share_patches_have_the_same_colour(captions: list[str]) -> None:
    # Before denoising, cluster 1 has the patches of cluster 0 after it, cluster 0 those of 1, and cluster 2 those of 2.
    picture = draw_clustering(GREY, NONE, BEFORE, AFTER, side=80)
    before, after = picture[:40, -80:], picture[52:92, -80:]  # with a gap of 12 pixels
    for place, number in (((5, 30), 0), ((30, 5), 1), ((30, 30), 2)):
        colour = overlay(GREY, np.zeros((40, 80), int), palette(3)[number][None])[0, 0]
        np.testing.assert_array_equal(before[place], colour)
        np.testing.assert_array_equal(after[place], colour)


def test_clusters_without_a_counterpart_get_new_numbers() -> None:
    numbered = renumber(make_grouping([[0, 0, 1, 2], [0, 0, 1, -1]]), make_grouping([[0, 0, -1, -1]] * 2))
    assert numbered.clusters.tolist() == [[0, 0, 1, 2], [0, 0, 1, -1]]
    numbered = renumber(make_grouping([[0, 0, 1, 1], [0, 2, 1, -1]]), make_grouping([[-1, 0, 1, 1]] * 2))
    # Cluster 1 shares three patches with cluster 1; clusters 0 and 2 share one patch each with cluster 0.
    assert sorted(np.unique(numbered.clusters)) == [-1, 0, 1, 2]
    assert numbered.clusters[0, 2] == numbered.masks[5, 45] == 1


def test_global_patches_are_outlined_only_before_denoising() -> None:
    picture = draw_clustering(GREY, ~NONE, BEFORE, AFTER, side=80)
    rows = np.argwhere((picture == MAGENTA).all(2))[:, 0]
    assert rows.size
    assert rows.max() < len(picture) - 40
