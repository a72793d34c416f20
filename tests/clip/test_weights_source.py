import json
from pathlib import Path
from urllib.error import URLError

import open_clip
import pytest

from cliptrase_d2.clip import weights_source
from cliptrase_d2.clip.weights_source import find_weights, get_model_config
from cliptrase_d2.utils.errors import InputError


def test_configuration_is_a_copy_and_openais_spelling_is_accepted() -> None:
    get_model_config("ViT-B/16")["embed_dim"] = 1
    assert get_model_config("ViT-B-16")["embed_dim"] == 512


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B16", r"'ViT-B16'.*Did you mean.* 'ViT-B-16'"),
        ("hf-hub:laion/CLIP-ViT-B-32", "'hf-hub:laion"),
        ("", "''"),
        ("EVA02-B-16", "eva02_base_patch16_clip_224"),
        ("roberta-ViT-B-32", "roberta-base"),
        ("coca_ViT-B-32", "CoCa"),
    ],
)
def test_unsupported_models_are_rejected(name: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"name: .*{message}"):
        get_model_config(name)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-16", "opena", "'opena'.*laion400m_e32.*Did you mean 'openai'"),
        ("ViT-S-16", "openai", "'openai'"),  # open_clip has no tags for this model
        ("ViT-B-16", "weights/absent.pt", r"absent\.pt'.*Check the path"),
    ],
)
def test_unknown_tag_or_file_is_rejected(name: str, pretrained: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"pretrained: .*{message}"):
        find_weights(name, pretrained)


def test_tag_is_downloaded_by_open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run open_clip's own download from a local address."""
    (tmp_path / "weights.pt").write_bytes(b"weights")
    address = (tmp_path / "weights.pt").as_uri()
    tag = {**open_clip.get_pretrained_cfg("ViT-B-16", "openai"), "url": address, "hf_hub": ""}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: tag)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    source = find_weights("ViT-B-16", "openai")
    assert source.path == tmp_path / "home" / ".cache" / "clip" / "weights.pt"
    assert source.path.read_bytes() == b"weights"
    assert source.facts["mean"] == (0.48145466, 0.4578275, 0.40821073)


@pytest.mark.parametrize(
    ("tag", "quick_gelu"), [("openai", True), ("OpenAI", True), ("laion2b_s34b_b88k", False), ("dfn2b", True)]
)
def test_tag_determines_the_activation(monkeypatch: pytest.MonkeyPatch, tag: str, quick_gelu: bool) -> None:
    monkeypatch.setattr(weights_source, "fetch_weights", lambda _: Path("file"))
    assert find_weights("ViT-B-16", tag).facts["quick_gelu"] is quick_gelu


@pytest.mark.parametrize("error", [URLError("Temporary failure in name resolution"), FileNotFoundError("offline")])
def test_failed_download_names_the_address(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: object) -> str:
        raise error

    monkeypatch.setattr(weights_source, "fetch_weights", fail)
    with pytest.raises(InputError, match=r"pretrained: .*'openai'.*https://\S+ ") as raised:
        find_weights("ViT-B-16", "openai")
    assert raised.value.__cause__ is error


def write_hub_config(folder: Path, content: str) -> str:
    (folder / "open_clip_config.json").write_text(content)
    (folder / "open_clip_model.safetensors").touch()
    return str(folder / "open_clip_model.safetensors")


def test_hub_configuration_is_read(tmp_path: Path) -> None:
    config = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    source = find_weights("ViT-B-16", write_hub_config(tmp_path, json.dumps(config)))
    assert source.facts == {"quick_gelu": True, "mean": [0.5] * 3, "std": [0.25] * 3}
    assert "open_clip_config.json" in source.reference


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", "{}", '{"model_cfg": {}}', "[" * 100_000),
        '{"model_cfg": {"quick_gelu": "false"}, "preprocess_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1]}}',
        '{"model_cfg": {}, "preprocess_cfg": {"mean": [0, 0, 0], "std": [1, 0, 1]}}',
        '{"model_cfg": {}, "preprocess_cfg": {"mean": "dark", "std": [1, 1, 1]}}',
        '{"model_cfg": {}, "preprocess_cfg": {"mean": [0, 0, NaN], "std": [1, 1, 1]}}',
    ],
)
def test_invalid_hub_configuration_is_rejected(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match=r"open_clip_config\.json: "):
        find_weights("ViT-B-16", write_hub_config(tmp_path, content))
