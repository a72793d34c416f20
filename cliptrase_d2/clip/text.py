"""Words into CLIP's joint space (A.3, step 1): templates, encoding, averages, and a cache."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from tqdm import tqdm

from cliptrase_d2.clip.open_clip_modules import (
    context_length,
    encode_text_tokens,
    end_positions,
    text_fingerprint,
    untrained_tokens,
)
from cliptrase_d2.clip.prompts import fill, templates_named
from cliptrase_d2.clip.text_cache import cache_key, read_features, write_features
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.vocabulary import Vocabulary

logger = logging.getLogger(__name__)
_CHUNKS_WITHOUT_BAR = 3
_WORDS_SHOWN = 5


class TextEncoder:
    """Text features of a vocabulary: per word the mean over all templates.

    Args:
        model: a CLIP model of open_clip; used where it is, with the weights it has at the time of the call.
        tokenizer: of the same model.
        templates: name of a template set, see `prompts.TEMPLATE_SETS`.
        cache_dir: folder for computed features; None for no cache.
        tokens_per_chunk: bounds the memory of one step.
    Raises:
        InputError: there is no such template set.
    """

    def __init__(
        self,
        model: CLIP,
        tokenizer: SimpleTokenizer,
        *,
        templates: str,
        cache_dir: Path | None = None,
        tokens_per_chunk: int = 4096,
    ):
        templates_named(templates)
        self.model, self.tokenizer, self.templates = model, tokenizer, templates
        self.cache_dir, self.tokens_per_chunk = cache_dir, tokens_per_chunk

    def __call__(self, vocabulary: Vocabulary) -> TextFeatures:
        """Features on the model's device, float32."""
        words = vocabulary.prompts
        self._warn_of_untrained(words)  # here, for the cache must not hide it
        features = self._cached(words, self.cache_dir) if self.cache_dir else self._encode(words)
        device = self.model.logit_scale.device
        index = torch.tensor(vocabulary.class_index, dtype=torch.int64, device=device)
        return TextFeatures(features.to(device), index, vocabulary.classes)

    def _cached(self, words: Sequence[str], folder: Path) -> Tensor:
        key = cache_key(
            text_fingerprint(self.model), f"{context_length(self.model)}", templates_named(self.templates), words
        )
        features = read_features(folder, key, len(words))
        if features is None:
            features = self._encode(words)
            self._store(folder, key, features)
        return features

    def _store(self, folder: Path, key: str, features: Tensor) -> None:
        try:
            write_features(folder, key, features)
        except OSError as error:
            logger.warning("%s: text features cannot be kept here (%s).", folder, error)
            self.cache_dir = None  # so that it is said once

    @torch.no_grad()
    def _encode(self, words: Sequence[str]) -> Tensor:
        """[R,D] on the CPU, L2-normalised."""
        prompts = [fill(self.templates, word) for word in words]
        tokens = self.tokenizer([prompt for group in prompts for prompt in group])  # [P,L]
        lengths = end_positions(self.model, tokens) + 1
        self._warn_of_cut(prompts, words, lengths)
        word_of_prompt = torch.arange(len(words)).repeat_interleave(len(prompts[0]))
        device = self.model.logit_scale.device
        total: Tensor | None = None
        chunks = list(_chunks(lengths, self.tokens_per_chunk))
        bar = tqdm(total=len(tokens), desc="Text features", unit="prompt", disable=len(chunks) <= _CHUNKS_WITHOUT_BAR)
        # In full precision always: the cache must not depend on the caller's autocast.
        with bar, torch.autocast(device.type, enabled=False):
            for chunk in chunks:
                part = tokens[chunk, : int(lengths[chunk].max())].to(device)
                features = F.normalize(encode_text_tokens(self.model, part).float(), dim=-1).cpu()
                if total is None:
                    total = features.new_zeros(len(words), features.shape[1])
                total.index_add_(0, word_of_prompt[chunk], features)
                bar.update(len(chunk))
        assert total is not None, "a vocabulary has at least one word"
        return F.normalize(total, dim=-1)  # the sum points where the mean does

    def _warn_of_cut(self, prompts: Sequence[Sequence[str]], words: Sequence[str], lengths: Tensor) -> None:
        limit = context_length(self.model)
        full = (lengths.view(len(words), -1) == limit).nonzero().tolist()  # may or may not have been cut
        encode = self.tokenizer.encode
        cut = dict.fromkeys(words[word] for word, i in full if len(encode(prompts[word][i])) + 2 > limit)
        if cut:
            logger.warning(
                "%d of %d words make prompts longer than CLIP's %d tokens; their end is not read: %s",
                len(cut), len(words), limit, _shown(cut),
            )  # fmt: skip

    def _warn_of_untrained(self, words: Sequence[str]) -> None:
        tokens = {word: self.tokenizer.encode(word) for word in words}  # no template, which is not the user's choice
        untrained = untrained_tokens(self.model, {token for own in tokens.values() for token in own})
        unknown = [word for word, own in tokens.items() if not untrained.isdisjoint(own)]
        if unknown:
            logger.warning(
                "%d of %d words have parts that this CLIP was never trained on; what it says of them means nothing: %s",
                len(unknown), len(words), _shown(unknown),
            )  # fmt: skip


def _shown(words: Iterable[str]) -> str:
    return ", ".join(repr(word[:60]) for word in islice(words, _WORDS_SHOWN))


def _chunks(lengths: Tensor, budget: int) -> Iterator[Tensor]:
    """Indices of prompts of similar length, as many at a time as fit the budget once padded to their longest."""
    order = lengths.argsort(stable=True)
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * int(lengths[order[end]]) > budget:
            yield order[start:end]
            start = end
