"""Tokenizers of the Hugging Face Hub, from a folder that is made here. CLIP's own is tested with its models."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from cliptrase_d2.clip import download
from cliptrase_d2.clip.load import build_skeleton, load_clip
from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokenizer import HubTokenizer, get_tokenizer
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.clip.tiny import TINY_CONFIG, register_tiny, tiny_clip

WORDS = ("<s>", "<pad>", "</s>", "<unk>", "a", "photo", "of", "cat", "dog", "Straße")
TEXT = {**TINY_CONFIG["text_cfg"], "vocab_size": len(WORDS), "context_length": 12}
WORLDWIDE = {**TEXT, "hf_tokenizer_name": "owner/absent", "pool_type": "eos", "eos_id": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights of a model like MetaCLIP 2, with its tokenizer beside them."""
    backend = Backend(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(tmp_path / "weights")
    torch.save(
        tiny_clip(text_cfg={**TEXT, "pool_type": "eos", "eos_id": 2}).state_dict(), tmp_path / "weights" / "w.pt"
    )
    return tmp_path / "weights"


@pytest.fixture
def name(tmp_path: Path) -> str:
    return register_tiny(tmp_path, "tiny-worldwide", text_cfg=WORLDWIDE)


def test_tokenizer_beside_the_weights_is_used(folder: Path, name: str) -> None:
    for pretrained in (folder, folder / "w.pt"):
        tokenizer = get_tokenizer(name, str(pretrained))
        assert tokenizer(["a photo", "Straße " * 20]).tolist() == [
            [0, 4, 5, 2] + [1] * 8,
            [0] + [9] * 10 + [2],  # truncated, with its end token
        ]
        assert tokenizer.encode("a  cat") == [4, 7]


def test_text_features_are_those_of_open_clip(folder: Path, name: str) -> None:
    model, _ = load_clip(name, str(folder / "w.pt"))
    tokenizer = get_tokenizer(name, str(folder))
    words = ("cat", "dog", "Straße", "a photo of a cat")
    features = TextEncoder(model, tokenizer, templates="simple")(Vocabulary.parse(list(words)))
    expected = model.encode_text(tokenizer([f"a photo of a {word}." for word in words]), normalize=True)
    torch.testing.assert_close(features.features, expected, atol=1e-6, rtol=0)


def test_context_is_that_of_the_loaded_model(folder: Path, name: str) -> None:
    assert get_tokenizer(name, str(folder), 20)(["a"]).shape == (1, 20)
    assert get_tokenizer("ViT-B-16", "openai", 248)(["a"]).shape == (1, 248)


def test_other_rules_change_the_fingerprint(folder: Path, name: str) -> None:
    first = HubTokenizer(str(folder), context_length=12).fingerprint
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"cat": 7', '"cat": 8').replace('"dog": 8', '"dog": 7'))
    assert HubTokenizer(str(folder), context_length=12).fingerprint != first


def test_missing_transformers_is_named(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(module: str, *args: Any, **kwargs: Any) -> object:
        if module == "transformers":
            raise ImportError("No module named 'transformers'")
        return original(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"name: .*transformers.*pip install 'cliptrase_d2\[sam\]'"):
        get_tokenizer(name, str(folder))


def test_without_a_connection_the_folder_is_proposed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_find_error", lambda _: ConnectionRefusedError(111, "Connection refused"))
    with pytest.raises(InputError, match=r"name: .*'owner/absent' cannot be loaded.*tokenizer\.json"):
        get_tokenizer(name)


def test_broken_tokenizer_is_rejected(folder: Path, name: str) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"name: .*weights' cannot be loaded"):
        get_tokenizer(name, str(folder))


@pytest.mark.parametrize("model", [n for n in open_clip.list_models() if n.endswith("worldwide")])
def test_metaclip_2_is_supported(model: str) -> None:
    assert build_skeleton(model).positional_embedding.shape[0] == 77


def test_metaclip_2_of_transformers_gives_its_features(folder: Path, name: str) -> None:
    config = transformers.MetaClip2Config(
        vision_config={
            "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
            "patch_size": 16, "image_size": 64,
        },
        text_config={
            "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": len(WORDS), "max_position_embeddings": 12, "eos_token_id": 2,
        },
        projection_dim=32,
    )  # fmt: skip
    theirs = transformers.MetaClip2Model(config).eval()
    theirs.save_pretrained(folder)
    model, report = load_clip(name, str(folder))
    assert (report.missing, report.unexpected, report.quick_gelu) == ((), (), True)
    tokens = get_tokenizer(name, str(folder))(["a cat", "a photo of a dog"])
    images = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    with torch.no_grad():
        texts = theirs.text_projection(theirs.text_model(tokens).pooler_output)
        expected = theirs.visual_projection(theirs.vision_model(images).pooler_output)
    torch.testing.assert_close(model.encode_text(tokens), texts, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encode_image(images), expected, atol=1e-5, rtol=1e-5)
