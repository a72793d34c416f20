"""LPOSS: graphs, conjugate gradients and whole images against slow loops, and odd cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import ImageTokens
from cliptrase_d2.methods import label_propagation
from cliptrase_d2.methods.label_propagation import PixelGraph, patch_graph, propagate, propagate_pixels, rgb_to_lab
from cliptrase_d2.methods.lposs import locate_patches, resize_features
from cliptrase_d2.methods.maskclip import MaskCLIP
from cliptrase_d2.methods.word_maps import ClassMaps, WindowAxis, WordMaps
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol, place_windows, put_background_first
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.methods.example_methods import Pixels
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter

WORDS = Vocabulary.parse(["sky", "grass", "star"], ["wall", "floor"])
SINGLE_WORDS = Vocabulary.parse(["sky", "grass", "star"])
SMALL = {"window": 64, "stride": 32, "logit_scale": 1.0}


def build(factor: int = 1, **options: Any) -> CLIPtrase:
    settings = CLIPtraseSettings(method="lposs", clustering="none", method_options=options)
    return tiny_segmenter(settings=settings, protocol=PublishedProtocol(**SMALL), vision_model=Pixels(factor))


def make_input(index: int = 0, height: int = 84, width: int = 115, **changes: Any) -> dict[str, Any]:
    size = {"height": 60, "width": 90, "vocabulary": WORDS, "output_sem_seg": True}
    return {"image": scene(index, height, width), **size, **changes}


# ------------------------------------------------------------------ slow references


def slow_solve(graph: np.ndarray, column: np.ndarray, alpha: float, steps: int) -> np.ndarray:
    """Return X of (I - α·W)·X = Y for one column, by textbook conjugate gradients."""
    matrix = np.eye(len(graph)) - alpha * graph
    solution = np.zeros_like(column)
    residual = column.copy()
    if not residual.any():
        return column
    direction = residual.copy()
    for _ in range(steps):
        length = residual @ residual / (direction @ matrix @ direction)
        solution = solution + length * direction
        rest = residual - length * (matrix @ direction)
        if np.linalg.norm(rest) <= 1e-6 * np.linalg.norm(column):
            break
        direction = rest + rest @ rest / (residual @ residual) * direction
        residual = rest
    return solution


def normalise(weights: np.ndarray) -> np.ndarray:
    """Return S^(-1/2)·W·S^(-1/2)."""
    sums = weights.sum(1)
    root = np.array([1 / np.sqrt(one) if one else 1.0 for one in sums])
    return root[:, None] * weights * root


def slow_patch_graph(
    features: np.ndarray, positions: np.ndarray, neighbours: int, gamma: float, sigma: float
) -> np.ndarray:
    count = len(features)
    weights = np.zeros((count, count))
    for i in range(count):
        cosines = features @ features[i]
        for j in np.argsort(-cosines)[:neighbours]:
            weights[i, j] = max(cosines[j], 0) ** gamma * np.exp(-sigma * np.linalg.norm(positions[i] - positions[j]))
    weights = weights + weights.T
    np.fill_diagonal(weights, 0)
    return normalise(weights)


def slow_pixel_graph(lab: np.ndarray, tau: float, side: int) -> np.ndarray:
    _, height, width = lab.shape
    weights, reach = np.zeros((height, width, height, width)), side // 2
    for y in range(height):
        for x in range(width):
            for down in range(-reach, reach + 1):
                for right in range(-reach, reach + 1):
                    inside = 0 <= y + down < height and 0 <= x + right < width
                    if inside and (down, right) != (0, 0):
                        difference = np.linalg.norm(lab[:, y, x] - lab[:, y + down, x + right])
                        weights[y, x, y + down, x + right] = np.exp(-difference / tau)
    return normalise(weights.reshape(height * width, height * width))


def random_features(count: int, width: int = 6) -> Tensor:
    return F.normalize(torch.randn(count, width), dim=1)


# ------------------------------------------------------------------ parts


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_columns_are_solved_one_by_one(steps: int) -> None:
    graph = slow_patch_graph(random_features(30).numpy(), np.random.default_rng(0).random((30, 2)), 9, 3.0, 0.01)
    eigenvector = np.linalg.eigh(graph)[1][:, 3]  # solved after one step
    columns = np.stack([*np.random.default_rng(1).standard_normal((4, 30)), np.zeros(30), eigenvector], 1)
    expected = np.stack([slow_solve(graph, column, 0.95, steps) for column in columns.T], 1)
    result = propagate(torch.from_numpy(graph).__matmul__, torch.from_numpy(columns), 0.95, steps)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-9)
    assert (result[:, 4] == 0).all()


def test_a_column_stops_where_it_is_solved() -> None:
    graph = torch.diag(torch.tensor([0.5, 0.5, -0.9, 0.1], dtype=torch.float64))
    values = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 1.0]], dtype=torch.float64)
    expected = values / (1 - 0.9 * graph.diagonal()[:, None])
    torch.testing.assert_close(propagate(graph.__matmul__, values, 0.9, 50), expected)
    assert propagate(graph.__matmul__, values, 0.9, 0).abs().max() == 0


@pytest.mark.parametrize("neighbours", [1, 5, 24, 400], ids=["itself", "few", "all", "more than all"])
def test_the_graph_of_patches(neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, positions = random_features(24), 16 * torch.rand(24, 2)
    expected = slow_patch_graph(features.numpy(), positions.numpy(), neighbours, 3.0, 0.01)
    graph = patch_graph(features, positions, neighbours, 3.0, 0.01)
    np.testing.assert_allclose(graph.numpy(), expected, atol=1e-6)
    monkeypatch.setattr(label_propagation, "_VALUES_AT_ONCE", 100)  # blocks of four rows
    torch.testing.assert_close(patch_graph(features, positions, neighbours, 3.0, 0.01), graph)


def test_a_patch_without_similar_ones_keeps_its_values() -> None:
    features = torch.tensor([[1.0, 0.0], [0.96, 0.28], [-1.0, 0.0]])
    graph = patch_graph(features, torch.zeros(3, 2), 3, 3.0, 0.01)
    assert graph[2].abs().max() == 0
    values = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(propagate(graph.__matmul__, values, 0.95, 10)[2], values[2])


@pytest.mark.parametrize("side", [3, 5, 13])
@pytest.mark.parametrize("rows", [1, 3, 100], ids=["rows", "bands", "whole"])
def test_the_graph_of_pixels(side: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = rgb_to_lab(torch.rand(3, 7, 5))
    monkeypatch.setattr(label_propagation, "_NEIGHBOURS_AT_ONCE", rows * 5 * (side**2 - 1))
    graph = slow_pixel_graph(lab.double().numpy(), 0.5, side)
    values = torch.randn(35, 3)
    np.testing.assert_allclose(PixelGraph(lab, 0.5, side)(values).numpy(), graph @ values.numpy(), atol=1e-5)


def test_many_maps_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, maps = torch.rand(3, 6, 7), torch.randn(5, 6, 7)
    graph = slow_pixel_graph(rgb_to_lab(rgb).double().numpy(), 0.1, 5)
    columns = maps.flatten(1).double().numpy()
    expected = np.stack([slow_solve(graph, column, 0.95, 10) for column in columns]).reshape(5, 6, 7)
    monkeypatch.setattr(label_propagation, "_MAPS_AT_ONCE", 2)
    np.testing.assert_allclose(propagate_pixels(maps, rgb, 0.95, 10, 0.1, 5).numpy(), expected, atol=2e-4)


def test_lab_of_known_colours() -> None:
    rgb = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0.01, 0.01, 0.01]]).T[..., None]
    lab = rgb_to_lab(rgb)[..., 0].T * torch.tensor([100.0, 128, 128])
    expected = torch.tensor([[0.0, 0, 0], [100, 0, 0], [53.24, 80.09, 67.20]])
    torch.testing.assert_close(lab[:3], expected, atol=0.02, rtol=0)
    # Below 0.04045 and below 0.008856 both curves are straight: 116·7.787·(0.01/12.92).
    torch.testing.assert_close(lab[3], torch.tensor([0.6991, 0, 0]), atol=1e-3, rtol=0)


def test_places_of_patches() -> None:
    rows = WindowAxis(48, (0, 16), 32, 32, 16, False)
    columns = WindowAxis(21, (0,), 21, 21, 16, False)  # two patches with the padding
    places = locate_patches((rows, columns), 16, (2, 2))
    assert places[::2].tolist() == [[8, 8], [24, 8], [24, 8], [40, 8]]
    assert places[1::2, 1].tolist() == [24] * 4
    finer = locate_patches((rows, columns), 16, (4, 4))
    assert finer[:6].tolist() == [[4, 4], [4, 12], [4, 20], [4, 28], [12, 4], [12, 12]]


def test_words_are_joined_before_the_result_is_resized() -> None:
    values, class_index = torch.randn(5, 6, 8), torch.tensor([0, 0, 1, 2, 2])
    joined = torch.stack([values[class_index == index].amax(0) for index in range(3)])
    expected = F.interpolate(joined[None], (9, 13), mode="bilinear")[0]
    maps = ClassMaps(WordMaps.of_grid(values), class_index, (6, 8))
    result = maps.at((9, 13))
    torch.testing.assert_close(result[[0, 2, 3]], expected)
    assert (result.softmax(0)[[1, 4]] == 0).all()
    read = maps.reader((9, 13))
    torch.testing.assert_close(torch.cat([read(0, 4), read(4, 9)]).movedim(1, 0), result)


# ------------------------------------------------------------------ whole images


@torch.inference_mode()
def slow_lposs(model: CLIPtrase, inputs: dict[str, Any], side: int = 0) -> Tensor:
    """Return the class of every pixel in the published order, [H,W], from windows that are encoded one by one."""
    text = put_background_first(model.text_features(inputs["vocabulary"])).features
    image, method = model.tower.normalise(inputs["image"]), MaskCLIP()
    size, windows = (
        (image.shape[1], image.shape[2]),
        place_windows((image.shape[1], image.shape[2]), 16, model.protocol, may_be_small=True),
    )
    corners = [(top, left) for top in windows[0].starts for left in windows[1].starts]
    places, values, features = [], [], []
    for top, left in corners:
        pixels = inputs["image"][None, :, top : top + windows[0].side, left : left + windows[1].side]
        # Black pixels on the right and below.
        part = model.tower.normalise(F.pad(pixels, (0, -windows[1].side % 16, 0, -windows[0].side % 16)))

        def read(tokens: ImageTokens) -> ImageTokens:
            return tokens

        tokens = model.read_tokens(part, model.method.needs, read)
        patches = resize_features(method(tokens), tokens.vision_features.grid)
        values.append((patches @ text.features.T)[0])
        features.append(F.normalize(tokens.vision_features.features[0], dim=1))
        rows, columns = tokens.vision_features.grid
        side_of_patch = 16 * tokens.grid[0] / rows
        offsets = [side_of_patch * (index + 0.5) for index in range(max(rows, columns))]
        places += [(top + offsets[row], left + offsets[column]) for row in range(rows) for column in range(columns)]
    graph = slow_patch_graph(torch.cat(features).numpy(), np.array(places, float), 400, 3.0, 0.01)
    solved = [slow_solve(graph, column, 0.95, 10) for column in torch.cat(values).double().numpy().T]
    total, count = torch.zeros(len(text.features), *size), torch.zeros(size)
    parts = torch.tensor(np.stack(solved)).float().unflatten(1, (len(corners), rows, columns))  # [R,K,h,w]
    for (top, left), part in zip(corners, parts.unbind(1), strict=True):
        place = slice(top, top + windows[0].side), slice(left, left + windows[1].side)
        wide = F.interpolate(part[None], (windows[0].side, windows[1].side), mode="bilinear")[0]
        total[:, place[0], place[1]] += wide
        count[place] += 1
    maps = total / count
    if side:
        maps = propagate_pixels(maps, inputs["image"] / 255, 0.95, 10, 0.01, side)
    joined = torch.stack([maps[text.class_index == index].amax(0) for index in range(len(text.classes))])
    return F.interpolate(joined[None], (inputs["height"], inputs["width"]), mode="bilinear")[0]


@pytest.mark.parametrize("vocabulary", [WORDS, SINGLE_WORDS], ids=["background", "single words"])
@pytest.mark.parametrize("plus", [False, True])
def test_whole_images(vocabulary: Vocabulary, plus: bool) -> None:
    model, inputs = build(plus=plus, side=5), make_input(vocabulary=vocabulary)
    expected = slow_lposs(model, inputs, 5 * plus)
    (output,) = model([inputs])
    probabilities = expected.softmax(0)
    if vocabulary is WORDS:  # our background is last
        probabilities = torch.cat([probabilities[1:], probabilities[:1]])
    torch.testing.assert_close(output["sem_seg"], probabilities, atol=1e-4, rtol=0)
    assert (output["label_map"] == probabilities.argmax(0)).float().mean() > 0.995


def test_one_window_of_one_patch_has_no_neighbour() -> None:
    inputs = make_input(height=16, width=16)
    (output,) = build()([inputs])
    dense = tiny_segmenter(
        settings=CLIPtraseSettings(method="maskclip", clustering="none"), protocol=PublishedProtocol(**SMALL)
    )
    (expected,) = dense([inputs])
    assert torch.equal(output["label_map"], expected["label_map"])


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize(
    ("height", "width"),
    [(40, 52), (40, 115), (84, 33), (1, 100), (90, 1), (1, 1)],
    ids=["small", "low", "narrow", "a row", "a column", "a pixel"],
)
def test_images_smaller_than_a_window_are_padded(height: int, width: int, factor: int) -> None:
    model, inputs = build(factor), make_input(height=height, width=width)
    expected = slow_lposs(model, inputs)
    (output,) = model([inputs])
    torch.testing.assert_close(output["sem_seg"].roll(1, 0), expected.softmax(0), atol=1e-4, rtol=0)


def test_windows_that_are_no_whole_patches_are_padded() -> None:
    model, inputs = build(), make_input()
    model.protocol = PublishedProtocol(**SMALL | {"window": 60})
    expected = slow_lposs(model, inputs)
    (output,) = model([inputs])
    torch.testing.assert_close(output["sem_seg"].roll(1, 0), expected.softmax(0), atol=1e-4, rtol=0)


def test_two_images_of_a_batch_equal_each_alone() -> None:
    model, inputs = build(2, plus=True, side=3), [make_input(0), make_input(1)]
    for output, one in zip(model(inputs), inputs, strict=True):
        torch.testing.assert_close(output["sem_seg"], model([one])[0]["sem_seg"], atol=1e-5, rtol=0)


def test_half_precision_changes_little() -> None:
    model, inputs = build(plus=True, side=3), make_input()
    (expected,) = model([inputs])
    model.precision = torch.bfloat16
    torch.testing.assert_close(model([inputs])[0]["sem_seg"], expected["sem_seg"], atol=0.1, rtol=0)


def test_a_word_that_is_nowhere_similar_stays_zero() -> None:
    model = build()
    text = model.text_features(SINGLE_WORDS)
    text.features[1] = 0
    model._texts[SINGLE_WORDS] = text
    (output,) = model([make_input(vocabulary=SINGLE_WORDS)])
    assert output["sem_seg"].isfinite().all()


def test_features_of_another_grid_are_resized_and_normalised() -> None:
    model = tiny_segmenter()
    features = MaskCLIP()(model.tower(model.tower.normalise(scene(0, 32, 48))[None]))
    resized = resize_features(features, (4, 6))
    expected = F.interpolate(features.patches.mT.unflatten(2, (2, 3)), (4, 6), mode="bilinear")
    torch.testing.assert_close(resized, F.normalize(expected.flatten(2).mT, dim=2))
    assert resize_features(features, (2, 3)) is features.patches


@pytest.mark.parametrize(
    "options", [{"alpha": 1.0}, {"k": 0}, {"side": 4}, {"tau": 0.0}, {"sigma": -1.0}, {"steps": 0}, {"gamma": 0.0}]
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"{next(iter(options))} {next(iter(options.values()))}"):
        build(**options)
