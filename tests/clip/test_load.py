import logging
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch
from open_clip.model import CLIP
from torch import Tensor

from cliptrase_d2.clip import load as load_module
from cliptrase_d2.clip.load import load_clip
from cliptrase_d2.clip.open_clip_modules import pixel_statistics
from cliptrase_d2.clip.tokenizer import get_tokenizer
from cliptrase_d2.clip.weights_source import WeightsSource
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import TINY_CONFIG, openai_state, register_tiny, save_openai_archive, tiny_clip

MODELS = ("ViT-B-32", "ViT-B-16", "ViT-B-16-quickgelu", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-bigG-14")
VISION, TEXT = TINY_CONFIG["vision_cfg"], TINY_CONFIG["text_cfg"]


@pytest.fixture
def name(tmp_path: Path) -> str:
    return register_tiny(tmp_path)


def has_quick_gelu(model: CLIP) -> bool:
    kinds = {type(module).__name__ for module in model.modules()}
    assert ("QuickGELU" in kinds) != ("GELU" in kinds), "one activation everywhere"
    return "QuickGELU" in kinds


def assert_weights(model: CLIP, expected: dict[str, Tensor], atol: float = 0.0) -> None:
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[key], atol=atol, rtol=0, msg=key)


def save(kind: str, path: Path, model: CLIP) -> str:
    if kind == "jit":
        save_openai_archive(model, path)
    elif kind == "safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        state = openai_state(model) if kind == "openai" else model.state_dict()
        wrapped = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 1}
        torch.save(wrapped if kind == "training" else state, path)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "suffix", "quick_gelu"),
    [
        ("jit", ".pt", True),
        ("openai", ".pt", True),
        ("plain", ".pt", False),
        ("plain", ".bin", False),
        ("training", ".pt", False),
        ("safetensors", ".safetensors", False),
    ],
)
def test_every_format_gives_its_weights_silently(
    name: str, tmp_path: Path, kind: str, suffix: str, quick_gelu: bool,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    handlers = list(logging.getLogger().handlers)
    trained = tiny_clip(seed=3)
    path = save(kind, tmp_path / f"weights{suffix}", trained)
    capfd.readouterr()
    model, report = load_clip(name, path)
    assert_weights(model, trained.state_dict(), atol=2e-3 if kind == "jit" else 0.0)  # the archive is half precision
    assert has_quick_gelu(model) == report.quick_gelu == quick_gelu
    assert report.loaded == len(trained.state_dict())
    assert report.missing == report.unexpected == report.random == ()
    assert path in str(report)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not caplog.records
    assert logging.getLogger().handlers == handlers, "open_clip adds none"
    assert capfd.readouterr() == ("", "")


def test_random_weights_are_seeded_and_warned_of(name: str, caplog: pytest.LogCaptureFixture) -> None:
    before = torch.get_rng_state()
    (first, report), (again, _), (other, _) = (load_clip(name, "", seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before), "the global random state is untouched"
    assert_weights(again, first.state_dict())
    assert not torch.equal(first.visual.proj, other.visual.proj)
    assert report.loaded == 0
    assert "visual.proj" in report.random
    assert "seed 5" in str(report)
    assert caplog.records[0].levelno == logging.WARNING
    assert "RANDOM WEIGHTS" in caplog.text


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_activation_of_a_plain_file_follows_the_models_name(tmp_path: Path, quick_gelu: bool) -> None:
    name = register_tiny(tmp_path, f"tiny-{quick_gelu}", quick_gelu=quick_gelu)
    model, report = load_clip(name, save("plain", tmp_path / "w.pt", tiny_clip()))
    assert has_quick_gelu(model) == report.quick_gelu == quick_gelu


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_tag_determines_activation_and_statistics(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, quick_gelu: bool
) -> None:
    path = Path(save("plain", tmp_path / "w.pt", tiny_clip()))
    tag = {"quick_gelu": quick_gelu, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "url": "", "hf_hub": "a/b/"}
    monkeypatch.setattr(load_module, "find_weights", lambda *_: WeightsSource(path, tag, "open_clip's tag 'x'"))
    model, report = load_clip(name, "x")
    assert has_quick_gelu(model) == report.quick_gelu == quick_gelu
    assert "open_clip's tag 'x'" in report.quick_gelu_reason
    assert pixel_statistics(model.visual) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_file_of_another_image_size_keeps_its_grid(tmp_path: Path, name: str) -> None:
    trained = tiny_clip(vision_cfg={**VISION, "image_size": 96})
    model, report = load_clip(name, save("plain", tmp_path / "w.pt", trained))
    assert_weights(model, trained.state_dict())
    assert model.visual.grid_size == (6, 6)
    assert report.missing == ()


def test_missing_and_unexpected_names_are_reported(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    removed = {"logit_scale", "text_projection", "visual.transformer.resblocks.1.ln_1.bias"}
    state = {key: value for key, value in tiny_clip().state_dict().items() if key not in removed}
    torch.save({**state, "decoder.weight": torch.ones(2), "epoch": 3}, tmp_path / "w.pt")
    _, report = load_clip(name, str(tmp_path / "w.pt"))
    assert set(report.missing) == removed
    assert report.missing == report.random
    assert report.unexpected == ("decoder.weight", "epoch")
    assert report.loaded == len(state)
    assert "decoder.weight" in caplog.text
    assert "logit_scale" in caplog.text


def test_logit_scale_may_be_a_vector(tmp_path: Path, name: str) -> None:
    torch.save({**tiny_clip().state_dict(), "logit_scale": torch.tensor([3.0])}, tmp_path / "w.pt")
    model, _ = load_clip(name, str(tmp_path / "w.pt"))
    assert model.logit_scale.item() == 3.0


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        ({"vision_cfg": {**VISION, "width": 128}}, r"visual\.class_embedding \[128\], not \[64\]"),
        ({"vision_cfg": {**VISION, "patch_size": 8}}, r"visual\.conv1\.weight \[64, 3, 8, 8\]"),
        ({"vision_cfg": {**VISION, "layers": 4}}, r"too many: visual\.transformer\.resblocks\.3"),
        ({"vision_cfg": {**VISION, "layers": 2}}, r"missing: visual\.transformer\.resblocks\.2"),
        ({"text_cfg": {**TEXT, "layers": 3}}, r"too many: transformer\.resblocks\.2"),
        ({"text_cfg": {**TEXT, "context_length": 32}}, r"positional_embedding \[32, 32\], not \[77, 32\]"),
        ({"embed_dim": 16}, r"text_projection \[32, 16\], not \[32, 32\]"),
    ],
)
def test_another_architecture_is_rejected(
    tmp_path: Path, name: str, config: dict[str, object], difference: str
) -> None:
    path = save("plain", tmp_path / "other.pt", tiny_clip(**config))
    with pytest.raises(InputError, match=rf"other\.pt: .*{difference}"):
        load_clip(name, path)


STATE = tiny_clip().state_dict()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({name: value for name, value in STATE.items() if name.startswith("visual.")}, "missing: transformer"),
        ({name: value for name, value in STATE.items() if not name.startswith("visual.")}, r"missing: visual\."),
        ({"layer1.0.conv1.weight": torch.ones(3), "fc.bias": torch.ones(2)}, r"layer1\.0\.conv1\.weight, fc\.bias"),
    ],
    ids=["image tower", "text tower", "ResNet"],
)
def test_part_of_a_model_is_rejected(tmp_path: Path, name: str, state: dict[str, Tensor], message: str) -> None:
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(InputError, match=rf"part\.pt: .*{message}"):
        load_clip(name, str(tmp_path / "part.pt"))


@pytest.mark.parametrize(
    ("name", "tag", "got"),
    [("ViT-bigG-14-CLIPA", "datacomp1b", "pool_type 'avg'"), ("RN50", "openai", "ModifiedResNet")],
)
def test_unsupported_model_is_rejected_before_a_download(
    monkeypatch: pytest.MonkeyPatch, name: str, tag: str, got: str
) -> None:
    monkeypatch.setattr(load_module, "find_weights", lambda *_: pytest.fail("searched for weights"))
    with pytest.raises(InputError, match=rf"name: .*'{name}'.*{got}"):
        load_clip(name, tag)


@pytest.mark.parametrize("model_name", MODELS)
def test_common_models_are_supported(model_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop before the weights, which have gigabytes."""
    monkeypatch.setattr(load_module, "find_weights", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_clip(model_name, "openai")


@pytest.mark.parametrize("model_name", MODELS)
def test_tokenizer_equals_open_clips(model_name: str) -> None:
    ours, theirs = get_tokenizer(model_name), open_clip.get_tokenizer(model_name)
    prompts = ["a photo of a cat.", "Straße & <b>café</b>", "x " * 100]
    assert torch.equal(ours(prompts), theirs(prompts))


def test_tokenizer_from_the_hub_is_rejected() -> None:
    with pytest.raises(InputError, match=r"name: .*'ViT-L-14-CLIPA'.*'bert-base-uncased'"):
        get_tokenizer("ViT-L-14-CLIPA")
