import json
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch

from cliptrase_d2.clip import embedded
from cliptrase_d2.clip.load import load_clip
from cliptrase_d2.clip.tokenizer import get_tokenizer
from cliptrase_d2.clip.weights_source import find_weights, get_model_config
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import sparse_state


def test_name_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_model_config(embedded.NAME) == json.loads(embedded.CONFIG.read_text(encoding="utf-8"))
    monkeypatch.setattr(open_clip, "add_model_config", lambda _: pytest.fail("registered twice"))
    embedded.register()
    assert open_clip.list_models().count(embedded.NAME) == 1


def test_misspelt_name_and_tag_get_suggestions() -> None:
    with pytest.raises(InputError, match=r"name: .*'emojiclip'.*Did you mean 'emoji-clip'"):
        get_model_config("emojiclip")
    with pytest.raises(InputError, match=r"pretrained: 'emoji-scenes'.*Did you mean 'emoji_scenes'"):
        find_weights(embedded.NAME, "emoji-scenes")


@pytest.mark.parametrize(("name", "tag"), [("ViT-B-16", embedded.TAG), (embedded.NAME, "openai")])
def test_tag_of_another_model_is_rejected(name: str, tag: str) -> None:
    with pytest.raises(InputError, match=rf"pretrained: '{tag}'"):
        find_weights(name, tag)


def test_tag_loads_the_packaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cliptrase_d2.clip.weights_source.fetch_weights", lambda _: pytest.fail("tried to download"))
    trained, _ = load_clip(embedded.NAME, "", seed=3)
    tokens = get_tokenizer(embedded.NAME)(["a photo of a cat."])
    assert tokens.shape == (1, 40)
    monkeypatch.setattr(embedded, "WEIGHTS", tmp_path / "emoji-clip.safetensors")
    with pytest.raises(InputError, match=r"emoji-clip\.safetensors: .*'emoji_scenes'"):  # an incomplete installation
        load_clip(embedded.NAME, embedded.TAG)
    safetensors.torch.save_file(sparse_state(trained, tokens.flatten().tolist()), embedded.WEIGHTS)
    model, report = load_clip(embedded.NAME, embedded.TAG)
    assert str(embedded.WEIGHTS) in report.source
    assert not report.quick_gelu
    assert report.missing == report.unexpected == report.random == ()
    torch.testing.assert_close(model.encode_text(tokens), trained.encode_text(tokens), atol=1e-2, rtol=0)
