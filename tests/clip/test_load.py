import json
import logging
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch
from open_clip.model import CLIP
from torch import Tensor

from cliptrase_d2.clip import load as load_module
from cliptrase_d2.clip.load import get_tokenizer, load_clip
from cliptrase_d2.clip.open_clip_modules import pixel_statistics
from cliptrase_d2.clip.weights_source import Source
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import TINY_CONFIG, openai_state, register_tiny, save_openai_archive, tiny_clip

MODELS = ("ViT-B-32", "ViT-B-16", "ViT-B-16-quickgelu", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-bigG-14")


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
    elif kind == "openai":
        torch.save(openai_state(model), path)
    elif kind == "safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    elif kind == "training":
        torch.save({"state_dict": {f"module.{n}": v for n, v in model.state_dict().items()}, "epoch": 1}, path)
    else:
        torch.save(model.state_dict(), path)
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
def test_every_format_gives_its_weights(
    name: str, tmp_path: Path, kind: str, suffix: str, quick_gelu: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trained = tiny_clip(seed=3)
    path = save(kind, tmp_path / f"weights{suffix}", trained)
    model, report = load_clip(name, path)
    assert_weights(model, trained.state_dict(), atol=2e-3 if kind == "jit" else 0.0)  # the archive is half precision
    assert has_quick_gelu(model) == report.quick_gelu == quick_gelu
    assert report.loaded == len(trained.state_dict())
    assert report.missing == report.unexpected == report.random == ()
    assert path in str(report)
    assert not caplog.records, "nothing to warn of"
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_random_weights_are_seeded_and_loud(name: str, caplog: pytest.LogCaptureFixture) -> None:
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


@pytest.mark.parametrize("named_quick", [True, False])
def test_plain_file_follows_the_models_name(tmp_path: Path, named_quick: bool) -> None:
    name = register_tiny(tmp_path, f"tiny-{named_quick}", quick_gelu=named_quick)
    model, report = load_clip(name, save("plain", tmp_path / "w.pt", tiny_clip()))
    assert has_quick_gelu(model) == report.quick_gelu == named_quick
    assert "the file does not" in report.quick_gelu_reason


@pytest.mark.parametrize("tag_quick", [True, False])
def test_tag_decides_activation_and_statistics(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, tag_quick: bool
) -> None:
    path = Path(save("plain", tmp_path / "w.pt", tiny_clip()))
    tag = {"quick_gelu": tag_quick, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "url": "", "hf_hub": "a/b/"}
    monkeypatch.setattr(load_module, "find_source", lambda *_: Source(path, tag, "open_clip's tag 'x'"))
    model, report = load_clip(name, "x")
    assert has_quick_gelu(model) == report.quick_gelu == tag_quick
    assert "open_clip's tag 'x'" in report.quick_gelu_reason
    assert pixel_statistics(model.visual) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_configuration_beside_the_file_decides_the_activation(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    beside = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(beside))
    model, _ = load_clip(name, save("safetensors", folder / "open_clip_model.safetensors", tiny_clip()))
    assert has_quick_gelu(model)


def test_activation_changes_the_features(tmp_path: Path, name: str) -> None:
    """The archive of a QuickGELU model must give that model's features, not nearly those."""
    trained = tiny_clip(quick_gelu=True)
    model, _ = load_clip(name, save("openai", tmp_path / "w.pt", trained))
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model.encode_image(image), trained.encode_image(image))


def test_file_of_another_trained_size_keeps_its_grid(tmp_path: Path, name: str) -> None:
    vision = {**TINY_CONFIG["vision_cfg"], "image_size": 96}
    trained = tiny_clip(vision_cfg=vision)
    model, report = load_clip(name, save("plain", tmp_path / "w.pt", trained))
    assert_weights(model, trained.state_dict())
    assert model.visual.grid_size == (6, 6)
    assert report.missing == ()


def test_missing_and_unexpected_names_are_reported(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    state = tiny_clip().state_dict()
    gone = {"logit_scale", "text_projection", "visual.transformer.resblocks.1.ln_1.bias"}
    state = {key: value for key, value in state.items() if key not in gone}
    torch.save({**state, "decoder.weight": torch.ones(2), "epoch": 3}, tmp_path / "w.pt")
    _, report = load_clip(name, str(tmp_path / "w.pt"))
    assert set(report.missing) == gone
    assert report.missing == report.random
    assert report.unexpected == ("decoder.weight", "epoch")
    assert report.loaded == len(state)
    assert "decoder.weight" in caplog.text
    assert "logit_scale" in caplog.text


def test_vector_logit_scale_is_taken(tmp_path: Path, name: str) -> None:
    torch.save({**tiny_clip().state_dict(), "logit_scale": torch.tensor([3.0])}, tmp_path / "w.pt")
    model, _ = load_clip(name, str(tmp_path / "w.pt"))
    assert model.logit_scale.item() == 3.0


VISION, TEXT = TINY_CONFIG["vision_cfg"], TINY_CONFIG["text_cfg"]


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"vision_cfg": {**VISION, "width": 128}}, r"of another shape: visual\.class_embedding \[128\], not \[64\]"),
        ({"vision_cfg": {**VISION, "patch_size": 8}}, r"of another shape: .*visual\.conv1\.weight \[64, 3, 8, 8\]"),
        ({"vision_cfg": {**VISION, "layers": 4}}, r"too many: visual\.transformer\.resblocks\.3"),
        ({"vision_cfg": {**VISION, "layers": 2}}, r"missing: visual\.transformer\.resblocks\.2"),
        ({"text_cfg": {**TEXT, "layers": 3}}, r"too many: transformer\.resblocks\.2"),
        ({"text_cfg": {**TEXT, "context_length": 32}}, r"positional_embedding \[32, 32\], not \[77, 32\]"),
        ({"embed_dim": 16}, r"text_projection \[32, 16\], not \[32, 32\]"),
    ],
)
def test_other_architecture_is_refused(tmp_path: Path, name: str, config: dict[str, object], found: str) -> None:
    path = save("plain", tmp_path / "other.pt", tiny_clip(**config))
    with pytest.raises(InputError, match=rf"other\.pt: the weights of another model; .*{found}"):
        load_clip(name, path)


@pytest.mark.parametrize("keep", ["visual.", ""])
def test_half_a_model_is_refused(tmp_path: Path, name: str, keep: str) -> None:
    state = tiny_clip().state_dict()
    half = {n: v for n, v in state.items() if n.startswith("visual.") == bool(keep)}
    torch.save(half, tmp_path / "half.pt")
    with pytest.raises(InputError, match="the weights of another model; missing: "):
        load_clip(name, str(tmp_path / "half.pt"))


def test_unrelated_checkpoint_is_refused_with_its_names(tmp_path: Path, name: str) -> None:
    torch.save({"layer1.0.conv1.weight": torch.ones(3), "fc.bias": torch.ones(2)}, tmp_path / "resnet.pt")
    with pytest.raises(InputError, match=r"It holds layer1\.0\.conv1\.weight, fc\.bias"):
        load_clip(name, str(tmp_path / "resnet.pt"))


def test_unfit_model_is_refused_before_any_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "find_source", lambda *_: pytest.fail("looked for weights"))
    with pytest.raises(InputError, match=r"ViT-bigG-14-CLIPA.*pool_type 'avg'"):
        load_clip("ViT-bigG-14-CLIPA", "datacomp1b")
    with pytest.raises(InputError, match=r"RN50.*ModifiedResNet"):
        load_clip("RN50", "openai")


def test_unknown_name_tag_and_file_are_refused() -> None:
    with pytest.raises(InputError, match="Did you mean ViT-B-16"):
        load_clip("ViT-B16", "")
    with pytest.raises(InputError, match="Did you mean openai"):
        load_clip("ViT-B-16", "open-ai")
    with pytest.raises(InputError, match="no file here"):
        load_clip("ViT-B-16", "weights/ViT-B-16.pt")


@pytest.mark.parametrize("model_name", MODELS)
def test_tokenizer_is_open_clips_own(model_name: str) -> None:
    ours, theirs = get_tokenizer(model_name), open_clip.get_tokenizer(model_name)
    prompts = ["a photo of a cat.", "Straße & <b>café</b>", "x " * 100]
    assert torch.equal(ours(prompts), theirs(prompts))


@pytest.mark.parametrize("model_name", MODELS)
def test_common_models_are_supported(model_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the point where weights are looked for, which would cost gigabytes here."""

    class ReachedError(Exception):
        pass

    def stop(*_: object) -> None:
        raise ReachedError

    monkeypatch.setattr(load_module, "find_source", stop)
    with pytest.raises(ReachedError):
        load_clip(model_name, "openai")


def test_tokenizer_from_the_hub_is_refused() -> None:
    with pytest.raises(InputError, match=r"bert-base-uncased.*CLIP's own tokenizer"):
        get_tokenizer("ViT-L-14-CLIPA")


def test_open_clip_says_nothing_to_the_user(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger().handlers)
    load_clip(name, save("openai", tmp_path / "w.pt", tiny_clip()))
    get_tokenizer(name)
    assert logging.getLogger().handlers == handlers
    assert capfd.readouterr() == ("", "")
