"""Figures 2 and 3 as HTML: captions, pictures and notes."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from cliptrase_d2.segmenter.explanation import Explanation
from cliptrase_d2.web.figures import render_clustering, render_correlation

# Two blocks of 2x2 patches. One patch is global in the second block, which is clustered.
CLUSTERS = np.array([[0, 0], [1, 1]])
EXPLANATION = Explanation(
    image=np.full((40, 40, 3), 90, np.uint8),
    patch=(0, 1),
    attention=np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2),
    recovered=np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2),
    global_patches=np.array([[[False, False], [False, False]], [[True, False], [False, False]]]),
    clusters_before=np.array([[1, 1], [0, -1]]),
    clusters=CLUSTERS,
    masks_before=np.array([[1, 1], [0, 0]]).repeat(20, 0).repeat(20, 1),
    masks=CLUSTERS.repeat(20, 0).repeat(20, 1),
    block=1,
)


def find_captions(html: str) -> list[str]:
    return re.findall("<figcaption>(.*?)</figcaption>", html)


def decode_pictures(html: str) -> list[np.ndarray]:
    uris = re.findall('src="data:image/webp;base64,([^"]+)"', html)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int) for data in uris]


def test_every_block_has_attention_and_recovered_correlation() -> None:
    html = render_correlation(EXPLANATION, "emoji")
    assert find_captions(html) == ["Attention, 0 global", "Recovered", "Attention, 1 global", "Recovered, clustered"]
    assert len(decode_pictures(html)) == 4


def test_clusters_and_masks_are_counted_before_and_after() -> None:
    assert find_captions(render_clustering(EXPLANATION, "emoji")) == [
        "2 clusters, 25 % of the patches are noise", "2 masks", "2 clusters, 0 % of the patches are noise", "2 masks",
    ]  # fmt: skip


def test_clusters_of_the_same_patches_have_the_same_colour() -> None:
    _, before, _, after = decode_pictures(render_clustering(EXPLANATION, "emoji"))
    for row in (120, 360):  # of the two halves, whose cluster numbers differ before
        assert abs(before[row, 100] - after[row, 100]).max() < 10  # lossy WebP


def test_notes_and_names_are_escaped() -> None:
    for figure in (render_correlation, render_clustering):
        html = figure(EXPLANATION, "<b>", ("RANDOM <WEIGHTS>",))
        assert "RANDOM &lt;WEIGHTS&gt;" in html
        assert "<b>" not in html
