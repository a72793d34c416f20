"""ResCLIP against plain loops over pairs of patches, and the parts of its feedback by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, Needs, TextFeatures
from cliptrase_d2.methods import semantic_feedback
from cliptrase_d2.methods.resclip import BASES, ResCLIP
from cliptrase_d2.methods.semantic_feedback import feedback_matrix, patch_words, path_stays_in_word, pixel_words
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene, telling_words, tiny_segmenter

# A large logit scale, for words differ little with random weights.
OPTIONS: dict[str, Any] = {
    **{"rcs_weight": 0.6, "sfr_scale": 2.1, "sfr_weight": 0.6},
    **{"threshold": 0.5, "logit_scale": 400.0},
}


# ------------------------------------------------------------------ the page, as it reads


def slow_pamr(maps: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Ten steps of PAMR with dilations 8 and 16 on [R,H,W], by indices of all neighbours."""
    height, width = image.shape[1:]
    ring = [(8 * step * down, 8 * step * right) for step in (1, 2) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    places = [
        np.ix_(np.clip(np.arange(height) + down, 0, height - 1), np.clip(np.arange(width) + right, 0, width - 1))
        for down, right in ring
    ]
    deviation = np.stack([image[(slice(None), *place)] for place in places]).std(0, ddof=1)
    places = [place for place, offset in zip(places, ring, strict=True) if offset != (0, 0)]
    logits = np.stack(
        [-(np.abs(image[(slice(None), *place)] - image) / (1e-8 + 0.1 * deviation)).mean(0) for place in places]
    )
    weights = np.exp(logits - logits.max(0))
    weights /= weights.sum(0)
    for _ in range(10):
        maps = sum(weight * maps[(slice(None), *place)] for weight, place in zip(weights, places, strict=True))
    return maps


def slow_patch_words(cosines: Tensor, image: Tensor, threshold: float) -> np.ndarray:
    """The words of the patches of 16 pixels, from cosines [R,h,w] and an image [3,H,W]."""
    maps = F.interpolate(cosines[None], image.shape[1:], mode="bilinear")[0].double().numpy()
    logits = OPTIONS["logit_scale"] * slow_pamr(maps, image.double().numpy())
    shares = np.exp(logits - logits.max(0))
    shares /= shares.sum(0)
    labels = np.where(shares.max(0) < threshold, 0, shares.argmax(0))
    rows, columns = cosines.shape[1:]
    words = np.zeros((rows, columns), dtype=int)
    for row in range(rows):
        for column in range(columns):
            part = labels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            words[row, column] = np.bincount(part.flatten()).argmax()
    return words


def slow_feedback(words: np.ndarray, whole_path: bool = False) -> np.ndarray:
    """F of [h,w] words, pair by pair and point by point, [N+1,N+1]."""
    height, width = words.shape
    patches = [(row, column) for row in range(height) for column in range(width)]
    largest = max(height, width) - 1
    parts = torch.linspace(0, 1, largest + 1).numpy()  # float32
    matrix = np.zeros((len(patches), len(patches)))
    for i, (row, column) in enumerate(patches):
        for j, (other_row, other_column) in enumerate(patches):
            if words[row, column] != words[other_row, other_column]:
                continue
            distance = max(abs(row - other_row), abs(column - other_column))
            stays = True
            for part in parts[: (largest if whole_path else distance) + 1]:
                y = (np.float32(1) - part) * np.float32(row) + part * np.float32(other_row)
                x = (np.float32(1) - part) * np.float32(column) + part * np.float32(other_column)
                stays &= words[int(np.rint(y)), int(np.rint(x))] == words[row, column]
            matrix[i, j] = 1 if stays else math.exp(-distance / largest)
    half = min(len(patches), 31) // 2
    kernel = np.exp(-(np.arange(-half, half + 1) ** 2) / 50)
    smooth = np.stack([np.convolve(row, kernel / kernel.sum())[half : half + len(row)] for row in matrix])
    return np.pad(smooth / (smooth.sum(1, keepdims=True) + 1e-8), ((1, 0), (1, 0)))


def slow_attention(q: Tensor, k: Tensor, base: str, grid: tuple[int, int], feedback: Tensor | None) -> Tensor:
    """B of every head from q and k [A,T,d], with full matrices."""
    nearness = torch.zeros(q.shape[1], q.shape[1])
    if base == "naclip":
        for i in range(len(nearness) - 1):
            for j in range(len(nearness) - 1):
                (y, x), (other_y, other_x) = divmod(i, grid[1]), divmod(j, grid[1])
                nearness[i + 1, j + 1] = math.exp(-((y - other_y) ** 2 + (x - other_x) ** 2) / 50)
    total = torch.zeros(())
    for one, other in {"naclip": [(k, k)], "sclip": [(q, q), (k, k)], "clearclip": [(q, q)], "clip": [(q, k)]}[base]:
        logits = one @ other.transpose(1, 2) / math.sqrt(q.shape[2])
        if feedback is not None:
            logits = OPTIONS["sfr_scale"] * (0.4 * logits + 0.6 * feedback)
        total = total + (logits + nearness).softmax(2)
    return total


def slow_resclip(
    model: CLIPtrase, image: Tensor, words: Tensor, base: str, middle: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Unit features [N,D] and patch words [h,w] of one normalised image [3,H,W]."""
    grid, visual = model.tower.grid(image[None]), model.clip.visual
    x, matrices = model.tower(image[None], Needs(hidden_states=(0,))).hidden_state(0)[0], []
    for block in visual.transformer.resblocks:
        qkv = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
        q, k, v = (part.unflatten(1, (4, 16)).transpose(0, 1) for part in qkv.chunk(3, dim=1))  # [A,T,d]
        matrices.append((q @ k.transpose(1, 2) / 4).softmax(2))
        if block is not visual.transformer.resblocks[-1]:
            x = block(x[None])[0]
    residual = torch.stack([matrices[index] for index in middle]).mean(0)

    def finish(attention: Tensor) -> Tensor:
        attended = (2 * (0.4 * attention + 0.6 * residual) @ v).transpose(0, 1).flatten(1)
        out = attended @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
        if base == "sclip":
            out = x + out
            out = out + block.mlp(block.ln_2(out))
        return F.normalize(visual.ln_post(out) @ visual.proj, dim=1)[1:]

    first = finish(slow_attention(q, k, base, grid, None))
    labels = slow_patch_words((first @ words.T).T.unflatten(1, grid), image, OPTIONS["threshold"])
    feedback = torch.from_numpy(slow_feedback(labels)).float()
    feedback = (feedback / feedback.max()).half().float()
    return finish(slow_attention(q, k, base, grid, feedback)), torch.from_numpy(labels)


# ------------------------------------------------------------------ the method


class Recorder(ResCLIP):
    """Keeps the words of the first pass."""

    def segment(self, x: ImageTokens, features: DenseFeatures) -> Tensor:
        self.words = super().segment(x, features)
        return self.words


def make_inputs(layers: int, grid: tuple[int, int], base: str = "naclip") -> tuple[CLIPtrase, Tensor, TextFeatures]:
    """A tiny segmenter, two normalised images [2,3,H,W], and four words that separate patches of the first pass."""
    model, method = tiny_segmenter(layers=layers), ResCLIP(base, **OPTIONS)
    pixels = torch.stack([scene(index, 16 * grid[0], 16 * grid[1]) for index in range(2)])
    images = model.tower.normalise(pixels)
    x = model.tower(images, method.needs)
    mixed = 2 * (0.4 * method.attend_as_base(x) + 0.6 * method.attend_as_middle_blocks(x))
    patches = x.to_features(x.finish_block(mixed, residual=base == "sclip", mlp=base == "sclip")).patches[0]
    mean = F.normalize(patches.mean(0), dim=0)
    chosen = patches[:: (len(patches) - 1) // 3][:4]
    words = F.normalize(chosen - (chosen @ mean)[:, None] * mean, dim=1)
    return model, images, TextFeatures(words, torch.arange(4), ("north", "upper", "lower", "south"))


CASES = [
    *((3, (4, 5), base, (1,)) for base in BASES),  # a tower of three blocks has its last but one instead
    (3, (1, 9), "naclip", (1,)),
    (3, (7, 28), "naclip", (1,)),
    (8, (5, 3), "naclip", (5, 6)),
    (11, (2, 3), "naclip", (5, 6, 7, 8)),
]


@pytest.mark.parametrize(("layers", "grid", "base", "middle"), CASES)
def test_a_batch_equals_the_formulas_image_by_image(
    layers: int, grid: tuple[int, int], base: str, middle: tuple[int, ...]
) -> None:
    model, images, text = make_inputs(layers, grid, base)
    method = Recorder(base, **OPTIONS)
    features = method(replace(model.tower(images, method.needs), text=text))
    assert len(method.words.unique()) > 1
    for index, image in enumerate(images):
        expected, words = slow_resclip(model, image, text.features, base, middle)
        assert torch.equal(method.words[index], words)
        torch.testing.assert_close(features.patches[index], expected, atol=2e-5, rtol=0)


def test_the_feedback_changes_the_features() -> None:
    model, images, text = make_inputs(3, (4, 5))
    results = []
    for weight in (0.0, 0.7):
        method = ResCLIP(sfr_scale=1.0, sfr_weight=weight)
        results.append(method(replace(model.tower(images, method.needs), text=text)).patches)
    assert (results[0] - results[1]).abs().max() > 1e-3


def test_half_precision_stays_near_float32() -> None:
    settings, pixels = CLIPtraseSettings(method="resclip", clustering="none"), [{"image": scene()}]
    results = []
    for precision in ("fp32", "fp16"):
        model = tiny_segmenter(settings=settings, precision=precision)
        text, images = telling_words(model, scene()), model.preprocess(pixels)
        with torch.inference_mode():
            features, _ = model.encode_image(images, text)
        assert features is not None
        results.append(features.patches)
    assert (results[0] * results[1]).sum(-1).median() > 0.999


def test_images_of_a_batch_have_vocabularies_of_their_own() -> None:
    settings = CLIPtraseSettings(method="resclip", clustering="none")
    model = tiny_segmenter(settings=settings, window=64, stride=32)
    batch = [
        {"image": scene(0), "vocabulary": ["sky", "grass", "star"], "output_grids": True},
        {"image": scene(0), "vocabulary": ["floor", "lake"], "output_grids": True},
        {"image": scene(1), "vocabulary": ["sky", "grass", "star"], "output_grids": True},
    ]
    for one, output in zip(batch, model(batch), strict=True):
        (alone,) = model([one])
        torch.testing.assert_close(output["scores"], alone["scores"], atol=1e-4, rtol=0)


def test_pixels_beyond_the_last_patch_reach_the_first_segmentation() -> None:
    model, images, text = make_inputs(3, (4, 5))
    model.configure(CLIPtraseSettings(method="resclip", clustering="none"))
    larger = F.pad(images, (0, 7, 0, 9), mode="replicate")
    shown = []

    class Viewer(ResCLIP):
        def __call__(self, x: ImageTokens) -> DenseFeatures:
            shown.append((x.grid, x.images))
            return super().__call__(x)

    model.method = Viewer()
    features, _ = model.encode_image(larger, text)
    assert features is not None
    assert features.patches.shape[1] == 20
    (grid, seen), *_ = shown
    assert grid == (4, 5)
    assert torch.equal(seen, larger)


# ------------------------------------------------------------------ the feedback


@pytest.mark.parametrize("whole_path", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 12), (6, 9), (11, 2)], ids=str)
def test_the_matrix_equals_loops(size: tuple[int, int], whole_path: bool) -> None:
    words = torch.randint(0, 3, (2, *size))
    words[1] = 7  # one word everywhere
    matrix = feedback_matrix(words, whole_path=whole_path)
    for one, own in zip(words, matrix, strict=True):
        expected = slow_feedback(one.numpy(), whole_path) if one.numel() > 1 else np.diag([0, 1.0])
        np.testing.assert_allclose(own, expected, atol=1e-6)


def test_only_the_first_part_of_a_path_is_looked_at() -> None:
    words = torch.tensor([[[0, 0, 1, 0, 0, 0, 0]]])  # the largest distance is 6
    near, whole = (path_stays_in_word(words, whole_path=whole)[0, 0] for whole in (False, True))
    # To patch 2, distance 2: points 0, 1/3 and 2/3, rounded to 0, 0 and 1. To patch 3: 0, 1/2, 1, 3/2 to 0, 0, 1, 2.
    assert near.tolist() == [True, True, True, False, False, False, False]
    assert whole.tolist() == [True, True, False, False, False, False, False]


def test_a_patch_takes_its_most_frequent_word_and_the_lower_of_two() -> None:
    words = torch.tensor([[2, 1, 5, 5, 9], [1, 2, 5, 0, 9], [9, 9, 9, 9, 9]])  # one row and column too many
    assert patch_words(words, (1, 2), 2).tolist() == [[1, 5]]


def test_improbable_words_become_the_first() -> None:
    cosines = torch.tensor([0.00, 0.01, 0.02])[:, None, None].expand(3, 2, 3)
    image = torch.rand(3, 20, 30)
    share = math.exp(0.8) / (1 + math.exp(0.4) + math.exp(0.8))  # 0.47 with a scale of 40
    assert (pixel_words(cosines, image, 40.0, share - 0.001) == 2).all()
    assert (pixel_words(cosines, image, 40.0, share + 0.001) == 0).all()


@pytest.mark.parametrize("values_at_once", [1, 3 * 32 * 48])
def test_chunks_of_words_do_not_change_the_result(values_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cosines, image = torch.rand(11, 2, 3), torch.rand(3, 32, 48)
    expected = pixel_words(cosines, image, 40.0, 0.3)
    assert (expected == 0).any()
    assert len(expected.unique()) > 2
    monkeypatch.setattr(semantic_feedback, "_VALUES_AT_ONCE", values_at_once)
    assert torch.equal(pixel_words(cosines, image, 40.0, 0.3), expected)


def test_the_background_is_the_word_of_improbable_pixels() -> None:
    model, images, text = make_inputs(3, (4, 5))
    with_background = replace(text, classes=("north", "upper", "lower", "background"))
    for vocabulary in (text, with_background):
        method = Recorder(threshold=1.0, logit_scale=1.0)
        method(replace(model.tower(images, method.needs), text=vocabulary))
        assert not method.words.any()
    # All words are the first one, whichever it is. Without a threshold the order shows.
    plain, reordered = Recorder(threshold=0.0), Recorder(threshold=0.0)
    plain(replace(model.tower(images, plain.needs), text=text))
    reordered(replace(model.tower(images, reordered.needs), text=with_background))
    assert torch.equal(reordered.words, (plain.words + 1) % 4)


# ------------------------------------------------------------------ refusals


def test_a_model_without_words_is_refused() -> None:
    model = tiny_segmenter(settings=CLIPtraseSettings(method="resclip"))
    images = model.preprocess([{"image": scene()}])
    with pytest.raises(InputError, match=r"method.*resclip"):
        model.segment(images, None, [(96, 128)])


def test_an_evaluation_without_words_is_refused() -> None:
    with pytest.raises(InputError, match=r"method.*resclip.*UNSUPERVISED_GROUPS"):
        tiny_segmenter(settings=CLIPtraseSettings(method="resclip"), output_mask_features=True)


@pytest.mark.parametrize(
    ("option", "value"),
    [("base", "gem"), ("rcs_weight", 1.5), ("sfr_weight", -0.1), ("threshold", 2), ("sfr_scale", 0), ("deviation", 0)],
)
def test_an_option_out_of_range_is_refused(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=option):
        ResCLIP(**{option: value})
