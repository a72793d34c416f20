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
from cliptrase_d2.clip.prompts import fill, get_templates
from cliptrase_d2.clip.text_cache import cache_key, read_features, write_features
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.vocabulary import Vocabulary

logger = logging.getLogger(__name__)
_CHUNKS_WITHOUT_BAR = 3
_TOKENS_OF_A_PROMPT = 10  # roughly, to foresee how long the work will be
_WORDS_SHOWN = 5


class TextEncoder:
    """Text features of a vocabulary: per word the mean over all templates.

    Words are encoded, and kept, block by block: what a vocabulary of any size needs at a time is the prompts of one
    block, and whoever is interrupted has lost one block.

    Args:
        model: a CLIP model of open_clip; used where it is, with the weights it has at the time of the call.
        tokenizer: of the same model.
        templates: name of a template set, see `prompts.TEMPLATE_SETS`.
        cache_dir: folder for computed features; None for no cache.
        tokens_per_chunk: bounds the memory of one step.
        words_per_block: words whose prompts are tokenized at a time, and whose features are one file of the cache.
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
        words_per_block: int = 512,
    ):
        get_templates(templates)
        self.model, self.tokenizer, self.templates = model, tokenizer, templates
        self.cache_dir = cache_dir
        self.tokens_per_chunk, self.words_per_block = tokens_per_chunk, words_per_block

    def __call__(self, vocabulary: Vocabulary) -> TextFeatures:
        """Features on the model's device, float32."""
        words = vocabulary.prompts
        self._warn_of_untrained(words)  # here, for the cache must not hide it
        blocks = [words[first : first + self.words_per_block] for first in range(0, len(words), self.words_per_block)]
        keys = self._keys(blocks)
        found = {
            index: features
            for index, block in enumerate(blocks)
            if self.cache_dir and (features := read_features(self.cache_dir, keys[index], len(block))) is not None
        }
        missing = [index for index in range(len(blocks)) if index not in found]
        cut: list[str] = []
        with self._bar(sum(len(blocks[index]) for index in missing)) as bar:
            for index in missing:
                found[index] = self._encode(blocks[index], bar, cut)
                if self.cache_dir:
                    self._store(self.cache_dir, keys[index], found[index])
        self._warn_of_cut(cut, len(words))
        device = self.model.logit_scale.device
        features = torch.cat([found[index] for index in range(len(blocks))]).to(device)  # [R,D]
        class_index = torch.tensor(vocabulary.class_index, dtype=torch.int64, device=device)
        return TextFeatures(features, class_index, vocabulary.classes)

    def _keys(self, blocks: Sequence[Sequence[str]]) -> list[str]:
        """Of all blocks in the cache; none without one."""
        if not self.cache_dir:
            return []
        model, length = text_fingerprint(self.model), f"{context_length(self.model)}"
        return [cache_key(model, length, get_templates(self.templates), block) for block in blocks]

    def _store(self, folder: Path, key: str, features: Tensor) -> None:
        try:
            write_features(folder, key, features)
        except OSError as error:
            logger.warning("%s: text features cannot be kept here (%s).", folder, error)
            self.cache_dir = None  # so that it is said once

    def _bar(self, words: int) -> tqdm:
        prompts = words * len(get_templates(self.templates))
        short = prompts * _TOKENS_OF_A_PROMPT <= _CHUNKS_WITHOUT_BAR * self.tokens_per_chunk
        return tqdm(total=prompts, desc="Text features", unit="prompt", disable=short)

    @torch.no_grad()
    def _encode(self, words: Sequence[str], bar: tqdm, cut: list[str]) -> Tensor:
        """[R,D] on the CPU, L2-normalised; words whose prompts are too long are added to `cut`."""
        prompts = [fill(self.templates, word) for word in words]
        tokens = self.tokenizer([prompt for group in prompts for prompt in group])  # [P,L]
        lengths = end_positions(self.model, tokens) + 1
        cut += self._cut_words(prompts, words, lengths)
        word_of_prompt = torch.arange(len(words)).repeat_interleave(len(prompts[0]))
        device = self.model.logit_scale.device
        total: Tensor | None = None
        # In full precision always: the cache must not depend on the caller's autocast.
        with torch.autocast(device.type, enabled=False):
            for chunk in _chunks(lengths, self.tokens_per_chunk):
                part = tokens[chunk, : int(lengths[chunk].max())].to(device)
                features = F.normalize(encode_text_tokens(self.model, part).float(), dim=-1).cpu()
                if total is None:
                    total = features.new_zeros(len(words), features.shape[1])
                total.index_add_(0, word_of_prompt[chunk], features)
                bar.update(len(chunk))
        assert total is not None, "a vocabulary has at least one word"
        return F.normalize(total, dim=-1)  # the sum points where the mean does

    def _cut_words(self, prompts: Sequence[Sequence[str]], words: Sequence[str], lengths: Tensor) -> list[str]:
        """Words that make a prompt longer than the model reads."""
        limit = context_length(self.model)
        full = (lengths.view(len(words), -1) == limit).nonzero().tolist()  # may or may not have been cut
        encode = self.tokenizer.encode
        return list(dict.fromkeys(words[word] for word, i in full if len(encode(prompts[word][i])) + 2 > limit))

    def _warn_of_cut(self, cut: Sequence[str], words: int) -> None:
        if cut:
            logger.warning(
                "%d of %d words make prompts longer than CLIP's %d tokens; their end is not read: %s",
                len(cut), words, context_length(self.model), _shown(cut),
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
