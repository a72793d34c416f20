"""Repositories of the Hugging Face Hub, served on this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from huggingface_hub import constants

from cliptrase_d2.clip import download
from cliptrase_d2.clip.hub import fetch_repository, parse_reference
from cliptrase_d2.clip.load import load_clip
from cliptrase_d2.utils.errors import InputError
from tests.clip.hub_server import commit_of, serve_hub
from tests.clip.tiny import register_tiny, tiny_clip
from tests.clip.weight_forms import save_open_clip_folder, save_transformers_folder


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub with repositories of random weights, whose seeds are 1, 2 for the tag v2, 3 for transformers."""
    for name, seed in (("main", 1), ("v2", 2)):
        save_open_clip_folder(tmp_path / name, tiny_clip(seed))
    save_transformers_folder(tmp_path / "hf", seed=3, max_shard_size="200KB")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    repositories = {
        "owner/clip": {name: tmp_path / name for name in ("main", "v2")},
        "owner/hf": {"main": tmp_path / "hf"},
        "owner/lora": {"main": tmp_path / "lora"},
    }
    with serve_hub(repositories, tmp_path / "cache", monkeypatch) as requests:
        yield requests


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [("hf-hub:a/b", "a/b", None), ("hf-hub:a/b.c@v1", "a/b.c", "v1"), ("hf-hub:a/b@refs/pr/1", "a/b", "refs/pr/1")],
)
def test_reference_has_a_repository_and_a_revision(text: str, repository: str, revision: str | None) -> None:
    assert parse_reference(text) == (repository, revision)


@pytest.mark.parametrize("text", ["hf-hub:", "hf-hub:name", "hf-hub:a/b/c", "hf-hub:a/b@", "hf-hub:a b/c"])
def test_another_form_is_rejected(text: str) -> None:
    with pytest.raises(InputError, match=r"pretrained: .*hf-hub:owner/name"):
        fetch_repository(text)


def test_size_is_logged_before_the_download(
    tmp_path: Path, requests: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = fetch_repository("hf-hub:owner/clip")
    assert path.name == "open_clip_model.safetensors"
    size = sum(file.stat().st_size for file in (tmp_path / "main").iterdir()) / 1e6
    [record] = caplog.records
    assert record.levelno >= logging.INFO
    assert f"{size:.1f} MB" in record.getMessage()
    assert commit_of("main") in record.getMessage()


def test_cached_repository_needs_no_network(requests: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name = "hf-hub:owner/hf"
    first = fetch_repository(name)
    requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_repository(name) == first
    assert requests == []


def test_revision_is_pinned(tmp_path: Path, requests: list[str]) -> None:
    name = register_tiny(tmp_path)
    for reference, seed in (("owner/clip", 1), ("owner/clip@v2", 2), (f"owner/clip@{commit_of('v2')}", 2)):
        model, _ = load_clip(name, f"hf-hub:{reference}")
        assert torch.equal(model.visual.proj, tiny_clip(seed).visual.proj)


def test_interrupted_download_is_completed(requests: list[str]) -> None:
    index = fetch_repository("hf-hub:owner/hf")
    part = next(index.parent.glob("model-00002-*"))
    part.unlink()
    requests.clear()
    assert fetch_repository("hf-hub:owner/hf") == index
    assert part.is_file()
    assert not any("GET" in request and "00001-of" in request for request in requests)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("owner/absent", "Check the name"),
        ("owner/clip@absent", "branch, tag or commit"),
        ("owner/lora", r"adapter \(LoRA\).*merge_and_unload"),
    ],
)
def test_unusable_repository_is_rejected(requests: list[str], reference: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"hf-hub:{reference}.*{message}"):
        fetch_repository(f"hf-hub:{reference}")


def test_gated_repository_names_the_token(requests: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from cliptrase_d2.clip import hub

    def refuse(*_: object, **__: object) -> None:
        raise hub.GatedRepoError.__new__(hub.GatedRepoError)

    monkeypatch.setattr(hub.huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(InputError, match=r"Accept the terms.*HF_TOKEN"):
        fetch_repository("hf-hub:owner/clip")


def test_without_a_connection_the_folder_is_proposed(requests: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_find_error", lambda _: ConnectionRefusedError(111, "Connection refused"))
    with pytest.raises(InputError, match=r"no connection.*owner/clip on another machine and pass the folder"):
        fetch_repository("hf-hub:owner/clip")


def test_configuration_of_another_model_names_it(tmp_path: Path, requests: list[str]) -> None:
    register_tiny(tmp_path)
    with pytest.raises(InputError, match=r"open_clip_config\.json: .*than ViT-B-16; .*It is that of tiny-vit"):
        load_clip("ViT-B-16", "hf-hub:owner/clip")


def test_repository_as_a_name_of_a_model_is_redirected() -> None:
    with pytest.raises(InputError, match=r"name: .*'hf-hub:owner/clip'.*MODEL\.CLIP\.PRETRAINED"):
        load_clip("hf-hub:owner/clip", "")


def test_file_with_two_parts_of_a_name_may_be_a_repository() -> None:
    with pytest.raises(InputError, match=r"write hf-hub:owner/clip"):
        load_clip("ViT-B-32", "owner/clip")


def test_saved_weights_equal_the_cached_ones(requests: list[str]) -> None:
    path = fetch_repository("hf-hub:owner/clip")
    assert safetensors.torch.load_file(path).keys() == tiny_clip().state_dict().keys()
    assert json.loads((path.parent / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"] == 32
