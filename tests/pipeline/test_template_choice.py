"""The choice of templates against a slow implementation of its description."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cliptrase_d2.clip.prompts import TEMPLATE_SETS
from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.methods import ImageMethod, WholeImage
from cliptrase_d2.methods.base import IMAGE_METHODS
from cliptrase_d2.methods.word_maps import WordMaps
from cliptrase_d2.pipeline import decision
from cliptrase_d2.pipeline.decision import DecisionRule
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import PublishedProtocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.pipeline.template_choice import TemplateChooser, TemplateEntropies
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.pipeline.published_reference import slow_maps
from tests.pipeline.test_experts import slow_word_features
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter

SETTINGS = CLIPtraseSettings(method="naclip", clustering="none")
WORDS = Vocabulary.parse(["north;upper", "lower", "background", "sky"])
CANDIDATES = (*TEMPLATE_SETS["simple"], "the {}", "a drawing of a {}", "{} at night")
SIZE = (50, 60)


def build(**protocol: Any) -> CLIPtrase:
    options = {"window": 64, "stride": 32, "logit_scale": 100.0, **protocol}
    model = tiny_segmenter(settings=SETTINGS, protocol=PublishedProtocol(**options))
    model.text_encoder = TextEncoder(model.clip, model.text_encoder.tokenizer, templates=CANDIDATES)
    return model


def inputs(index: int) -> dict[str, Any]:
    return {"image": scene(index, 84, 115), "height": SIZE[0], "width": SIZE[1]}


def read_map(values: Tensor) -> Any:
    return WordMaps.of_grid(values).reader((values.shape[1], values.shape[2]))


@torch.inference_mode()
def slow_means(model: CLIPtrase, images: list[Tensor]) -> dict[tuple[str, str], float]:
    """Return the mean entropy of each template and class that it predicts."""
    words = WORDS.prompts
    index = torch.tensor(WORDS.class_index)
    result: dict[tuple[str, str], float] = {}
    for template in CANDIDATES:
        text = replace(model.text_features(WORDS), features=slow_word_features(model, words, [template]))
        sums, pixels = torch.zeros(4, dtype=torch.float64), torch.zeros(4)
        for image in images:
            assert model.protocol is not None
            cosines = slow_maps(model, model.tower.normalise(image), text, SIZE, model.protocol)
            shares = (100 * cosines).softmax(0)
            best = torch.stack([shares[index == place].amax(0) for place in range(4)])
            entropy = -(best * (best + 1e-10).log()).sum(0)
            for place in range(4):
                sums[place] += entropy[best.argmax(0) == place].double().sum()
                pixels[place] += (best.argmax(0) == place).sum()
        result |= {(template, name): float(sums[i] / pixels[i]) for i, name in enumerate(WORDS.classes) if pixels[i]}
    return result


@pytest.mark.parametrize("protocol", [{}, {"window": 0}, {"average": "probabilities"}], ids=str)
def test_equals_the_description(protocol: dict[str, Any]) -> None:
    model = build(**protocol)
    chooser = TemplateChooser(model, WORDS)
    for index in range(2):
        chooser.add(inputs(index))
    model.protocol = replace(model.protocol, average="logits")  # the choice averages logits in any case
    expected = slow_means(model, [inputs(index)["image"] for index in range(2)])
    order = sorted(expected, key=lambda key: expected[key])
    assert chooser.choose(3) == {
        name: [template for template, own in order if own == name][:3] for name in WORDS.classes
    }
    classes = ["background", "north", "lower", "sky"]  # the published order
    for template, row in zip(CANDIDATES, chooser._entropies.means(), strict=True):
        for name, value in zip(classes, row.tolist(), strict=True):
            assert value == pytest.approx(expected.get((template, name), math.inf), abs=1e-4)


def test_entropies_by_hand() -> None:
    # Words 0 and 1 are class 0. Logits are logarithms of probabilities, for a scale of 1.
    shares = torch.tensor([[0.5, 0.2], [0.25, 0.2], [0.25, 0.6]])  # [R,pixels]
    entropies = TemplateEntropies(2, 2)
    rule = DecisionRule(torch.tensor([0, 0, 1]), 2, 1.0)
    entropies.add(0, read_map(shares.log()[:, None]), (1, 2), rule)
    # The classes have 0.5 and 0.25 at the first pixel, 0.2 and 0.6 at the second.
    first = -0.5 * math.log(0.5) - 0.25 * math.log(0.25)
    second = -0.2 * math.log(0.2) - 0.6 * math.log(0.6)
    torch.testing.assert_close(
        entropies.means(), torch.tensor([[first, second], [math.inf, math.inf]], dtype=torch.float64), rtol=1e-6, atol=0
    )
    assert entropies.choose(4) == [[0], [0]], "template 1 predicts nothing"


def test_images_count_by_their_pixels() -> None:
    entropies, rule = TemplateEntropies(1, 2), DecisionRule(torch.tensor([0, 1]), 2, 1.0)
    entropies.add(0, read_map(torch.tensor([0.5, 0.5]).log()[:, None, None].repeat(1, 1, 3)), (1, 3), rule)
    entropies.add(0, read_map(torch.tensor([1.0, 1e-30]).log()[:, None, None]), (1, 1), rule)
    assert entropies.means()[0, 0] == pytest.approx(0.75 * math.log(2))
    assert entropies.means()[0, 1] == math.inf


def test_the_first_of_equal_templates_is_chosen() -> None:
    entropies, rule = TemplateEntropies(3, 1), DecisionRule(torch.tensor([0]), 1, 1.0)
    for template in range(3):
        entropies.add(template, read_map(torch.zeros(1, 2, 2)), (2, 2), rule)
    assert entropies.choose(2) == [[0, 1]]
    assert entropies.choose(5) == [[0, 1, 2]]


def test_bands_give_the_result_of_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for values in (2**19, 1):  # all rows, one row
        monkeypatch.setattr(decision, "_BAND_VALUES_CPU", values)
        chooser = TemplateChooser(build(), WORDS)
        chooser.add(inputs(0))
        results.append(chooser._entropies.means())
    torch.testing.assert_close(*results)


def test_another_protocol_is_refused() -> None:
    with pytest.raises(InputError, match=r"protocol: .*published"):
        TemplateChooser(tiny_segmenter(settings=SETTINGS), WORDS)


def test_a_method_of_whole_images_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Whole(ImageMethod):
        def __call__(self, x: WholeImage) -> WordMaps:
            raise NotImplementedError

    monkeypatch.setitem(IMAGE_METHODS, "whole", Whole)
    model = build()
    model.configure(replace(SETTINGS, method="whole"))
    with pytest.raises(InputError, match="method: 'whole', which labels whole images"):
        TemplateChooser(model, WORDS)
    model.protocol = replace(model.protocol, experts="templates.yaml")  # type: ignore[type-var]
    with pytest.raises(InputError, match=r"experts: 'templates\.yaml', but 'whole' computes"):
        model.configure(replace(SETTINGS, method="whole"))
