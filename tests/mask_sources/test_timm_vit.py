"""Which ViTs and weights are taken, and what is said of the others."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import timm
import torch

from cliptrase_d2.mask_sources import timm_vit
from cliptrase_d2.mask_sources.timm_vit import load_vit
from cliptrase_d2.utils.errors import InputError
from tests.mask_sources.tiny_models import TINY_VIT, save_vit


@pytest.mark.parametrize("kind", [".safetensors", ".pth", "nested"])
def test_weights_come_from_a_file_without_its_head(tmp_path: Path, kind: str) -> None:
    path = save_vit(tmp_path)
    state = timm.models.load_state_dict(str(path), weights_only=True)
    if kind != ".safetensors":
        path = tmp_path / "weights.pth"
        torch.save({"model": state} if kind == "nested" else state, path)
    model = load_vit(TINY_VIT, str(path))
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert "head.weight" in state


def test_random_weights_are_seeded_and_loudly_so(caplog: pytest.LogCaptureFixture) -> None:
    before = torch.random.get_rng_state()
    with caplog.at_level(logging.WARNING):
        first, again = load_vit(TINY_VIT, ""), load_vit(TINY_VIT, "")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert "RANDOM WEIGHTS" in caplog.text
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_base_patch14_dinov22",
            r"MODEL\.MASKS\.BACKBONE: the unknown model.*Did you mean vit_base_patch14_dinov2",
        ),
        ("vit_base_patch14_dinov2.lvd142n", r"the unknown tag of.*Did you mean vit_base_patch14_dinov2\.lvd142m"),
        ("zzzz", r"unknown model 'zzzz'.*Check the spelling"),
        ("hf-hub:timm/vit_base_patch16_224.dino", r"unknown model"),
        ("resnet18", r"'resnet18', a ResNet.*plain ViT with a class token"),
        ("vit_base_r50_s16_224", r"a VisionTransformer"),
        ("vit_base_patch16_siglip_224", r"has no class token.*Choose a model"),
        ("beit_base_patch16_224", r"a Beit"),
    ],
)
def test_another_model_is_refused_before_anything_is_loaded(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_vit(name, "pretrained")


def test_no_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, *, pretrained: bool) -> None:
        raise OSError("Name or service not known\nand forty lines more")

    monkeypatch.setattr(timm_vit, "_create", offline)
    with pytest.raises(InputError) as caught:
        load_vit("vit_base_patch16_224.dino", "pretrained")
    message = str(caught.value)
    assert "\n" not in message
    assert "Name or service not known" in message
    assert "https://huggingface.co/timm/vit_base_patch16_224.dino" in message


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"BACKBONE_WEIGHTS: 'weights/dino.pth', which is no file here"):
        load_vit(TINY_VIT, "weights/dino.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_unreadable_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"no weights")
    with pytest.raises(InputError, match=rf"broken\{suffix}: weights that this model cannot read"):
        load_vit(TINY_VIT, str(path))


def test_weights_that_are_no_numbers_or_were_changed_are_refused(tmp_path: Path) -> None:
    state = load_vit(TINY_VIT, "").state_dict()
    state["norm.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(InputError, match=r"nan\.pth: norm\.bias, which has numbers that are infinite or none"):
        load_vit(TINY_VIT, str(tmp_path / "nan.pth"))
    whole = bytearray((tmp_path / "nan.pth").read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "nan.pth").write_bytes(whole)
    with pytest.raises(InputError, match="another checksum"):
        load_vit(TINY_VIT, str(tmp_path / "nan.pth"))


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('ran', 'w')",)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": _Code()}, tmp_path / "code.pth")
    with pytest.raises(InputError, match=r"code\.pth"):
        load_vit(TINY_VIT, str(tmp_path / "code.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("change", "message"), [("less", "missing: norm.weight"), ("more", "too many: blocks.9.x")])
def test_weights_of_another_model_are_refused(tmp_path: Path, change: str, message: str) -> None:
    state = timm.models.load_state_dict(str(save_vit(tmp_path)), weights_only=True)
    if change == "less":
        del state["norm.weight"]
    else:
        state["blocks.9.x"] = torch.zeros(1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError, match=message):
        load_vit(TINY_VIT, str(tmp_path / "other.pth"))


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    wide = timm.create_model(TINY_VIT, embed_dim=128)
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    with pytest.raises(InputError, match=r"wide\.pth: weights that this model cannot read"):
        load_vit(TINY_VIT, str(tmp_path / "wide.pth"))
