"""Experts of the published protocol against a slow implementation of their description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from cliptrase_d2.clip.prompts import TEMPLATE_SETS
from cliptrase_d2.methods.word_maps import interpolation
from cliptrase_d2.pipeline.experts import Expert, fuse
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.pipeline.published_reference import resize
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter

SETTINGS = CLIPtraseSettings(method="naclip", clustering="none")
# The background is not the first class, so the published order of words is another one.
WORDS = Vocabulary.parse(["north;upper", "lower", "south;below;deep", "background", "sky"])
IMAGENET = TEMPLATE_SETS["imagenet"]
TEMPLATES = {
    "north": IMAGENET[:2],
    "lower": IMAGENET[1:5],
    "south": ("the {}",),
    "background": (),
    "sky": IMAGENET[:2],
}


def write(folder: Path, templates: Mapping[str, Sequence[str]] = TEMPLATES) -> str:
    path = folder / "templates.yaml"
    path.write_text(yaml.safe_dump({name: list(own) for name, own in templates.items()}))
    return str(path)


def build(folder: Path, templates: Mapping[str, Sequence[str]] = TEMPLATES, **options: Any) -> CLIPtrase:
    protocol = PublishedProtocol(**{"window": 64, "stride": 32, "logit_scale": 100.0, **options})
    return tiny_segmenter(settings=SETTINGS, protocol=replace(protocol, experts=write(folder, templates)))


def run(model: CLIPtrase, *images: Tensor, vocabulary: Vocabulary = WORDS) -> list[dict[str, Tensor]]:
    size = {"height": 90, "width": 75, "vocabulary": vocabulary, "output_sem_seg": True}
    return model([{"image": image, **size} for image in images])


def slow_fuse(experts: Mapping[int, Tensor], default: Tensor, cases: Counter[int] | None = None) -> Tensor:
    """Return the fused probabilities, pixel by pixel. There is an expert for a word."""
    result = default.clone()
    for y in range(default.shape[1]):
        for x in range(default.shape[2]):
            claims = [word for word, values in experts.items() if int(values[:, y, x].argmax()) == word]
            if claims:
                winner = max(claims, key=lambda word: float(experts[word][word, y, x]))
                result[:, y, x] = experts[winner][:, y, x]
            if cases is not None:
                cases[min(2, len(claims))] += 1
    return result


def slow_word_features(model: CLIPtrase, words: Sequence[str], templates: Sequence[str]) -> Tensor:
    rows = []
    for word in words:
        tokens = model.text_encoder.tokenizer([template.replace("{}", word) for template in templates])
        each = F.normalize(model.clip.encode_text(tokens), dim=-1)
        rows.append(F.normalize(each.mean(0), dim=-1))
    return torch.stack(rows)


@torch.inference_mode()
def slow_segmentation(
    model: CLIPtrase, image: Tensor, size: tuple[int, int], cases: Counter[int]
) -> tuple[Tensor, Tensor]:
    """Return labels [H,W] and probabilities of the classes [C,H,W], one window after the other."""
    order = [3, 0, 1, 2, 4]  # the background first
    words = [word for index in order for word in WORDS.words[index]]
    classes = [index for index in order for _ in WORDS.words[index]]
    experts = {
        number: slow_word_features(model, words, TEMPLATES[WORDS.classes[index]])
        for number, index in enumerate(classes)
        if TEMPLATES[WORDS.classes[index]]
    }
    default = slow_word_features(model, words, TEMPLATE_SETS["simple"])
    image = model.tower.normalise(image)
    height, width = image.shape[1:]
    total, count = torch.zeros(len(words), height, width), torch.zeros(height, width)
    for top in {min(start, height - 64) for start in range(0, height - 32, 32)}:
        for left in {min(start, width - 64) for start in range(0, width - 32, 32)}:
            window = image[:, top : top + 64, left : left + 64]
            patches = model.method(model.tower(window[None])).patches[0]  # type: ignore[arg-type]

            def to_pixels(rows: Tensor, patches: Tensor = patches) -> Tensor:
                shares = (100 * patches @ rows.T).softmax(-1).T.reshape(-1, 4, 4)
                return resize(shares, (64, 64))

            fused = slow_fuse({word: to_pixels(rows) for word, rows in experts.items()}, to_pixels(default), cases)
            total[:, top : top + 64, left : left + 64] += fused
            count[top : top + 64, left : left + 64] += 1
    mean = resize(total / count, size)
    shares = torch.stack(
        [mean[[place for place, own in enumerate(classes) if own == index]].amax(0) for index in range(len(order))]
    )
    return torch.tensor(classes)[mean.argmax(0)], shares


def test_equals_the_description(tmp_path: Path) -> None:
    model, image, cases = build(tmp_path), scene(0, 84, 115), Counter[int]()
    (output,) = run(model, image)
    labels, shares = slow_segmentation(model, image, (90, 75), cases)
    assert (output["label_map"] == labels).float().mean() >= 0.999
    torch.testing.assert_close(output["sem_seg"], shares, atol=2e-5, rtol=0)
    assert torch.equal(output["sem_seg"].argmax(0), output["label_map"])
    assert len(cases) >= 2


@pytest.mark.parametrize("sharpness", [0.3, 2.0, 20.0])
def test_fusion_equals_a_loop_over_pixels(sharpness: float) -> None:
    class_index, cases = [0, 0, 1, 2, 3, 3], Counter[int]()
    generator = torch.Generator().manual_seed(0)
    maps = (sharpness * torch.randn(5, 6, 4, 5, generator=generator)).softmax(1)  # the experts of four classes, default
    pixels = [resize(one, (16, 20)) for one in maps]
    slow = slow_fuse({word: pixels[index] for word, index in enumerate(class_index)}, pixels[4], cases)
    experts = [
        (Expert([], class_index.index(index), 6 - class_index[::-1].index(index), torch.ones(6)), maps[index])
        for index in range(4)
    ]
    down, right = interpolation(4, 16).float(), interpolation(5, 20).float()
    torch.testing.assert_close(fuse(maps[4], experts, down, right), slow, atol=1e-6, rtol=0)
    assert set(cases) == {0, 1, 2}, "pixels without, with one and with several experts"


# Two words, each a class, and their experts' probabilities at a single pixel.
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0.6, 0.4], [0.7, 0.3], [0.6, 0.4]),  # only the first expert prefers its own word
        ([0.3, 0.7], [0.2, 0.8], [0.2, 0.8]),  # only the second does
        ([0.4, 0.6], [0.7, 0.3], [0.55, 0.45]),  # none does: the default
        ([0.6, 0.4], [0.3, 0.7], [0.3, 0.7]),  # both do: the more confident one
        ([0.75, 0.25], [0.25, 0.75], [0.75, 0.25]),  # equally confident: the first
        ([0.5, 0.5], [0.75, 0.25], [0.5, 0.5]),  # the first word of equal ones is the label of an expert
        ([0.25, 0.75], [0.5, 0.5], [0.55, 0.45]),
    ],
)
def test_two_experts_by_hand(first: list[float], second: list[float], expected: list[float]) -> None:
    experts = [
        (Expert([], word, word + 1, torch.ones(2)), torch.tensor(own).view(2, 1, 1))
        for word, own in enumerate((first, second))
    ]
    one = torch.ones(1, 1)
    assert fuse(torch.tensor([0.55, 0.45]).view(2, 1, 1), experts, one, one).flatten().tolist() == pytest.approx(
        expected
    )


def test_an_expert_may_win_by_any_word_of_its_class() -> None:
    values = torch.tensor([0.2, 0.5, 0.3]).view(3, 1, 1)
    one, default = torch.ones(1, 1), torch.tensor([0.1, 0.1, 0.8]).view(3, 1, 1)
    assert torch.equal(fuse(default, [(Expert([], 0, 2, torch.ones(3)), values)], one, one), values)


def test_one_class() -> None:
    one = torch.ones(1, 1)
    values = torch.ones(1, 1, 1)
    assert torch.equal(fuse(values, [(Expert([], 0, 1, torch.ones(1)), values)], one, one), values)


def test_experts_with_the_templates_of_the_model_change_nothing(tmp_path: Path) -> None:
    same = dict.fromkeys(WORDS.classes, TEMPLATE_SETS["simple"])
    model, image = build(tmp_path, same, window=0), scene(0, 64, 96)
    plain = tiny_segmenter(settings=SETTINGS, protocol=replace(model.protocol, experts=""))
    # The softmax is at the patches, so compare with one patch for each pixel of the result.
    size = {"height": 4, "width": 6, "vocabulary": WORDS, "image": image}
    assert torch.equal(model([size])[0]["label_map"], plain([size])[0]["label_map"])


def test_a_batch_equals_its_images(tmp_path: Path) -> None:
    model = build(tmp_path)
    images = [scene(0, 84, 115), scene(1, 84, 115), scene(2, 70, 64)]
    for single, output in zip((run(model, image)[0] for image in images), run(model, *images), strict=True):
        torch.testing.assert_close(single["sem_seg"], output["sem_seg"], atol=1e-5, rtol=0)


def test_changed_weights_change_the_experts(tmp_path: Path) -> None:
    model, image = build(tmp_path), scene(0, 64, 96)
    before = run(model, image)[0]["sem_seg"]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["clip.text_projection"] = state["clip.text_projection"].flip(0)
    model.load_state_dict(state)
    fresh = build(tmp_path)
    fresh.load_state_dict(state)
    after = run(model, image)[0]["sem_seg"]
    assert not torch.allclose(before, after)
    assert torch.equal(after, run(fresh, image)[0]["sem_seg"])


@pytest.mark.parametrize("method", ["maskclip", "sclip", "gem", "sc_clip", "resclip", "cliptrase"])
def test_every_dense_method_has_experts(tmp_path: Path, method: str) -> None:
    model = build(tmp_path, pad_to=16, window=56, stride=28)
    model.configure(replace(SETTINGS, method=method))
    (output,) = run(model, scene(0, 84, 115))
    assert output["sem_seg"].shape == (5, 90, 75)
    assert bool(output["sem_seg"].isfinite().all())


def test_a_bias_of_the_class_token_applies_to_experts(tmp_path: Path) -> None:
    model, image = build(tmp_path), scene(0, 84, 115)
    before = run(model, image)[0]["sem_seg"]
    model.configure(replace(SETTINGS, cls_logit_bias=-0.3))
    assert not torch.allclose(run(model, image)[0]["sem_seg"], before)


@pytest.mark.parametrize(
    ("classes", "match"),
    [
        (["north", "lower", "south", "background", "sky", "tree"], r"templates\.yaml: no templates of 'tree'\. .*\[\]"),
        (["north", "lower", "south", "background"], r"templates\.yaml: the class 'sky', which the vocabulary"),
        (["North", "lower", "south", "background", "sky"], r"the class 'north', .*Did you mean 'North'"),
    ],
)
def test_the_file_must_fit_the_classes(tmp_path: Path, classes: list[str], match: str) -> None:
    with pytest.raises(InputError, match=match):
        run(build(tmp_path), scene(0, 64, 64), vocabulary=Vocabulary.parse(classes))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.gpu
def test_a_gpu_computes_what_the_cpu_does(tmp_path: Path) -> None:
    model, image = build(tmp_path), scene(0, 84, 115)
    expected = run(model, image)[0]["sem_seg"]
    output = run(build(tmp_path).cuda(), image)[0]
    torch.testing.assert_close(output["sem_seg"].cpu(), expected, atol=1e-4, rtol=0)
