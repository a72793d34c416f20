"""Choice of the templates of each class, by the entropy of unlabelled images.

Source: FLOSS (https://arxiv.org/abs/2504.10487, https://github.com/yasserben/FLOSS).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cliptrase_d2.clip.prompts import get_templates
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.methods import DenseMethod
from cliptrase_d2.methods.word_maps import ReadRows, Size
from cliptrase_d2.pipeline import stages
from cliptrase_d2.pipeline.decision import DecisionRule, bands, join_words
from cliptrase_d2.pipeline.model import CLIPtrase
from cliptrase_d2.pipeline.published import join_windows, place_windows, put_background_first
from cliptrase_d2.pipeline.published_segmentation import encode_features
from cliptrase_d2.pipeline.tiles import get_output_size
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.tensors import check_finite
from cliptrase_d2.vocabulary import Vocabulary

_EPS = 1e-10  # inside the logarithm, as in the published code


class TemplateEntropies:
    """Mean entropy of the pixels that each template gives to each class, over any number of images.

    Args:
        templates: their number, T.
        classes: their number, C.
    """

    def __init__(self, templates: int, classes: int):
        self._sums = torch.zeros(templates, classes, dtype=torch.float64)
        self._pixels = torch.zeros(templates, classes, dtype=torch.int64)

    def add(self, template: int, read: ReadRows, size: Size, rule: DecisionRule) -> None:
        """Add the pixels of an image, a band of rows at a time.

        A class has the probability of its best word. The entropy is that of these probabilities, whose sum is less than
        1 if classes have several words, as in the published code.

        Args:
            template: 0 to T-1.
            read: the values of the words with this template.
            size: (H, W).
            rule: of the decision, without thresholds.
        """
        assert rule.scale is not None, "the values are logits"
        for start, stop in bands(size, rule):
            shares = join_words((rule.scale * read(start, stop)).softmax(1), rule)  # [n,C,W]
            labels = shares.max(1).indices.flatten()  # on a CPU four times as fast as argmax
            entropies = -(shares * (shares + _EPS).log()).sum(1).flatten().double()
            self._pixels[template] += torch.bincount(labels, minlength=rule.classes).cpu()
            self._sums[template] += torch.bincount(labels, entropies, minlength=rule.classes).cpu()

    def means(self) -> Tensor:
        """Return the mean entropy, [T,C] float64; infinite where a template gives a class no pixel."""
        return torch.where(self._pixels > 0, self._sums / self._pixels, torch.inf)

    def choose(self, keep: int) -> list[list[int]]:
        """Return the templates of the lowest entropy for each class, best first, the first of equal ones.

        Args:
            keep: number of templates, 1 or more. A class has fewer if fewer templates predict it.
        """
        means = self.means()
        order = means.argsort(dim=0, stable=True)[:keep]
        return [[int(index) for index in own if means[index, place] < torch.inf] for place, own in enumerate(order.T)]


class TemplateChooser:
    """Chooses templates for the classes of a vocabulary. The labels of images are not read.

    Args:
        model: with the published protocol and a method of dense features. Its templates are the candidates.
        vocabulary: the classes.
    Raises:
        InputError: another protocol, or a method of whole images.
    """

    @torch.inference_mode()
    def __init__(self, model: CLIPtrase, vocabulary: Vocabulary):
        if model.protocol is None:
            raise InputError("protocol", "another one than 'published'", "Set TEST.PROTOCOL to 'published'.")
        if not isinstance(model.method, DenseMethod):
            got = f"{model.settings.method!r}, which labels whole images and has no patch features"
            raise InputError("method", got, "Choose another method.")
        self.model, self.protocol = model, replace(model.protocol, average="logits", experts="")
        self.templates = get_templates(model.text_encoder.templates)
        self.text = model.text_features(vocabulary)
        self._ordered = put_background_first(self.text)
        rows = model.text_encoder.encode_templates(vocabulary, self.templates)[:, self._ordered.words]  # [T,R,D]
        self._words = [TextFeatures(one, self._ordered.features.class_index, vocabulary.classes) for one in rows]
        self._entropies = TemplateEntropies(len(self.templates), len(vocabulary.classes))

    @torch.inference_mode()
    def add(self, inputs: Mapping[str, Any]) -> None:
        """Add an image. It is encoded once for all templates.

        Args:
            inputs: of the model, see `CLIPtrase.forward`; its vocabulary and labels are not read.
        Raises:
            InputError: the image is smaller than a patch, or its features are NaN or infinite.
        """
        model, size = self.model, get_output_size(inputs)
        image = model.tower.normalise(inputs["image"].to(model.device))[None]
        name = str(inputs.get("file_name", "image"))
        windows = place_windows((image.shape[2], image.shape[3]), model.tower.patch_size, self.protocol, name)
        (features,) = encode_features(model, image, windows, self.text)
        check_finite(features.patches[None], [inputs])
        for index, words in enumerate(self._words):
            cosines = stages.compute_word_logits(features, words, 1.0, model.settings)  # [K,R,h,w]
            maps, scale = join_windows(cosines, *windows, self.protocol)
            rule = DecisionRule(words.class_index, len(words.classes), scale)
            self._entropies.add(index, maps.reader(size), size, rule)

    def choose(self, keep: int) -> dict[str, list[str]]:
        """Return the chosen templates of each class, best first, as `TemplateEntropies.choose` does."""
        own = self._entropies.choose(keep)
        chosen = dict(zip(self._ordered.features.classes, own, strict=True))
        return {name: [self.templates[index] for index in chosen[name]] for name in self.text.classes}
