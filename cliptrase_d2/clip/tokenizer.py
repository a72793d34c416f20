"""Tokenizers: CLIP's own, and those of the Hugging Face Hub that MetaCLIP 2 and SigLIP 2 have."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import huggingface_hub
from huggingface_hub import constants
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer
from torch import Tensor

from cliptrase_d2.clip.download import check_connection
from cliptrase_d2.clip.foreign_models import suggest_supported
from cliptrase_d2.clip.siglip import is_siglip2
from cliptrase_d2.clip.weights_source import get_model_config
from cliptrase_d2.utils.errors import InputError, first_line

_FILES = ("tokenizer.json", "tokenizer_config.json")


class Tokenizer(Protocol):
    """Converts texts to tokens."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return [P,L] int64, L the context length: the texts with start and end tokens, truncated or padded."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text alone."""
        ...


class HubTokenizer:
    """A tokenizer of the Hugging Face Hub.

    Args:
        source: name on the Hub, or a folder.
        options: of open_clip's `HFTokenizer`.
    Raises:
        InputError: transformers is missing, or the tokenizer cannot be loaded.
    """

    def __init__(self, source: str, **options: Any):
        try:
            import transformers  # noqa: F401  # an extra
        except ImportError as error:
            got = f"the tokenizer {source!r} needs the package transformers ({error})"
            raise InputError("name", got, "Run: pip install 'cliptrase_d2[sam]'") from error
        try:
            if not Path(source).is_dir() and not isinstance(
                huggingface_hub.try_to_load_from_cache(source, _FILES[1]), str
            ):
                check_connection(f"{constants.ENDPOINT}/{source}")
            self._tokenizer = HFTokenizer(source, trust_remote_code=False, **options)
        except Exception as error:  # transformers, tokenizers and huggingface_hub raise errors of their own
            fix = (
                f"Check the connection, or put {' and '.join(_FILES)} of the model into the folder of its weights. "
                "Some tokenizers also need: pip install sentencepiece protobuf"
            )
            raise InputError("name", f"the tokenizer {source!r} cannot be loaded ({first_line(error)})", fix) from error
        # Vocabulary and rules: features of other tokens must not be taken from the cache of text features.
        rules = self._tokenizer.tokenizer.backend_tokenizer.to_str()
        self.fingerprint = hashlib.sha256(rules.encode()).hexdigest()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return [P,L] int64, truncated or padded to the context length."""
        return self._tokenizer(list(texts))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text without those of its start and end."""
        clean = self._tokenizer.clean_fn(text)
        return list(self._tokenizer.tokenizer(clean, add_special_tokens=False).input_ids)


def get_tokenizer(name: str, pretrained: str = "", context_length: int | None = None) -> Tokenizer:
    """Return the tokenizer of a model. open_clip contains CLIP's own, for which nothing is downloaded.

    Args:
        name: of the model.
        pretrained: as in `load_clip`. A tokenizer of the Hub is read from the folder of the weights, if it is there.
        context_length: of the loaded model; None for that of the name.
    Raises:
        InputError: the model has a tokenizer of its own that cannot be loaded, or that marks no end of a text.
    """
    config = get_model_config(name)
    text = config["text_cfg"]
    options = {
        **text.get("tokenizer_kwargs", {}),
        "context_length": context_length or text.get("context_length", DEFAULT_CONTEXT_LENGTH),
    }
    foreign = text.get("hf_tokenizer_name")
    if not foreign:
        return SimpleTokenizer(**options)  # type: ignore[no-any-return]
    if text.get("pool_type") != "eos" and not is_siglip2(name, config):
        raise InputError("name", f"CLIP model {name!r} has the tokenizer {foreign!r}", suggest_supported(name))
    path = Path(pretrained).expanduser()
    folder = path if path.is_dir() else path.parent
    is_local = bool(pretrained) and path.exists() and any((folder / file).is_file() for file in _FILES)
    return HubTokenizer(str(folder) if is_local else foreign, **options)
