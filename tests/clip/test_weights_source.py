import json
from pathlib import Path
from urllib.error import URLError

import open_clip
import pytest

from cliptrase_d2.clip.weights_source import find_source, model_config
from cliptrase_d2.utils.errors import InputError


def test_config_is_a_copy_and_takes_openais_spelling() -> None:
    model_config("ViT-B/16")["embed_dim"] = 1
    assert model_config("ViT-B-16")["embed_dim"] == 512


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B16", r"'ViT-B16'.*Did you mean ViT-B-16"),
        ("hf-hub:laion/CLIP-ViT-B-32", "'hf-hub:laion"),
        ("", "the name ''"),
        ("EVA02-B-16", "another library \\(eva02_base_patch16_clip_224\\)"),
        ("roberta-ViT-B-32", "another library \\(roberta-base\\)"),
        ("coca_ViT-B-32", "CoCa"),
    ],
)
def test_other_models_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_config(name)


def test_no_weights_is_no_source() -> None:
    assert find_source("ViT-B-16", "").path is None


def test_unknown_tag_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'opena'.*neither a tag nor a file.*laion400m_e32.*Did you mean openai"):
        find_source("ViT-B-16", "opena")
    with pytest.raises(InputError, match="open_clip has none for this model"):
        find_source("ViT-S-16", "openai")


def test_missing_file_is_called_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pt', which is no file here.*Check the path"):
        find_source("ViT-B-16", str(tmp_path / "absent.pt"))


def test_tag_is_downloaded_by_open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip's own download, from a local address."""
    (tmp_path / "weights.pt").write_bytes(b"weights")
    address = (tmp_path / "weights.pt").as_uri()
    tag = {**open_clip.get_pretrained_cfg("ViT-B-16", "openai"), "url": address, "hf_hub": ""}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: tag)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    source = find_source("ViT-B-16", "openai")
    assert source.path == tmp_path / "home" / ".cache" / "clip" / "weights.pt"
    assert source.path.read_bytes() == b"weights"
    assert source.facts["quick_gelu"] is True
    assert source.facts["mean"] == (0.48145466, 0.4578275, 0.40821073)


@pytest.mark.parametrize(
    ("tag", "quick_gelu"), [("openai", True), ("OpenAI", True), ("laion2b_s34b_b88k", False), ("dfn2b", True)]
)
def test_tag_tells_the_activation(monkeypatch: pytest.MonkeyPatch, tag: str, quick_gelu: bool) -> None:
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: "file")
    assert find_source("ViT-B-16", tag).facts["quick_gelu"] is quick_gelu


@pytest.mark.parametrize("error", [URLError("Temporary failure in name resolution"), FileNotFoundError("offline")])
def test_failed_download_says_where_to_get_the_file(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: object) -> str:
        raise error

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(InputError, match=r"failed download.*Download https://\S+ on a machine with access") as raised:
        find_source("ViT-B-16", "openai")
    assert raised.value.__cause__ is error


def test_configuration_beside_the_file_is_read(tmp_path: Path) -> None:
    beside = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(beside))
    (tmp_path / "open_clip_model.safetensors").touch()
    source = find_source("ViT-B-16", str(tmp_path / "open_clip_model.safetensors"))
    assert source.facts == {"quick_gelu": True, "mean": [0.5] * 3, "std": [0.25] * 3}
    assert "open_clip_config.json" in source.said_by


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
def test_broken_configuration_beside_the_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(content)
    (tmp_path / "model.pt").touch()
    with pytest.raises(InputError, match=r"open_clip_config\.json: no model configuration"):
        find_source("ViT-B-16", str(tmp_path / "model.pt"))
