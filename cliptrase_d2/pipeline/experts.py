"""Experts: the templates of one class encode all words, and label the pixels where a word of this class wins.

Source: FLOSS (https://arxiv.org/abs/2504.10487, https://github.com/yasserben/FLOSS). There, every word is an expert.
The words of a class have equal templates and therefore equal probabilities, so one expert for each class suffices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.pipeline.expert_templates import check_classes
from cliptrase_d2.pipeline.published import PublishedText
from cliptrase_d2.vocabulary import Vocabulary

# Bounds of probabilities are compared with a margin, since sums are rounded.
_MARGIN = 1e-4


class Expert(NamedTuple):
    """One expert.

    Attributes:
        templates: indices of its templates.
        first, end: its own words, from `first` to `end - 1`.
        lengths: [R] of the mean features of all words, before they are normalised.
    """

    templates: list[int]
    first: int
    end: int
    lengths: Tensor


class ExpertText(NamedTuple):
    """A vocabulary, encoded for experts, with words in the published order.

    Attributes:
        features: [T·R,D] of the words, template by template, as rows of one vocabulary.
        experts: in the order of their words.
    """

    features: TextFeatures
    experts: tuple[Expert, ...]

    def probabilities(self, cosines: Tensor, scale: float) -> Iterable[tuple[Expert, Tensor]]:
        """Yield each expert with its probabilities of the words, [R,h,w].

        A cosine with the normalised mean of features is the mean of the cosines, divided by the length of the mean.

        Args:
            cosines: [T·R,h,w].
            scale: factor before the softmax over all words.
        """
        for expert in self.experts:
            words = cosines.unflatten(0, (-1, len(expert.lengths)))[expert.templates].mean(0)
            yield expert, (scale * words / expert.lengths[:, None, None]).softmax(0)


class ExpertEncoder:
    """Encoder of vocabularies for experts. Each vocabulary is encoded once.

    Args:
        text_encoder: of the model.
        templates: of each class, see `read_expert_templates`.
        path: file of the templates, for error messages.
    """

    def __init__(self, text_encoder: TextEncoder, templates: Mapping[str, Sequence[str]], path: object):
        self.text_encoder, self.templates, self.path = text_encoder, templates, path
        self._texts: dict[Vocabulary, ExpertText] = {}

    def __call__(self, vocabulary: Vocabulary, text: PublishedText) -> ExpertText:
        """Encode a vocabulary.

        Args:
            vocabulary: the words.
            text: their features with the templates of the model.
        Raises:
            InputError: the file lacks a class of the vocabulary, or has another one.
        """
        if vocabulary not in self._texts:
            check_classes(self.templates, vocabulary.classes, self.path)
            self._texts[vocabulary] = self._encode(vocabulary, text)
        return self._texts[vocabulary]

    def clear(self) -> None:
        """Forget the features, which other weights change."""
        self._texts.clear()

    def _encode(self, vocabulary: Vocabulary, text: PublishedText) -> ExpertText:
        used = list(dict.fromkeys(template for own in self.templates.values() for template in own))
        features = self.text_encoder.encode_templates(vocabulary, used)[:, text.words]  # [T,R,D]
        experts = []
        for index, name in enumerate(text.features.classes):
            if self.templates[name]:
                own = [used.index(template) for template in self.templates[name]]
                words = (text.features.class_index == index).nonzero()[:, 0].tolist()
                experts.append(Expert(own, words[0], words[-1] + 1, features[own].mean(0).norm(dim=-1)))
        rows = TextFeatures(features.flatten(0, 1), text.features.class_index.repeat(len(used)), vocabulary.classes)
        return ExpertText(rows, tuple(experts))


def fuse(default: Tensor, experts: Iterable[tuple[Expert, Tensor]], down: Tensor, right: Tensor) -> Tensor:
    """Return the probabilities of the words at the pixels of a window, [R,H,W].

    A pixel has the probabilities of the expert that is most confident of a word of its own and prefers this word to all
    others, the first of equally confident ones; without such an expert those of `default`.

    An expert is computed in the rows and columns where it could win. At a pixel, no word of its own is more probable
    than the interpolated largest one, and the most probable of all R words has at least the probability 1/R.

    Args:
        default: [R,h,w] at the patches, with sum 1.
        experts: each with its probabilities at the patches, in the order of their words.
        down: [H,h], the interpolation of rows.
        right: [W,w], the interpolation of columns.
    """
    result = down @ default @ right.T
    best = result.new_full(result.shape[1:], (1 - _MARGIN) / len(result))  # the confidence at each pixel
    for expert, values in experts:
        bound = down @ values[expert.first : expert.end].amax(0) @ right.T  # [H,W]
        is_possible = bound * (1 + _MARGIN) > best
        if not is_possible.any():
            continue
        rows, columns = _span(is_possible.any(1)), _span(is_possible.any(0))
        pixels = down[rows] @ values @ right[columns].T  # [R,n,m]
        confidence, word = pixels.max(0)  # the first word of equal ones
        wins = (word >= expert.first) & (word < expert.end) & (confidence > best[rows, columns])
        result[:, rows, columns] = torch.where(wins, pixels, result[:, rows, columns])
        best[rows, columns] = torch.where(wins, confidence, best[rows, columns])
    return result


def _span(flags: Tensor) -> slice:
    """Return the range from the first to the last True value, of which there is one."""
    places = flags.nonzero()[:, 0]
    return slice(int(places[0]), int(places[-1]) + 1)
