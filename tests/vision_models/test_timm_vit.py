"""ViTs of timm: supported models and weights, and errors for all others."""

import logging
from pathlib import Path

import pytest
import timm
import torch

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vision_models import timm_vit
from cliptrase_d2.vision_models.timm_vit import load_vit
from tests.vision_models.tiny_models import TINY_VIT, save_vit


@pytest.mark.parametrize("kind", [".safetensors", ".pth", "nested"])
def test_weights_of_a_file_are_loaded_without_its_head(tmp_path: Path, kind: str) -> None:
    path = save_vit(tmp_path)
    state = timm.models.load_state_dict(str(path), weights_only=True)
    assert "head.weight" in state
    if kind != ".safetensors":
        path = tmp_path / "weights.pth"
        torch.save({"model": state} if kind == "nested" else state, path)
    model = load_vit(TINY_VIT, str(path))
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def test_random_weights_are_seeded_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    before = torch.random.get_rng_state()
    with caplog.at_level(logging.WARNING):
        first, second = load_vit(TINY_VIT, ""), load_vit(TINY_VIT, "")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert "RANDOM WEIGHTS" in caplog.text
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vit_base_patch14_dinov22", "vit_base_patch14_dinov2"),
        ("vit_base_patch14_dinov2.lvd142n", r"vit_base_patch14_dinov2\.lvd142m"),
        ("zzzz", "spelling"),
        ("hf-hub:timm/vit_base_patch16_224.dino", ""),
        ("resnet18", "ResNet"),
        ("vit_base_r50_s16_224", "VisionTransformer"),
        ("vit_base_patch16_siglip_224", "class token"),
        ("beit_base_patch16_224", "Beit"),
    ],
)
def test_an_unsupported_model_is_rejected_before_its_download(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=rf"backbone: .*'{name}'.*{hint}"):
        load_vit(name, "pretrained")


def test_a_failed_download_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, *, pretrained: bool) -> None:
        raise OSError("Name or service not known\nand forty lines more")

    monkeypatch.setattr(timm_vit, "_create", fail)
    url = r"https://huggingface\.co/timm/vit_base_patch16_224\.dino"
    with pytest.raises(InputError, match=rf"backbone_weights: .*343 MB.*Name or service not known.*{url}") as caught:
        load_vit("vit_base_patch16_224.dino", "pretrained")
    assert "\n" not in str(caught.value)


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('executed', 'w')",)


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("missing.pth", ""),
        ("damaged.pth", ""),
        ("damaged.safetensors", ""),
        ("nan.pth", r"norm\.bias"),
        ("changed.pth", "checksum"),
        ("code.pth", ""),
        ("fewer.pth", r"missing: norm\.weight"),
        ("more.pth", r"unexpected: blocks\.9\.x"),
        ("wide.pth", ""),
    ],
)
def test_unusable_weights_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, fault: str) -> None:
    path, state = tmp_path / file, load_vit(TINY_VIT, "").state_dict()
    monkeypatch.chdir(tmp_path)
    if file == "nan.pth":
        state["norm.bias"][0] = float("nan")
    elif file == "fewer.pth":
        del state["norm.weight"]
    elif file == "more.pth":
        state["blocks.9.x"] = torch.zeros(1)
    elif file == "wide.pth":
        state = timm.create_model(TINY_VIT, embed_dim=128).state_dict()
    if path.stem != "missing":
        torch.save({"model": _Code()} if file == "code.pth" else state, path)
    if file == "changed.pth":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif path.stem == "damaged":
        path.write_bytes(b"no weights")
    with pytest.raises(InputError, match=rf"{path.stem}.*{fault}"):
        load_vit(TINY_VIT, str(path))
    assert not (tmp_path / "executed").exists()
