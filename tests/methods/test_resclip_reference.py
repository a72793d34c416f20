"""ResCLIP against the output of its published code, on reproducible weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip import get_model_config
from open_clip.model import CLIP
from torch import Tensor

from cliptrase_d2.clip.open_clip_modules import to_joint_space
from cliptrase_d2.clip.tokens import DenseFeatures, ImageTokens, TextFeatures
from cliptrase_d2.clip.visual import VisualTower
from cliptrase_d2.methods import DENSE_METHODS
from cliptrase_d2.methods.naclip import gaussian_neighbourhood
from cliptrase_d2.methods.resclip import ResCLIP
from cliptrase_d2.methods.semantic_feedback import DILATIONS, STEPS, feedback_matrix
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.pixel_affinity import pixel_affinity, propagate
from tests.methods.reference import NAME, build_state
from tests.pipeline.tiny_segmenter import tiny_segmenter

VOC20: dict[str, Any] = {"rcs_weight": 0.6, "sfr_scale": 2.1, "sfr_weight": 0.6, "threshold": 0.1}
WINDOWS = pytest.mark.parametrize("window", ["0", "1", "wide"])
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(reference: Path) -> dict[str, Mapping[str, np.ndarray]]:
    """The arrays of each file of the references."""
    paths = {name: reference / "methods" / f"{name}.npz" for name in ("common", "resclip", "edges", "protocol")}
    if missing := [path for path in paths.values() if not path.is_file()]:
        pytest.skip(f"{missing[0]} is not on this machine")
    return {name: np.load(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def tower(shared: Path, files: dict[str, Mapping[str, np.ndarray]]) -> VisualTower:
    """The image tower with the weights of the references."""
    with torch.device("meta"):  # every number is replaced, so none is drawn
        visual = CLIP(**get_model_config(NAME)).visual
    state = {name: value for name, value in build_state(shared).items() if name.startswith("visual.")}
    for name, first in zip(files["common"]["weight_names"], files["common"]["weight_first4"], strict=True):
        if str(name) in state:
            np.testing.assert_array_equal(state[str(name)].flatten()[:4], first)
    visual.load_state_dict({name.removeprefix("visual."): value for name, value in state.items()}, assign=True)
    return VisualTower(visual.eval().requires_grad_(False))


class Run(NamedTuple):
    """Both passes on a window.

    Attributes:
        x: its tokens.
        first: features of the first pass.
        words: [h,w] of the patches.
        features: of the second pass.
    """

    x: ImageTokens
    first: DenseFeatures
    words: Tensor
    features: DenseFeatures

    def logits(self) -> Tensor:
        """Return the cosines of the second pass with every word, [R,h,w]."""
        assert self.x.text is not None
        return (self.features.patches[0] @ self.x.text.features.T).T.unflatten(1, self.x.grid)


class Recorder(ResCLIP):
    """Keeps the features and the words of the first pass."""

    def segment(self, x: ImageTokens, features: DenseFeatures) -> Tensor:
        self.first, self.words = features, super().segment(x, features)
        return self.words


@pytest.fixture(scope="module")
def run(tower: VisualTower, files: dict[str, Mapping[str, np.ndarray]]) -> Any:
    """Run a base on a window, with the numbers of VOC20."""
    common = files["common"]
    text = TextFeatures(torch.from_numpy(common["text_names"]), torch.arange(21), tuple(common["names"]))

    def call(window: str, base: str = "naclip") -> Run:
        method = Recorder(base, **VOC20)
        with torch.inference_mode():
            pixels = torch.from_numpy(common[f"window_{window}"]).permute(2, 0, 1)[None]
            x = replace(tower(tower.normalise(pixels), method.needs), text=text)
            features = method(x)
        return Run(x, method.first, method.words[0], features)

    return call


@WINDOWS
def test_words_and_logits_are_met(run: Any, files: dict[str, Mapping[str, np.ndarray]], window: str) -> None:
    result, published = run(window), files["resclip"]
    np.testing.assert_array_equal(result.words, published[f"patch_words_{window}"])
    np.testing.assert_allclose(result.logits(), published[f"logits_{window}"], atol=5e-5)


@pytest.mark.parametrize("base", ["naclip", "clearclip", "clip", "sclip"])
def test_other_bases_are_met(run: Any, files: dict[str, Mapping[str, np.ndarray]], base: str) -> None:
    result, name = run("0", base), {"clip": "vanilla"}.get(base, base)
    np.testing.assert_array_equal(result.words, files["edges"][f"resclip_{name}_patch_words"])
    np.testing.assert_allclose(result.logits(), files["edges"][f"resclip_{name}_logits"], atol=5e-5)


def near(actual: Tensor, expected: np.ndarray) -> None:
    """Check within the tolerance of half precision, a thousandth of the largest entry."""
    np.testing.assert_allclose(actual, expected.astype(np.float32), atol=1e-3 * float(np.abs(expected).max()))


def test_both_attentions_are_met(run: Any, files: dict[str, Mapping[str, np.ndarray]]) -> None:
    x, published = run("0").x, files["resclip"]
    middle = [(q @ k.transpose(2, 3) / 8).softmax(3) for q, k, _ in map(x.qkv, (5, 6, 7, 8))]  # d = 64
    residual = torch.stack(middle).mean(0)[0]  # [A,T,T]
    near(residual.mean(0), published["rcs_mean_0"])
    feedback = feedback_matrix(torch.from_numpy(published["patch_words_0"]).long()[None])
    near(feedback[0], published["sfr_0"])
    key = x.qkv()[1][0]
    logits, nearness = key @ key.transpose(1, 2) / 8, gaussian_neighbourhood(x.grid, 5.0)
    base = (logits + nearness).softmax(2)
    near(2 * (0.4 * base + 0.6 * residual)[0], published["first_attention_head0_0"])
    base = (2.1 * (0.4 * logits + 0.6 * feedback / feedback.max()) + nearness).softmax(2)
    near(2 * (0.4 * base + 0.6 * residual)[0], published["final_attention_head0_0"])


@WINDOWS
def test_the_output_of_the_last_block_is_met(run: Any, files: dict[str, Mapping[str, np.ndarray]], window: str) -> None:
    result, method = run(window), ResCLIP(**VOC20)
    with torch.inference_mode():
        residual = method.attend_as_middle_blocks(result.x)
        for name, feedback in {"first": None, "final": feedback_matrix(result.words[None])}.items():
            if f"{name}_out_{window}" in files["resclip"]:
                mixed = 2 * (0.4 * method.attend_as_base(result.x, feedback) + 0.6 * residual)
                output = result.x.finish_block(mixed, residual=False, mlp=False)
                near(output[0, :, ::8], files["resclip"][f"{name}_out_{window}"])
    dense = to_joint_space(result.x.tower, output)[0, 1:]
    near(dense[:, :: 4 if window == "wide" else 1], files["resclip"][f"dense_{window}"])


def test_probabilities_of_the_first_pass_are_met(run: Any, files: dict[str, Mapping[str, np.ndarray]]) -> None:
    result = run("0")
    cosines = (result.first.patches[0] @ result.x.text.features.T).T.unflatten(1, result.x.grid)
    maps = F.interpolate(cosines[None], (224, 224), mode="bilinear")[0]
    maps = propagate(maps, pixel_affinity(result.x.images[0], DILATIONS), STEPS, DILATIONS)
    near((40 * maps).softmax(0)[:, ::4, ::4], files["resclip"]["first_prob_0"])


def test_the_feedback_matrix_of_a_grid_that_is_not_square(files: dict[str, Mapping[str, np.ndarray]]) -> None:
    words = torch.from_numpy(files["edges"]["sfr_map"]).long()[None]
    np.testing.assert_allclose(feedback_matrix(words)[0], files["edges"]["sfr_matrix"], atol=1e-6)
    whole = feedback_matrix(words, whole_path=True)[0].numpy()
    assert np.abs(whole - files["edges"]["sfr_matrix"]).max() > 1e-3


def test_pamr_is_met(files: dict[str, Mapping[str, np.ndarray]]) -> None:
    image, maps = (torch.from_numpy(files["protocol"][name]) for name in ("pamr_image", "pamr_in"))
    refined = propagate(maps.squeeze(0), pixel_affinity(image.squeeze(0), DILATIONS), STEPS, DILATIONS)
    np.testing.assert_allclose(refined, files["protocol"]["pamr_out"].squeeze(), atol=1e-5)


# ------------------------------------------------------------------ whole protocols


def compute_pixel_cosines(tower: VisualTower, method: Recorder, images: Tensor, text: TextFeatures) -> Tensor:
    """Return the cosines of one image or window [1,3,H,W] at its pixels, [R,H,W]. A remainder has no patches."""
    height, width = (side // 16 * 16 for side in images.shape[2:])
    x = replace(tower(images[..., :height, :width], method.needs), images=images, text=text)
    logits = (method(x).patches @ text.features.T).transpose(1, 2).unflatten(2, x.grid)
    return F.interpolate(logits, images.shape[2:], mode="bilinear")[0]


def decide(logits: Tensor, word_class: Tensor) -> Tensor:
    """Return the labels of cosines [R,H,W] with scale 40 and prob_thd 0.1."""
    words = (40 * logits).softmax(0)
    classes = torch.stack([words[word_class == index].amax(0) for index in range(21)])
    best, label = classes.max(0)
    return label.masked_fill(best < 0.1, 0)


@pytest.fixture(scope="module")
def photograph(tower: VisualTower, files: dict[str, Mapping[str, np.ndarray]]) -> tuple[Tensor, TextFeatures]:
    """A normalised photograph of 336 x 454 pixels, and the published words of VOC21."""
    common = files["common"]
    image = tower.normalise(torch.from_numpy(common["image_336"]).permute(2, 0, 1)[None])
    word_class = torch.from_numpy(common["word_class"]).long()
    return image, TextFeatures(torch.from_numpy(common["text_words"]), word_class, tuple(map(str, range(21))))


def check_protocol(logits: Tensor, text: TextFeatures, published: Mapping[str, np.ndarray], name: str) -> None:
    logits = F.interpolate(logits[None], (370, 500), mode="bilinear")[0]
    step = {"voc21": 8, "slide": 16}[name]
    np.testing.assert_allclose(logits[:, ::step, ::step], published[f"{name}_logits"].astype(np.float32), atol=5e-4)
    assert (decide(logits, text.class_index).numpy() == published[f"{name}_label"]).mean() >= 0.999


@torch.inference_mode()
def test_the_protocol_of_voc21_is_met(
    tower: VisualTower, photograph: tuple[Tensor, TextFeatures], files: dict[str, Mapping[str, np.ndarray]]
) -> None:
    (image, text), published = photograph, files["resclip"]
    method = Recorder(rcs_weight=0.3, sfr_scale=2.2, sfr_weight=0.7, threshold=0.5)
    logits = compute_pixel_cosines(tower, method, image, text)
    np.testing.assert_array_equal(method.words, published["voc21_patch_words"])
    check_protocol(logits, text, published, "voc21")


@torch.inference_mode()
def test_the_protocol_with_windows_is_met(
    tower: VisualTower, photograph: tuple[Tensor, TextFeatures], files: dict[str, Mapping[str, np.ndarray]]
) -> None:
    (image, text), published = photograph, files["resclip"]
    method = Recorder(rcs_weight=0.4, sfr_scale=1.8, sfr_weight=0.7, threshold=0.11)
    total, count, words = torch.zeros(56, 336, 454), torch.zeros(336, 454), []
    for top in (0, 112):
        for left in (0, 112, 224, 230):  # the last window ends at the border
            rows, columns = slice(top, top + 224), slice(left, left + 224)
            total[:, rows, columns] += compute_pixel_cosines(tower, method, image[..., rows, columns], text)
            count[rows, columns] += 1
            words.append(method.words[0])
    np.testing.assert_array_equal(torch.stack(words), published["slide_patch_words"])
    check_protocol(total / count, text, published, "slide")


@pytest.mark.parametrize(
    ("name", "options", "protocol"),
    [
        ("voc21", {"rcs_weight": 0.3, "sfr_scale": 2.2, "threshold": 0.5}, {"window": 0, "resize_twice": True}),
        ("slide", {}, {"window": 224, "stride": 112}),
    ],
    ids=["voc21", "slide"],
)
def test_the_model_meets_the_published_labels(
    tower: VisualTower,
    photograph: tuple[Tensor, TextFeatures],
    files: dict[str, Mapping[str, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
    protocol: dict[str, Any],
) -> None:
    published = pytest.importorskip("cliptrase_d2.pipeline.published", reason="this version has no such protocol")
    configured = type("Configured", (ResCLIP,), {"__init__": lambda self: ResCLIP.__init__(self, **options)})
    monkeypatch.setitem(DENSE_METHODS, "configured", configured)
    model = tiny_segmenter(  # whose text tower is not used
        tower=tower,
        settings=CLIPtraseSettings(method="configured", clustering="none"),
        protocol=published.PublishedProtocol(logit_scale=40.0, prob_thd=0.1, **protocol),
    )
    monkeypatch.setattr(model, "text_features", lambda _: photograph[1])
    image = torch.from_numpy(files["common"]["image_336"]).permute(2, 0, 1)
    (output,) = model([{"image": image, "height": 370, "width": 500}])
    assert (output["label_map"].numpy() == files["resclip"][f"{name}_label"]).mean() >= 0.999
