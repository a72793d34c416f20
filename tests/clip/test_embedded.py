import configparser
import json
from fnmatch import fnmatch
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch

from cliptrase_d2.clip import embedded
from cliptrase_d2.clip.load import get_tokenizer, load_clip
from cliptrase_d2.clip.weights_source import find_source, model_config
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import sparse_state

SETUP = Path(__file__).resolve().parents[2] / "setup.cfg"


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "download_pretrained", lambda *_: pytest.fail("tried to download"))


def test_name_is_known_like_those_of_open_clip() -> None:
    assert model_config(embedded.NAME) == json.loads(embedded.CONFIG.read_text(encoding="utf-8"))
    assert embedded.NAME in open_clip.list_models()
    assert model_config("ViT-B-16")["embed_dim"] == 512, "others stay what they were"


def test_registering_again_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded.register()
    monkeypatch.setattr(open_clip, "add_model_config", lambda _: pytest.fail("registered twice"))
    embedded.register()
    assert open_clip.list_models().count(embedded.NAME) == 1


def test_nearly_right_names_lead_to_it() -> None:
    with pytest.raises(InputError, match=r"or 'emoji-clip', a part of this package\. Did you mean emoji-clip"):
        model_config("emojiclip")
    with pytest.raises(InputError, match=r"a tag \(emoji_scenes\).*Did you mean emoji_scenes"):
        find_source(embedded.NAME, "emoji-scenes")
    with pytest.raises(InputError, match=r"a tag \(emoji_scenes\)"):
        find_source(embedded.NAME, "openai")


def test_the_tag_belongs_to_no_other_model() -> None:
    with pytest.raises(InputError, match="'emoji_scenes', which is neither a tag nor a file"):
        find_source("ViT-B-16", embedded.TAG)


@pytest.mark.usefixtures("no_download")
def test_the_tag_is_the_packaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, _ = load_clip(embedded.NAME, "", seed=3)
    tokenizer = get_tokenizer(embedded.NAME)
    tokens = tokenizer(["a photo of a cat."])
    monkeypatch.setattr(embedded, "WEIGHTS", tmp_path / "emoji-clip.safetensors")
    safetensors.torch.save_file(sparse_state(trained, tokens.flatten().tolist()), embedded.WEIGHTS)
    model, report = load_clip(embedded.NAME, embedded.TAG)
    assert str(embedded.WEIGHTS) in report.source
    assert (report.quick_gelu, report.quick_gelu_reason) == (False, "says this package")
    assert report.missing == report.unexpected == report.random == ()
    assert tokens.shape == (1, 40)
    torch.testing.assert_close(model.encode_text(tokens), trained.encode_text(tokens), atol=1e-2, rtol=0)


@pytest.mark.usefixtures("no_download")
def test_incomplete_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "WEIGHTS", tmp_path / "emoji-clip.safetensors")
    with pytest.raises(InputError, match=r"emoji-clip\.safetensors: no file, .*'emoji_scenes'.*Install the package ag"):
        load_clip(embedded.NAME, embedded.TAG)


def test_both_files_are_installed_with_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    patterns = [pattern.strip() for pattern in setup["options.package_data"]["*"].split(",")]
    for path in (embedded.CONFIG, embedded.WEIGHTS):
        assert any(fnmatch(path.name, pattern) for pattern in patterns), path.name
