"""Text features of a vocabulary (A.3, step 1): prompts, encoding, averages and a cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
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
_TOKENS_PER_PROMPT = 10  # a rough estimate, which decides whether to show progress
_MAX_WORDS = 5  # in a warning


class TextEncoder:
    """Encoder of vocabularies: the mean feature over all templates for each word.

    Words are encoded and cached in blocks. This bounds the memory for prompts, and an interruption loses one block.

    Args:
        model: a CLIP model of open_clip. Each call uses the model's present device and weights.
        tokenizer: of the same model.
        templates: name of a template set, see `prompts.TEMPLATE_SETS`.
        cache_dir: folder of computed features; None for no cache.
        tokens_per_chunk: maximum tokens of a forward pass, padding included.
        words_per_block: maximum words that are tokenized together and stored in one file.
    Raises:
        InputError: unknown template set.
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
        """Return the features of a vocabulary, float32, on the model's device."""
        words = vocabulary.prompts
        self._warn_untrained(words)  # before the cache, which would hide it
        blocks = [words[first : first + self.words_per_block] for first in range(0, len(words), self.words_per_block)]
        keys = self._cache_keys(blocks)
        features = {
            index: cached
            for index, block in enumerate(blocks)
            if self.cache_dir and (cached := read_features(self.cache_dir, keys[index], len(block))) is not None
        }
        missing = [index for index in range(len(blocks)) if index not in features]
        truncated: list[str] = []
        with self._progress_bar(sum(len(blocks[index]) for index in missing)) as bar:
            for index in missing:
                features[index] = self._encode(blocks[index], bar, truncated)
                if self.cache_dir:
                    self._store(self.cache_dir, keys[index], features[index])
        limit = context_length(self.model)
        _warn(truncated, len(words), f"make prompts longer than CLIP's {limit} tokens, which are truncated")
        device = self.model.logit_scale.device
        class_index = torch.tensor(vocabulary.class_index, dtype=torch.int64, device=device)
        rows = torch.cat([features[index] for index in range(len(blocks))])  # [R,D]
        return TextFeatures(rows.to(device), class_index, vocabulary.classes)

    def _cache_keys(self, blocks: Sequence[Sequence[str]]) -> list[str]:
        if not self.cache_dir:
            return []
        model, length = text_fingerprint(self.model), f"{context_length(self.model)}"
        return [cache_key(model, length, get_templates(self.templates), block) for block in blocks]

    def _store(self, folder: Path, key: str, features: Tensor) -> None:
        try:
            write_features(folder, key, features)
        except OSError as error:
            logger.warning("%s: text features cannot be stored (%s).", folder, error)
            self.cache_dir = None  # avoids a second warning

    def _progress_bar(self, words: int) -> tqdm:
        prompts = words * len(get_templates(self.templates))
        is_short = prompts * _TOKENS_PER_PROMPT <= _CHUNKS_WITHOUT_BAR * self.tokens_per_chunk
        return tqdm(total=prompts, desc="Text features", unit="prompt", disable=is_short)

    @torch.no_grad()
    def _encode(self, words: Sequence[str], bar: tqdm, truncated: list[str]) -> Tensor:
        """Return [R,D] on the CPU, L2-normalised. Append the words with too long prompts to `truncated`."""
        prompts = [fill(self.templates, word) for word in words]
        tokens = self.tokenizer([prompt for group in prompts for prompt in group])  # [P,L]
        lengths = end_positions(self.model, tokens) + 1
        truncated += self._find_truncated(prompts, words, lengths)
        word_index = torch.arange(len(words)).repeat_interleave(len(prompts[0]))  # [P]
        total: Tensor | None = None
        device = self.model.logit_scale.device
        with torch.autocast(device.type, enabled=False):  # the cache must not depend on the caller's autocast
            for chunk in _split(lengths, self.tokens_per_chunk):
                part = tokens[chunk, : int(lengths[chunk].max())].to(device)
                features = F.normalize(encode_text_tokens(self.model, part).float(), dim=-1).cpu()
                if total is None:
                    total = features.new_zeros(len(words), features.shape[1])
                total.index_add_(0, word_index[chunk], features)
                bar.update(len(chunk))
        assert total is not None, "a vocabulary has at least one word"
        return F.normalize(total, dim=-1)  # of the sum, which has the direction of the mean

    def _find_truncated(self, prompts: Sequence[Sequence[str]], words: Sequence[str], lengths: Tensor) -> list[str]:
        limit, encode = context_length(self.model), self.tokenizer.encode
        full = (lengths.view(len(words), -1) == limit).nonzero().tolist()  # prompts that may have been truncated
        return list(dict.fromkeys(words[word] for word, i in full if len(encode(prompts[word][i])) + 2 > limit))

    def _warn_untrained(self, words: Sequence[str]) -> None:
        tokens = [set(self.tokenizer.encode(word)) for word in words]  # without templates, which users do not choose
        untrained = untrained_tokens(self.model, set[int]().union(*tokens))
        unknown = [word for word, own in zip(words, tokens, strict=True) if own & untrained]
        _warn(unknown, len(words), "have parts that this CLIP was never trained on. Their features are meaningless")


def _warn(words: Sequence[str], total: int, problem: str) -> None:
    if words:
        examples = ", ".join(repr(word[:60]) for word in words[:_MAX_WORDS])
        logger.warning("%d of %d words %s: %s", len(words), total, problem, examples)


def _split(lengths: Tensor, budget: int) -> Iterator[Tensor]:
    """Yield indices of prompts of similar length. Padded to the longest one, each group fits the budget of tokens."""
    order = lengths.argsort(stable=True)
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * int(lengths[order[end]]) > budget:
            yield order[start:end]
            start = end
