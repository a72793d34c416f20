"""Images in tiles: which pixels are whose, and that each tile is segmented as an image of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cliptrase_d2.pipeline import tiles
from cliptrase_d2.pipeline.settings import Method
from cliptrase_d2.pipeline.tiles import Span, output_size, segment_in_tiles, spans
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene, telling_words, tiny_segmenter


def test_two_tiles_share_their_overlap() -> None:
    first, second = spans(12, 12, window=8, stride=4)
    assert first == Span(seen=slice(0, 8), result=slice(0, 8), kept=slice(0, 6))
    assert second == Span(seen=slice(4, 12), result=slice(4, 12), kept=slice(6, 12))
    assert second.kept_of_its_result == slice(2, 8)


def test_the_last_tile_ends_with_the_image() -> None:
    assert [(span.seen.start, span.kept.stop) for span in spans(13, 13, window=8, stride=4)] == [
        (0, 6),
        (4, 9),
        (5, 13),
    ]


def test_the_result_may_be_larger_than_the_image() -> None:
    first, second = spans(12, 36, window=8, stride=4)
    assert (first.result, first.kept) == (slice(0, 24), slice(0, 18))
    assert (second.result, second.kept) == (slice(12, 36), slice(18, 36))


def test_an_image_smaller_than_a_tile_is_one() -> None:
    assert spans(5, 10, window=8, stride=4) == [Span(slice(0, 5), slice(0, 10), slice(0, 10))]


@given(seen=st.integers(1, 200), shown=st.integers(1, 300), window=st.integers(1, 60), data=st.data())
def test_every_pixel_of_the_result_is_one_tiles(seen: int, shown: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    found = spans(seen, shown, window, stride)
    assert [pixel for span in found for pixel in range(span.kept.start, span.kept.stop)] == list(range(shown))
    for span in found:
        assert 0 <= span.seen.start < span.seen.stop <= seen
        assert span.result.start <= span.kept.start < span.kept.stop <= span.result.stop


def test_tiles_side_by_side_are_images_of_their_own() -> None:
    model = tiny_segmenter(method=Method(eps=0.5, min_samples=3), window=64, stride=64, in_tiles=True)
    alone = tiny_segmenter(method=Method(eps=0.5, min_samples=3))
    text = telling_words(model, scene())
    model.text_encoder = alone.text_encoder = lambda _: text
    image = torch.cat([torch.cat([scene(index, 64, 64) for index in row], dim=2) for row in ((0, 1, 2), (3, 4, 5))], 1)
    (found,) = model([{"image": image}])
    expected = [alone([{"image": scene(index, 64, 64)}])[0]["label_map"] for index in range(6)]
    assert torch.equal(found["label_map"], torch.cat([torch.cat(expected[:3], 1), torch.cat(expected[3:], 1)]))
    assert len(found["label_map"].unique()) > 1
    assert found.keys() == {"label_map"}


def test_a_tile_over_the_whole_image_gives_the_same_labels() -> None:
    given = {"image": scene(), "height": 75, "width": 51}
    expected, found = (tiny_segmenter(**windows)([given])[0] for windows in ({}, _tiles_of(128, 64)))
    assert torch.equal(found["label_map"], expected["label_map"])


def test_images_of_a_batch_do_not_mix() -> None:
    model = tiny_segmenter(**_tiles_of(64, 32), output_sem_seg=True, output_mask_features=True)
    batch = [{"image": scene(0)}, {"image": scene(1, 64, 48)}, {"image": scene(2), "height": 33, "width": 200}]
    for found, inputs in zip(model(batch), batch, strict=True):
        (expected,) = model([inputs])
        assert found.keys() == expected.keys() == {"label_map", "sem_seg", "assignment", "mask_features"}
        assert found["label_map"].shape == output_size(inputs)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value)
        assert torch.equal(found["sem_seg"].argmax(0), found["label_map"])


def test_masks_are_numbered_one_tiles_after_the_others() -> None:
    def two_masks(inputs: Any) -> list[dict[str, Tensor]]:
        shapes = [output_size(given) for given in inputs]
        halves = [(torch.arange(height) * 2 // height)[:, None].expand(height, width) for height, width in shapes]
        features = [torch.full((2, 1), float(given["image"].sum())) for given in inputs]
        return [
            {"label_map": half, "assignment": half, "mask_features": feature}
            for half, feature in zip(halves, features, strict=True)
        ]

    image = torch.arange(8.0).expand(1, 4, 8)
    (found,) = segment_in_tiles(two_masks, [{"image": image}], 4, 4)
    assert found["assignment"].tolist() == [[0] * 4 + [2] * 4] * 2 + [[1] * 4 + [3] * 4] * 2
    assert found["mask_features"].flatten().tolist() == [4.0 * 6, 4.0 * 6, 4.0 * 22, 4.0 * 22]
    assert found["label_map"].tolist() == [[0] * 8] * 2 + [[1] * 8] * 2


@pytest.mark.parametrize(("pixels", "expected"), [(0, [2, 2, 2, 1]), (3 * 16, [3, 3, 1]), (2**20, [7])])
def test_tiles_go_together_up_to_so_many_pixels_or_the_number_of_images(
    monkeypatch: pytest.MonkeyPatch, pixels: int, expected: list[int]
) -> None:
    together = []

    def counted(inputs: Any) -> list[dict[str, Tensor]]:
        together.append(len(inputs))
        assert not any(given["output_masks"] for given in inputs)
        return [{"label_map": torch.zeros(output_size(given), dtype=torch.int64)} for given in inputs]

    monkeypatch.setattr(tiles, "_PIXELS_TOGETHER", pixels)
    segment_in_tiles(counted, [{"image": torch.zeros(3, 8, 8)}, {"image": torch.zeros(3, 4, 12)}], 4, 4)
    assert together == expected


def test_an_oracle_sees_the_labels_of_its_tile() -> None:
    labels = torch.zeros(96, 128, dtype=torch.int64)
    labels[:, 70:] = 1
    model = tiny_segmenter(attention="cosine_oracle", **_tiles_of(64, 64))
    alone = tiny_segmenter(attention="cosine_oracle")
    (found,) = model([{"image": scene(), "sem_seg": labels}])
    (expected,) = alone([{"image": scene()[:, :64, 64:], "sem_seg": labels[:64, 64:]}])
    assert torch.equal(found["label_map"][:48, 64:], expected["label_map"][:48])


def _tiles_of(window: int, stride: int) -> dict[str, Any]:
    return {"window": window, "stride": stride, "in_tiles": True}


@pytest.mark.parametrize("key", ["window", "stride"])
def test_tiles_want_a_window_and_a_stride(key: str) -> None:
    with pytest.raises(InputError, match=r"in_tiles: window .* and stride .*Give both"):
        tiny_segmenter(**{**_tiles_of(64, 32), key: None})
