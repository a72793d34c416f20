"""Text features of a vocabulary (A.3, step 1): prompts, encoding, averages and a cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from cliptrase_d2.clip.open_clip_modules import (
    TextPrefixes,
    context_length,
    encode_text_prefixes,
    encode_text_tokens,
    end_positions,
    is_bidirectional,
    text_fingerprint,
    untrained_tokens,
)
from cliptrase_d2.clip.prompts import SLOT, fill, get_templates
from cliptrase_d2.clip.text_cache import add_features, cache_key, keep_latest, read_features
from cliptrase_d2.clip.tokenizer import Tokenizer
from cliptrase_d2.clip.tokens import TextFeatures
from cliptrase_d2.vocabulary import Vocabulary

logger = logging.getLogger(__name__)
_CHUNKS_WITHOUT_BAR = 3
_TOKENS_PER_PROMPT = 10  # a rough estimate, which decides whether to show progress
_MAX_WORDS = 5  # in a warning
_ENOUGH_TOKENS = 512  # of a forward pass; more in one pass are hardly faster
_MIN_WORDS_TO_SHARE = 3  # with fewer, encoding the prefixes separately costs more than it saves


class TextEncoder:
    """Encoder of vocabularies: the mean feature over all templates for each word.

    Each word is encoded once per model and templates. The encoder remembers its words, and the cache stores them on
    disk. Words are encoded in blocks, which bounds the memory for prompts. An interruption loses one block.

    Args:
        model: a CLIP model of open_clip. Each call uses the model's present device and weights.
        tokenizer: of the same model.
        templates: name of a template set, a file, or a tuple of templates, see `prompts.get_templates`.
        cache_dir: folder of computed features; None for no cache on disk.
        tokens_per_chunk: maximum tokens of a forward pass, padding included, shared prefixes not.
        words_per_block: maximum words that are tokenized together and added to the cache at once.
    Raises:
        InputError: unknown or invalid templates.
    """

    def __init__(
        self,
        model: CLIP,
        tokenizer: Tokenizer,
        *,
        templates: str | tuple[str, ...],
        cache_dir: Path | None = None,
        tokens_per_chunk: int = 4096,
        words_per_block: int = 512,
    ):
        get_templates(templates)
        self.model, self.tokenizer, self.templates = model, tokenizer, templates
        self.cache_dir = cache_dir
        self.tokens_per_chunk, self.words_per_block = tokens_per_chunk, words_per_block
        self._key, self._known = "", dict[str, Tensor]()  # the key of the cache, and the features [D] of words

    def __call__(self, vocabulary: Vocabulary) -> TextFeatures:
        """Return the features of a vocabulary, float32, on the model's device."""
        self._warn(vocabulary.prompts)  # before the cache, which would hide it
        return self._look_up(vocabulary)

    def encode_templates(self, vocabulary: Vocabulary, templates: Sequence[str]) -> Tensor:
        """Return the features of a vocabulary for each template alone, [T,R,D] float32, on the model's device.

        Args:
            vocabulary: R words.
            templates: T templates in place of the encoder's own.
        Raises:
            InputError: an invalid template.
        """
        self._replace_templates(tuple(templates))._warn(vocabulary.prompts)
        encoders = (self._replace_templates((template,)) for template in templates)
        return torch.stack([encoder._look_up(vocabulary).features for encoder in encoders])

    def _replace_templates(self, templates: tuple[str, ...]) -> TextEncoder:
        return TextEncoder(
            self.model,
            self.tokenizer,
            templates=templates,
            cache_dir=self.cache_dir,
            tokens_per_chunk=self.tokens_per_chunk,
            words_per_block=self.words_per_block,
        )

    def _look_up(self, vocabulary: Vocabulary) -> TextFeatures:
        """Return the features of a vocabulary, of which missing words are encoded and remembered."""
        words = vocabulary.prompts
        missing = self._recall(words)
        blocks = [
            missing[first : first + self.words_per_block] for first in range(0, len(missing), self.words_per_block)
        ]
        with self._progress_bar(len(missing)) as bar:
            for block in blocks:
                features = dict(zip(block, self._encode(block, bar), strict=True))
                self._known |= features
                self._store(features)
        device = self.model.logit_scale.device
        class_index = torch.tensor(vocabulary.class_index, dtype=torch.int64, device=device)
        rows = torch.stack([self._known[word] for word in words])  # [R,D]
        self._known = keep_latest(self._known)
        return TextFeatures(rows.to(device), class_index, vocabulary.classes)

    def _recall(self, words: Sequence[str]) -> list[str]:
        """Read the cache if necessary. Return the words that are not known for these weights and templates."""
        # The digest of the weights takes a fraction of the time of one new word.
        tokens = f"{context_length(self.model)}{getattr(self.tokenizer, 'fingerprint', '')}"  # CLIP's own has none
        key = cache_key(text_fingerprint(self.model), tokens, get_templates(self.templates))
        if key != self._key:
            self._key, self._known = key, {}
        if self.cache_dir and not self._known.keys() >= set(words):
            self._known = read_features(self.cache_dir, key) | self._known
        return [word for word in words if word not in self._known]

    def _store(self, features: Mapping[str, Tensor]) -> None:
        try:
            if self.cache_dir:
                add_features(self.cache_dir, self._key, features)
        except OSError as error:
            logger.warning("%s: text features cannot be stored (%s).", self.cache_dir, error)
            self.cache_dir = None  # avoids a second warning

    def _progress_bar(self, words: int) -> tqdm:
        prompts = words * len(get_templates(self.templates))
        is_short = prompts * _TOKENS_PER_PROMPT <= _CHUNKS_WITHOUT_BAR * self.tokens_per_chunk
        return tqdm(total=prompts, desc="Text features", unit="prompt", disable=is_short or None)

    @torch.no_grad()
    def _encode(self, words: Sequence[str], bar: tqdm) -> Tensor:
        """Return [R,D] on the CPU, L2-normalised."""
        prompts = [prompt for word in words for prompt in fill(self.templates, word)]
        tokens = self.tokenizer(prompts)  # [P,L]
        total: Tensor | None = None
        device = self.model.logit_scale.device
        word_index = torch.arange(len(words)).repeat_interleave(len(prompts) // len(words))  # [P]
        with torch.autocast(device.type, enabled=False):  # the cache must not depend on the caller's autocast
            tokens, prefixes = self._share_prefixes(tokens, len(words))
            lengths = end_positions(self.model, tokens) + 1
            for chunk in split_by_length(lengths, self.tokens_per_chunk, _ENOUGH_TOKENS):
                part = tokens[chunk, : int(lengths[chunk].max())].to(device)
                shared = prefixes.select(chunk.to(device)) if prefixes else None
                features = F.normalize(encode_text_tokens(self.model, part, shared).float(), dim=-1).cpu()
                if total is None:
                    total = features.new_zeros(len(words), features.shape[1])
                total.index_add_(0, word_index[chunk], features)
                bar.update(len(chunk))
        assert total is not None, "there is at least one word"
        return F.normalize(total, dim=-1)  # of the sum, which has the direction of the mean

    def _share_prefixes(self, tokens: Tensor, words: int) -> tuple[Tensor, TextPrefixes | None]:
        """Encode the text before the word once per template. Return the tokens after it and the encoded prefixes.

        Prompts are tokenized whole, and compared with the prefix. A prompt that begins otherwise has no prefix: a word
        may change the tokens before it, as in "non{}", or be truncated.

        Args:
            tokens: [P,L], word by word.
        """
        if words < _MIN_WORDS_TO_SHARE or is_bidirectional(self.model):
            return tokens, None
        starts = [template.partition(SLOT)[0] for template in get_templates(self.templates)]
        own = [
            torch.tensor([int(tokens[0, 0]), *self.tokenizer.encode(start)]) for start in starts
        ]  # start token first
        sizes = torch.tensor([len(prefix) for prefix in own])  # [T]
        padded = pad_sequence(own, batch_first=True)[:, : tokens.shape[1]]  # [T,p]
        index = torch.arange(len(own)).repeat(words)  # [P]
        padding = torch.arange(padded.shape[1]) >= sizes.unsqueeze(1)  # [T,p]
        equal = ((tokens[:, : padded.shape[1]] == padded[index]) | padding[index]).all(dim=-1)  # [P]
        is_shared = equal & (end_positions(self.model, tokens) >= sizes[index])
        lengths = torch.where(is_shared, sizes[index], 0)  # [P]
        positions = (lengths.unsqueeze(1) + torch.arange(tokens.shape[1])).clamp(max=tokens.shape[1] - 1)  # [P,L]
        device = self.model.logit_scale.device
        prefixes = encode_text_prefixes(self.model, padded.to(device), index.to(device), lengths.to(device))
        return tokens.gather(1, positions), prefixes

    def _warn(self, words: Sequence[str]) -> None:
        """Warn about words that are truncated, or were not in the training."""
        tokens = [self.tokenizer.encode(word) for word in words]  # without templates, which users seldom choose
        untrained = untrained_tokens(self.model, set[int]().union(*tokens))
        unknown = [word for word, own in zip(words, tokens, strict=True) if not untrained.isdisjoint(own)]
        _warn(unknown, len(words), "have parts that this CLIP was never trained on. Their features are meaningless")
        limit = context_length(self.model)
        template = max(len(self.tokenizer.encode(template)) for template in get_templates(self.templates))
        # Only long words can be truncated. Twice, because a prompt may have more tokens than its parts.
        long = [word for word, own in zip(words, tokens, strict=True) if len(own) + 2 * template > limit]
        truncated = [word for word in long if self._count_tokens(word) > limit]
        _warn(truncated, len(words), f"make prompts longer than CLIP's {limit} tokens, which are truncated")

    def _count_tokens(self, word: str) -> int:
        """Return the number of tokens of the longest prompt of a word, with its start and end token."""
        return max(len(self.tokenizer.encode(prompt)) + 2 for prompt in fill(self.templates, word))


def _warn(words: Sequence[str], total: int, problem: str) -> None:
    if words:
        examples = ", ".join(repr(word[:60]) for word in words[:_MAX_WORDS])
        logger.warning("%d of %d words %s: %s", len(words), total, problem, examples)


def split_by_length(lengths: Tensor, budget: int, enough: int) -> Iterator[Tensor]:
    """Yield indices of prompts of similar length. Padded to the longest one, each group fits the budget of tokens.

    Args:
        lengths: [P], in tokens.
        enough: tokens of a group that accepts no longer prompts, since padding would cost more than another group.
    """
    order = lengths.argsort(stable=True)
    ascending = lengths[order].tolist()
    start = 0
    for end in range(1, len(order) + 1):
        if (
            end == len(order)
            or (end + 1 - start) * ascending[end] > budget
            or (ascending[end] > ascending[end - 1] and (end - start) * ascending[end - 1] >= enough)
        ):
            yield order[start:end]
            start = end
