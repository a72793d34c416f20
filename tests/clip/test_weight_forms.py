"""Every row of the table of weights in docs/models.md: what is read, and what is refused in one line."""

from __future__ import annotations

import argparse
import copy
import gzip
import io
import json
import pathlib
import re
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from open_clip.model import CLIP
from torch import Tensor

from cliptrase_d2.clip.load import load_clip
from cliptrase_d2.clip.open_clip_modules import pixel_statistics
from cliptrase_d2.clip.text import TextEncoder
from cliptrase_d2.clip.tokenizer import get_tokenizer
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.vocabulary import Vocabulary
from tests.clip.hub_server import serve_hub
from tests.clip.tiny import openai_state, register_tiny, save_openai_archive, tiny_clip
from tests.clip.weight_forms import (
    STATISTICS,
    add_prefix,
    save_open_clip_folder,
    save_transformers_folder,
    transformers_clip,
)
from tests.command_line import ROOT

TRAINED = tiny_clip(seed=7)
STATE = TRAINED.state_dict()
OTHER = tiny_clip(seed=8).state_dict()
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


@dataclass
class Form:
    """One form of weights.

    Attributes:
        write: writes it to an empty folder, and returns the value of MODEL.CLIP.PRETRAINED.
        quick_gelu: the activation of the loaded model.
        report: pattern in the load report.
        atol: of the weights, where the file rounds them.
    """

    write: Callable[[Path], Path | str]
    quick_gelu: bool = False
    report: str = ""
    atol: float = 0.0


def save(folder: Path, content: object, name: str = "weights.pt") -> Path:
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(content, folder / name)
    else:
        torch.save(content, folder / name)
    return folder / name


def save_openai(folder: Path) -> Path:
    save_openai_archive(TRAINED, folder / "ViT.pt")
    return folder / "ViT.pt"


def save_training(folder: Path) -> Path:
    """Write what open_clip's training does, with the NumPy scalars of some schedulers and other harmless types."""
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": np.float64(1e-3)}]}
    content = {
        "epoch": 3, "name": "run", "state_dict": add_prefix(STATE, "module."), "optimizer": optimizer,
        "scaler": {"scale": np.float32(65536.0), "steps": np.int64(3)}, "rng": np.arange(3), "best": np.bool_(True),
        "args": argparse.Namespace(lr=1e-3, path=pathlib.Path("data")), "counts": defaultdict(int, a=1),
    }  # fmt: skip
    return save(folder, content, "epoch_3.pt")


def save_lightning(folder: Path) -> Path:
    state = {
        **add_prefix(STATE, "model.clip_model."),
        "loss.weight": torch.ones(3),
        "head.bias": torch.ones(2),
    }
    content = {
        "epoch": 3, "global_step": 10, "pytorch-lightning_version": "2.5.0", "state_dict": OrderedDict(state),
        "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {"ModelCheckpoint{}": {"best": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {}, "param_groups": []}], "lr_schedulers": [],
        "hyper_parameters": {"lr": np.float64(1e-3)},
    }  # fmt: skip
    return save(folder, content, "last.ckpt")


def save_prefixes(folder: Path) -> Path:
    return save(folder, add_prefix(STATE, "module._orig_mod.model.clip_model.base_model.model."))


def save_compiled(folder: Path) -> Path:
    state = {re.sub(r"^(visual|transformer)\.", r"\1._orig_mod.", name): value for name, value in STATE.items()}
    return save(folder, {"model": state})


def save_larger(folder: Path) -> Path:
    return save(
        folder,
        {**add_prefix(STATE, "net.clip."), "decoder.weight": torch.ones(2), "net.film.bias": STATE["logit_scale"]},
    )


def save_twice(folder: Path) -> Path:
    return save(folder, {"state_dict": STATE, "model": copy.deepcopy(STATE)})


def save_hub(folder: Path) -> str:
    save_open_clip_folder(folder / "main", TRAINED)
    save_open_clip_folder(folder / "v2", TRAINED)
    return "hf-hub:owner/clip@v2"


def save_longclip(folder: Path) -> Path:
    """Write Long-CLIP's two position embeddings, the second of which counts after 20 rows."""
    position = torch.linspace(-1, 1, 248 * 32).view(248, 32)
    state = {**STATE, "positional_embedding": position, "positional_embedding_res": -position}
    return save(folder, state, "longclip-B.pt")


READ = {
    "OpenAI's archive (TorchScript)": Form(save_openai, quick_gelu=True, report="TorchScript", atol=2e-3),
    "OpenAI's state dict": Form(lambda folder: save(folder, openai_state(TRAINED)), quick_gelu=True),
    "open_clip's state dict, `.pt`, `.pth` or `.bin`": Form(lambda folder: save(folder, STATE, "w.bin")),
    "open_clip's `.safetensors`": Form(lambda folder: save(folder, STATE, "w.safetensors")),
    "open_clip's training checkpoint, `epoch_N.pt`": Form(
        save_training, report=r"part of the file: state_dict, module\.\*"
    ),
    "checkpoint with the weights under `state_dict`": Form(
        lambda folder: save(folder, {"state_dict": STATE, "epoch": 1})
    ),
    "checkpoint with the weights under `model`": Form(lambda folder: save(folder, {"model": STATE, "epoch": 1})),
    "checkpoint with the weights under `model_state_dict`": Form(
        lambda folder: save(folder, {"model_state_dict": STATE, "optimizer_state_dict": {}})
    ),
    "checkpoint with the same CLIP under two keys": Form(save_twice, report="part of the file: state_dict"),
    "Lightning's `.ckpt`": Form(save_lightning, report=r"model\.clip_model\.\*\n  not used: 2 .*loss\.weight"),
    "prefixes such as `module.`, `model.`, `clip_model.`, `base_model.model.`": Form(
        save_prefixes, report=r"model\.\*"
    ),
    "`_orig_mod.` of `torch.compile`, anywhere": Form(save_compiled),
    "CLIP in a larger model": Form(save_larger, report=r"net\.clip\.\*\n  not used: 2 .*decoder\.weight"),
    "LoRA, merged by `merge_and_unload`": Form(lambda folder: save(folder, add_prefix(STATE, "base_model.model."))),
    "folder of open_clip": Form(
        lambda folder: save_open_clip_folder(folder / "f", TRAINED, quick_gelu=True), quick_gelu=True
    ),
    "`hf-hub:owner/name` of open_clip, with or without `@revision`": Form(save_hub, report="open_clip_config"),
    "half precision, fp16 or bf16": Form(
        lambda folder: save(folder, {n: v.bfloat16() for n, v in STATE.items()}, "w.safetensors"), atol=2e-2
    ),
    "`.safetensors` with the name of a `.pt`, and the reverse": Form(
        lambda folder: save(folder, STATE, "w.safetensors").rename(folder / "w.pt")
    ),
}


@pytest.fixture
def name(tmp_path: Path) -> str:
    return register_tiny(tmp_path)


@pytest.mark.parametrize("form", READ.values(), ids=READ)
def test_form_is_read(tmp_path: Path, name: str, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    pretrained = str(form.write(folder))
    repositories = {"owner/clip": {name: folder / name for name in ("main", "v2")}}
    with serve_hub(repositories, tmp_path / "cache", monkeypatch):
        model, report = load_clip(name, pretrained)
    assert_weights(model, STATE, form.atol)
    assert report.loaded == len(STATE)
    assert report.missing == report.unexpected == report.random == ()
    assert report.quick_gelu == form.quick_gelu
    assert re.search(form.report, str(report)), str(report)


def assert_weights(model: CLIP, expected: dict[str, Tensor], atol: float) -> None:
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[key], atol=atol, rtol=0, msg=key)


def save_single(folder: Path, activation: str, is_pickle: bool) -> Path:
    """Write a file of transformers with its configuration beside it."""
    model = transformers_clip(7, activation)
    model.config.save_pretrained(folder)
    if is_pickle:
        return save(folder, model.state_dict(), "pytorch_model.bin")
    return save(folder, {n: v.contiguous() for n, v in model.state_dict().items()}, "model.safetensors")


def save_hub_of_transformers(folder: Path) -> str:
    save_transformers_folder(folder / "hf", 7)
    return "hf-hub:owner/hf"


def save_pickled_parts(folder: Path) -> Path:
    """Write `pytorch_model.bin` in two parts."""
    model = transformers_clip(7, "gelu")
    model.config.save_pretrained(folder)
    names = sorted(model.state_dict())
    parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, own in parts.items():
        torch.save({name: model.state_dict()[name] for name in own}, folder / file)
    weight_map = {name: file for file, own in parts.items() for name in own}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


TRANSFORMERS = {
    "folder of transformers' `CLIPModel`": Form(lambda folder: save_transformers_folder(folder / "f", 7), True),
    "`CLIPModel` in parts, with their `.index.json`": Form(
        lambda folder: save_transformers_folder(folder / "f", 7, max_shard_size="200KB"), True, "in parts"
    ),
    "`pytorch_model.bin` in parts": Form(save_pickled_parts, False, "in parts"),
    "`model.safetensors` with `config.json` beside it": Form(lambda folder: save_single(folder, "gelu", False), False),
    "`pytorch_model.bin` with `config.json` beside it": Form(
        lambda folder: save_single(folder, "quick_gelu", True), True
    ),
    "`hf-hub:owner/name` of transformers": Form(save_hub_of_transformers, True, "config.json in the same folder"),
    "state dict of `CLIPModel` for a model named `-quickgelu`": Form(
        lambda folder: save(folder, {"model": transformers_clip(7).state_dict()}), True, "model's name"
    ),
}


@pytest.mark.parametrize("form", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_form_of_transformers_gives_its_features(
    tmp_path: Path, name: str, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    pretrained = str(form.write(folder))
    if form.report == "model's name":
        name = register_tiny(tmp_path, "tiny-vit-quickgelu", quick_gelu=True)
    with serve_hub({"owner/hf": {"main": folder / "hf"}}, tmp_path / "cache", monkeypatch):
        model, report = load_clip(name, pretrained)
    assert (report.missing, report.unexpected, report.quick_gelu) == ((), (), form.quick_gelu)
    assert re.search(form.report, str(report)), str(report)
    theirs = transformers_clip(7, "quick_gelu" if form.quick_gelu else "gelu")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    tokens = torch.cat([torch.randint(1, 49406, (3, 76), generator=generator), torch.full((3, 1), 49407)], dim=1)
    tokens[0, 5] = 49407  # ends earlier
    expected_images = theirs.visual_projection(theirs.vision_model(images).pooler_output)
    expected_texts = theirs.text_projection(theirs.text_model(tokens).pooler_output)
    torch.testing.assert_close(model.encode_image(images), expected_images, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encode_text(tokens), expected_texts, atol=1e-5, rtol=1e-5)
    assert model.logit_scale.item() == theirs.logit_scale.item()
    has_statistics = any("preprocessor" in path.name for path in folder.rglob("*.json"))
    assert (pixel_statistics(model.visual)[0] == tuple(STATISTICS["mean"])) == has_statistics


def test_long_clip_is_read(tmp_path: Path, name: str) -> None:
    model, report = load_clip(name, str(save_longclip(tmp_path)))
    position = torch.linspace(-1, 1, 248 * 32).view(248, 32)
    assert torch.equal(model.positional_embedding, torch.cat([position[:20], -position[20:]]))
    assert (report.quick_gelu, report.context, report.missing, report.unexpected) == (True, 248, (), ())
    assert "248 tokens" in str(report)
    encoder = TextEncoder(model, get_tokenizer(name, "", 248), templates="simple")
    words = ["cat " * 100 + end for end in ("dog", "bird")]  # beyond 77 tokens
    prompts = get_tokenizer(name, "", 248)([f"a photo of a {word}." for word in words])
    features = encoder(Vocabulary.parse(words)).features
    torch.testing.assert_close(features, model.encode_text(prompts, normalize=True), atol=1e-5, rtol=0)
    assert not torch.allclose(features[0], features[1])


NOT_A_NUMBER = {**STATE, "logit_scale": torch.tensor(float("nan"))}
PICKLE = (
    r"pickle that names (\S+), which could run code.*not executed.*may be harmless.*weights_only=False.*safetensors"
)
LORA = r"LoRA.*peft\.PeftModel\.from_pretrained\(.*merge_and_unload\(\)"
LATER = r"later version.*ViT-B-16"


def write(folder: Path, content: bytes, name: str = "weights.pt") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def write_zip(folder: Path, name: str) -> Path:
    with zipfile.ZipFile(folder / "model.ckpt", "w") as archive:
        archive.writestr(name, b"text")
    return folder / "model.ckpt"


def tensors(*names: str) -> dict[str, Tensor]:
    return {name: torch.ones(2) for name in names}


def save_other_folder(folder: Path, file: str, content: object) -> Path:
    (folder / file).write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def save_vision_only(folder: Path) -> Path:
    model = transformers_clip()
    state = {n: v.contiguous() for n, v in model.state_dict().items() if n.startswith(("vision_model", "visual_proj"))}
    model.config.save_pretrained(folder)
    return save(folder, state, "model.safetensors")


def save_missing_part(folder: Path) -> Path:
    save_transformers_folder(folder, max_shard_size="200KB")
    next(folder.glob("model-00002-*")).unlink()
    return folder


def save_one_part(folder: Path) -> Path:
    save_transformers_folder(folder, max_shard_size="200KB")
    return next(folder.glob("model-00002-*"))


def save_larger_config(folder: Path) -> Path:
    save_transformers_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_attention_heads"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_folder_of_run(folder: Path) -> Path:
    save(folder, STATE, "epoch_1.pt")
    return save(folder, STATE, "epoch_2.pt").parent


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:5000])
    return path


def save_numpy(folder: Path) -> Path:
    stream = io.BytesIO()
    np.savez(stream, **{"params/img/cls": np.ones(3)})
    return write(folder, stream.getvalue(), "siglip.npz")


REFUSED: dict[str, tuple[Callable[[Path], Path | str], str]] = {
    "state dict of `CLIPModel` without `config.json`": (
        lambda folder: save(folder, transformers_clip().state_dict()),
        r"without their config\.json.*activation",
    ),
    "`CLIPVisionModelWithProjection`, or another half": (
        save_vision_only,
        r"half a CLIP, its image tower; missing: text_model",
    ),
    "CLIP of another size": (
        lambda folder: save(folder, tiny_clip(embed_dim=16).state_dict()),
        r"another model; other shapes: .*Name the model",
    ),
    "`config.json` or `open_clip_config.json` of another model": (save_larger_config, r"image heads 8, not 4"),
    "two CLIPs: student and teacher, or a moving average": (
        lambda folder: save(folder, {**add_prefix(STATE, "student."), **add_prefix(OTHER, "teacher.")}),
        r"two CLIPs, student\.\* and teacher\.\*.*Save the one",
    ),
    "LoRA adapter, a folder": (lambda folder: save_adapter(folder), LORA),
    "LoRA adapter in the weights, not merged": (
        lambda folder: save(
            folder,
            {**add_prefix(STATE, "base_model.model."), **tensors("base_model.model.visual.proj.lora_A.default.weight")},
        ),
        LORA,
    ),
    "SigLIP, a folder of transformers": (
        lambda folder: save_other_folder(folder, "config.json", {"model_type": "siglip"}),
        rf"'siglip'.*{LATER}",
    ),
    "SigLIP, PE, ConvNeXt, MobileCLIP of open_clip": (
        lambda folder: save(folder, tensors("visual.trunk.pos_embed", "text.token_embedding.weight")),
        LATER,
    ),
    "EVA-CLIP": (lambda folder: save(folder, tensors("visual.blocks.0.norm1.weight", "visual.pos_embed")), LATER),
    "CoCa": (
        lambda folder: save(folder, {**STATE, **tensors("visual.attn_pool.query", "text_decoder.ln_final.weight")}),
        LATER,
    ),
    "CLIP with XLM-R or BERT as text tower": (
        lambda folder: save(folder, tensors("visual.conv1.weight", "text.transformer.encoder.layer.0.output.weight")),
        LATER,
    ),
    "CLIP with a ResNet, RN50": (
        lambda folder: save(folder, {**STATE, **tensors("visual.layer1.0.conv1.weight")}),
        r"RN50.*ViT-B-16",
    ),
    "SAN": (
        lambda folder: save(folder, {"model": tensors("clip_visual_extractor.conv1.weight")}),
        r"SAN.*MODEL\.WEIGHTS",
    ),
    "SAM": (
        lambda folder: save(folder, tensors("image_encoder.pos_embed", "mask_decoder.iou_token.weight")),
        r"SAM.*MODEL\.MASKS",
    ),
    "DINOv2": (
        lambda folder: save(folder, {"teacher": tensors("cls_token", "mask_token", "patch_embed.proj.weight")}),
        r"DINOv2.*MODEL\.MASKS",
    ),
    "ViT of timm, DINO or MAE": (
        lambda folder: save(folder, tensors("patch_embed.proj.weight", "head.weight"), "w.safetensors"),
        r"ViT without a text tower",
    ),
    "CoOp or MaPLe": (lambda folder: save(folder, {"state_dict": tensors("prompt_learner.ctx")}), r"learned prompts"),
    "pickle that names other types": (lambda folder: save(folder, {**STATE, "x": io.StringIO("a")}), PICKLE),
    "pickled model, `torch.save(model)`": (lambda folder: save(folder, TRAINED), PICKLE),
    "weights with NaN or Inf": (lambda folder: save(folder, NOT_A_NUMBER), r"logit_scale contains NaN"),
    "fp8": (
        lambda folder: save(folder, {n: v.to(torch.float8_e4m3fn) for n, v in STATE.items()}, "w.safetensors"),
        r"float8_e4m3fn.*16 or 32 bits",
    ),
    "int8, quantised": (
        lambda folder: save(folder, {**STATE, "visual.proj": torch.ones(64, 32, dtype=torch.int8)}),
        r"visual\.proj torch\.int8",
    ),
    "pointer of Git LFS": (
        lambda folder: write(folder, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        r"git lfs pull",
    ),
    "web page saved as `.pt`": (lambda folder: write(folder, b"\n<!DOCTYPE html><html>Sign in</html>"), r"a web page"),
    "empty file": (lambda folder: write(folder, b""), r"an empty file.*again"),
    "truncated file": (lambda folder: truncate(save(folder, STATE)), r"cannot be read.*truncated"),
    "folder without weights": (
        lambda folder: write(folder, b"", "notes.txt").parent,
        r"without weights; it has notes\.txt",
    ),
    "folder with files of other names": (save_folder_of_run, r"epoch_1\.pt, epoch_2\.pt\. Pass one of these"),
    "one part of a divided model": (save_one_part, r"one part.*Pass the folder"),
    "divided model with a missing part": (save_missing_part, r"1 of \d+ parts are missing: model-00002"),
    "GGUF": (lambda folder: write(folder, b"GGUF\3\0\0\0", "clip.gguf"), r"GGUF.*\.safetensors"),
    "ONNX": (lambda folder: write(folder, b"\x08\x08\x12\x07pytorch\x1a", "clip.onnx"), r"ONNX.*\.safetensors"),
    "MessagePack of Flax": (
        lambda folder: write(folder, b"\x82\xa6params", "flax_model.msgpack"),
        r"Flax.*\.safetensors",
    ),
    "HDF5 of Keras": (lambda folder: write(folder, b"\x89HDF\r\n\x1a\n", "tf_model.h5"), r"Keras.*\.safetensors"),
    "NumPy arrays of JAX": (save_numpy, r"NumPy arrays.*\.safetensors"),
    "zip or other archive of files": (
        lambda folder: write_zip(folder, "run/weights.pt"),
        r"zip archive.*weights\.pt.*Unpack",
    ),
    "`.tar.gz`": (lambda folder: write(folder, gzip.compress(b"weights"), "w.tar.gz"), r"compressed archive.*Unpack"),
    "`config.json` in place of the weights": (
        lambda folder: write(folder, b'{"model_type": "clip"}', "config.json"),
        r"JSON",
    ),
}


def save_adapter(folder: Path) -> Path:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    return save(folder, tensors("base_model.model.q_proj.lora_A.weight"), "adapter_model.safetensors").parent


@pytest.mark.parametrize(("write_form", "message"), REFUSED.values(), ids=REFUSED)
def test_form_is_refused_in_one_line(
    tmp_path: Path, name: str, write_form: Callable[[Path], Path | str], message: str
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    pretrained = str(write_form(folder))
    with pytest.raises(InputError) as raised:
        load_clip(name, pretrained)
    assert re.search(message, str(raised.value)), str(raised.value)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


ELSEWHERE = {  # rows whose tests are not here
    "Long-CLIP, 248 tokens": "test_long_clip_is_read",
    "MetaCLIP 2, `ViT-H-14-worldwide` and others": "tests/clip/test_tokenizer.py",
    "names of models that are not supported": "tests/clip/test_foreign_models.py",
}


def test_page_has_a_row_for_every_form() -> None:
    section = PAGE[PAGE.index("## Forms of weights") : PAGE.index("## Models that do not work")]
    rows = re.findall(r"^\| (?!Form \|)([^|]+?) +\|", section, re.MULTILINE)
    assert sorted(rows) == sorted([*READ, *TRANSFORMERS, *REFUSED, *ELSEWHERE])
