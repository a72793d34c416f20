"""Division of images into tiles, and segmentation of each tile as an image of its own."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cliptrase_d2.pipeline import tiles
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.tiles import Span, divide_side, get_output_size, segment_in_tiles
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene, telling_words, tiny_segmenter


@pytest.mark.parametrize(
    ("pixels", "result", "expected"),
    [
        pytest.param(12, 12, [((0, 8), (0, 8), (0, 6)), ((4, 12), (4, 12), (6, 12))], id="overlap"),
        pytest.param(12, 36, [((0, 8), (0, 24), (0, 18)), ((4, 12), (12, 36), (18, 36))], id="larger result"),
        pytest.param(5, 10, [((0, 5), (0, 10), (0, 10))], id="small image"),
        pytest.param(
            13, 13, [((0, 8), (0, 8), (0, 6)), ((4, 12), (4, 12), (6, 9)), ((5, 13), (5, 13), (9, 13))], id="border"
        ),
    ],
)
def test_tiles_of_8_pixels_every_4(pixels: int, result: int, expected: list[tuple[tuple[int, int], ...]]) -> None:
    spans = divide_side(pixels, result, window=8, stride=4)
    assert spans == [Span(*(slice(*bounds) for bounds in span)) for span in expected]
    assert Span(slice(4, 12), slice(4, 12), slice(6, 12)).core_in_result == slice(2, 8)


@given(pixels=st.integers(1, 200), result=st.integers(1, 300), window=st.integers(1, 60), data=st.data())
def test_every_pixel_of_the_result_belongs_to_one_tile(
    pixels: int, result: int, window: int, data: st.DataObject
) -> None:
    spans = divide_side(pixels, result, window, data.draw(st.integers(1, window)))
    assert [pixel for span in spans for pixel in range(span.core.start, span.core.stop)] == list(range(result))
    for span in spans:
        assert 0 <= span.source.start < span.source.stop <= pixels
        assert span.result.start <= span.core.start < span.core.stop <= span.result.stop


def test_adjacent_tiles_are_segmented_as_separate_images() -> None:
    settings = CLIPtraseSettings(eps=0.5, min_samples=3)
    model, alone = tiny_segmenter(settings=settings, **in_tiles(64, 64)), tiny_segmenter(settings=settings)
    text = telling_words(model, scene())
    model.text_encoder = alone.text_encoder = lambda _: text
    image = torch.cat([torch.cat([scene(index, 64, 64) for index in row], dim=2) for row in ((0, 1, 2), (3, 4, 5))], 1)
    (output,) = model([{"image": image}])
    expected = [alone([{"image": scene(index, 64, 64)}])[0]["label_map"] for index in range(6)]
    assert torch.equal(output["label_map"], torch.cat([torch.cat(expected[:3], 1), torch.cat(expected[3:], 1)]))
    assert len(output["label_map"].unique()) > 1
    assert output.keys() == {"label_map", "sem_seg"}


def test_one_tile_gives_the_labels_of_the_whole_image() -> None:
    inputs = {"image": scene(), "height": 75, "width": 51}
    expected, output = (tiny_segmenter(**options)([inputs])[0] for options in ({}, in_tiles(128, 64)))
    assert torch.equal(output["label_map"], expected["label_map"])


def test_a_batch_equals_its_images_one_by_one() -> None:
    model = tiny_segmenter(**in_tiles(64, 32), output_mask_features=True)
    batch = [{"image": scene(0)}, {"image": scene(1, 64, 48)}, {"image": scene(2), "height": 33, "width": 200}]
    for output, inputs in zip(model(batch), batch, strict=True):
        (expected,) = model([inputs])
        assert output.keys() == expected.keys() == {"label_map", "sem_seg", "assignment", "mask_features"}
        assert output["label_map"].shape == get_output_size(inputs)
        for key, value in expected.items():
            torch.testing.assert_close(output[key], value)
        assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])


def test_masks_are_numbered_tile_by_tile() -> None:
    def segment_halves(batch: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        outputs = []
        for inputs in batch:
            height, width = get_output_size(inputs)
            half = (torch.arange(height) * 2 // height)[:, None].expand(height, width)
            features = torch.full((2, 1), float(inputs["image"].sum()))
            outputs.append({"label_map": half, "assignment": half, "mask_features": features})
        return outputs

    image = torch.arange(8.0).expand(1, 4, 8)
    (output,) = segment_in_tiles(segment_halves, [{"image": image}], 4, 4)
    assert output["assignment"].tolist() == [[0] * 4 + [2] * 4] * 2 + [[1] * 4 + [3] * 4] * 2
    assert output["mask_features"].flatten().tolist() == [4.0 * 6, 4.0 * 6, 4.0 * 22, 4.0 * 22]
    assert output["label_map"].tolist() == [[0] * 8] * 2 + [[1] * 8] * 2


@pytest.mark.parametrize(("pixels", "expected"), [(0, [2, 2, 2, 1]), (3 * 16, [3, 3, 1]), (2**20, [7])])
def test_batches_have_a_number_of_pixels_or_as_many_tiles_as_images(
    monkeypatch: pytest.MonkeyPatch, pixels: int, expected: list[int]
) -> None:
    batches = []

    def segment(batch: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        batches.append(len(batch))
        assert not any(inputs["output_masks"] for inputs in batch)
        return [{"label_map": torch.zeros(get_output_size(inputs), dtype=torch.int64)} for inputs in batch]

    monkeypatch.setattr(tiles, "_PIXELS_TOGETHER", pixels)
    segment_in_tiles(segment, [{"image": torch.zeros(3, 8, 8)}, {"image": torch.zeros(3, 4, 12)}], 4, 4)
    assert batches == expected


def test_an_oracle_reads_the_labels_of_its_tile() -> None:
    labels = torch.zeros(96, 128, dtype=torch.int64)
    labels[:, 70:] = 1
    settings = CLIPtraseSettings(method="cosine_oracle")
    (output,) = tiny_segmenter(settings=settings, **in_tiles(64, 64))([{"image": scene(), "sem_seg": labels}])
    tile = {"image": scene()[:, :64, 64:], "sem_seg": labels[:64, 64:]}
    (expected,) = tiny_segmenter(settings=settings)([tile])
    assert torch.equal(output["label_map"][:48, 64:], expected["label_map"][:48])


def in_tiles(window: int, stride: int) -> dict[str, Any]:
    return {"window": window, "stride": stride, "in_tiles": True}


@pytest.mark.parametrize("argument", ["window", "stride"])
def test_tiles_require_a_window_and_a_stride(argument: str) -> None:
    with pytest.raises(InputError, match=rf"in_tiles: .*{argument} None"):
        tiny_segmenter(**{**in_tiles(64, 32), argument: None})


def test_scores_of_tiles_are_stitched_on_the_grid_of_the_image() -> None:
    def segment(batch: Sequence[dict[str, Any]]) -> list[dict[str, Tensor]]:
        # Tiles of 8x8 pixels with patches of 2 pixels; the score of a patch is the mean of its pixels.
        pixels = [one["image"][:1].float() for one in batch]
        return [{"label_map": part[0].long(), "scores": torch.nn.functional.avg_pool2d(part, 2)} for part in pixels]

    image = torch.arange(12 * 16).view(1, 12, 16).expand(3, 12, 16)
    (output,) = segment_in_tiles(segment, [{"image": image}], window=8, stride=4)
    assert torch.equal(output["label_map"], image[0])
    torch.testing.assert_close(output["scores"], torch.nn.functional.avg_pool2d(image[:1].float(), 2))
    # The result has another size, and the last tile starts between two patches.
    (output,) = segment_in_tiles(segment, [{"image": image[:, :, :15], "height": 12, "width": 15}], 8, 4)
    assert output["scores"].shape == (1, 6, 8)
    assert output["scores"].isfinite().all()


def test_a_threshold_marks_the_pixels_of_tiles() -> None:
    model = tiny_segmenter(**in_tiles(64, 32))
    text = telling_words(model, scene())
    model.text_encoder = lambda _: text
    (plain,) = model([{"image": scene(), "output_grids": True}])
    (output,) = model([{"image": scene(), "threshold": 0.5}])
    own = torch.nn.functional.interpolate(plain["scores"][None], (96, 128), mode="bilinear")[0]
    own = own.gather(0, plain["label_map"][None])[0]
    assert torch.equal(output["label_map"], plain["label_map"].masked_fill(own < 0.5, -1))
    assert (plain["scores"].sum(0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("pixels", [1, 2**20])  # one tile in a batch, or all of them
def test_rows_have_the_labels_of_the_whole_image(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    monkeypatch.setattr(tiles, "_PIXELS_TOGETHER", pixels)
    model = tiny_segmenter(**in_tiles(64, 32))
    text = telling_words(model, scene())
    model.text_encoder = lambda _: text
    image = torch.cat([scene(0), scene(1)], 2)[:, :90, :150]
    reads = []

    def read(rows: slice) -> Tensor:
        reads.append((rows.start, rows.stop))
        return image[:, rows]

    parts = list(model.segment_rows(read, {"vocabulary": ["a", "b"]}, (90, 150)))
    assert reads == [(0, 64), (26, 90)]
    assert [(rows.core.start, rows.core.stop) for rows, _ in parts] == [(0, 45), (45, 90)]
    assert torch.equal(torch.cat([labels for _, labels in parts]), model([{"image": image}])[0]["label_map"])
