"""CLIP inside a checkpoint of SAN: no other file is needed, and its activation is known."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from cliptrase_d2.d2 import DetectionCheckpointer, build_model
from cliptrase_d2.san.checkpoints import AtomicCheckpointer
from cliptrase_d2.san.model import SAN
from cliptrase_d2.segmenter.build import build_segmenter
from cliptrase_d2.utils.errors import InputError
from tests.clip.tiny import tiny_clip
from tests.san.tiny_san import picture, tiny_san, tiny_san_config


def save_published(model: SAN, path: Path) -> Path:
    """Write a checkpoint as the published code does, without a record of the activation."""
    torch.save({"model": model.state_dict()}, path)
    return path


def load(folder: Path, checkpoint: Path, *options: str) -> SAN:
    model = build_segmenter(
        tiny_san_config(folder, "MODEL.WEIGHTS", str(checkpoint), "MODEL.SAN.ALLOW_UNTRAINED", "False", *options)
    )
    assert isinstance(model, SAN)
    return model


def invent_tag(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    """Give the tiny model a tag, "theirs", whose weights cannot be downloaded."""
    tags = {"theirs": {"hf_hub": "nobody/nothing/", **facts}}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: tags.get(tag, {}))


def refuse_downloads(*_: object) -> None:
    raise ConnectionError("no network")


def assert_same_prediction(model: SAN, expected: SAN) -> None:
    with torch.no_grad():
        first, second = ({**one([{"image": picture()}])[0]} for one in (model, expected))
    assert torch.equal(first["pred_logits"], second["pred_logits"])
    assert torch.equal(first["label_map"], second["label_map"])


def test_published_checkpoint_needs_no_other_file_and_has_quick_gelu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = tiny_san(tmp_path)
    assert expected.quick_gelu  # as in the published SAN
    caplog.clear()
    with caplog.at_level(logging.INFO):
        model = load(tmp_path, save_published(expected, tmp_path / "published.pth"))
    assert_same_prediction(model, expected)
    assert "RANDOM" not in caplog.text
    assert "QuickGELU" in caplog.text


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_tag_gives_the_activation_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_gelu: bool
) -> None:
    checkpoint = save_published(tiny_san(tmp_path), tmp_path / "published.pth")
    invent_tag(monkeypatch, quick_gelu=quick_gelu)
    monkeypatch.setattr("cliptrase_d2.clip.weights_source.fetch_weights", refuse_downloads)
    assert load(tmp_path, checkpoint, "MODEL.CLIP.PRETRAINED", "theirs").quick_gelu == quick_gelu
    with pytest.raises(InputError, match="no network"):  # without the checkpoint, CLIP's own weights are needed
        build_model(tiny_san_config(tmp_path, "MODEL.CLIP.PRETRAINED", "theirs"))


def test_own_checkpoint_records_the_activation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    invent_tag(monkeypatch, quick_gelu=False)
    checkpoint = save_published(tiny_san(tmp_path), tmp_path / "start.pth")
    gelu = load(tmp_path, checkpoint, "MODEL.CLIP.PRETRAINED", "theirs")
    AtomicCheckpointer(gelu, str(tmp_path)).save("own")
    model = load(tmp_path, tmp_path / "own.pth")  # MODEL.CLIP.PRETRAINED ""
    assert not model.quick_gelu
    assert_same_prediction(model, gelu)


def test_checkpoint_of_another_activation_is_refused_after_the_model_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invent_tag(monkeypatch, quick_gelu=False)
    checkpoint = save_published(tiny_san(tmp_path), tmp_path / "start.pth")
    AtomicCheckpointer(load(tmp_path, checkpoint, "MODEL.CLIP.PRETRAINED", "theirs"), str(tmp_path)).save("own")
    with pytest.raises(InputError, match=r"own\.pth.*without QuickGELU"):
        DetectionCheckpointer(tiny_san(tmp_path)).load(str(tmp_path / "own.pth"))


def test_file_of_clip_gives_the_activation(tmp_path: Path) -> None:
    checkpoint = save_published(tiny_san(tmp_path), tmp_path / "published.pth")
    torch.save(tiny_clip().state_dict(), tmp_path / "gelu.pt")  # no evidence of QuickGELU
    file = ("MODEL.CLIP.PRETRAINED", str(tmp_path / "gelu.pt"))
    assert not load(tmp_path, checkpoint, *file).quick_gelu
    assert load(tmp_path, checkpoint).quick_gelu
    missing = ("MODEL.CLIP.PRETRAINED", str(tmp_path / "missing.pt"))
    with pytest.raises(InputError, match=r"missing\.pt"):
        load(tmp_path, checkpoint, *missing)


def test_bgr_images_are_refused(tmp_path: Path) -> None:
    checkpoint = save_published(tiny_san(tmp_path), tmp_path / "published.pth")
    with pytest.raises(InputError, match=r"INPUT\.FORMAT: 'BGR'"):
        load(tmp_path, checkpoint, "INPUT.FORMAT", "BGR")


def test_model_refuses_to_run_before_its_checkpoint_is_loaded(tmp_path: Path) -> None:
    checkpoint = save_published(tiny_san(tmp_path), tmp_path / "published.pth")
    model = build_model(tiny_san_config(tmp_path, "MODEL.WEIGHTS", str(checkpoint))).eval()
    with pytest.raises(InputError, match=r"MODEL\.WEIGHTS.*not loaded"):
        model([{"image": picture()}])
    DetectionCheckpointer(model).load(str(checkpoint))
    assert_same_prediction(model, tiny_san(tmp_path))


@pytest.mark.parametrize("missing", ["clip_rec_head.proj", "ov_classifier.text_projection"])
def test_checkpoint_without_all_of_clip_keeps_the_weights_of_clip(tmp_path: Path, missing: str) -> None:
    expected = tiny_san(tmp_path)
    state = {name: value for name, value in expected.state_dict().items() if name != missing}
    torch.save({"model": state}, tmp_path / "part.pth")
    model = build_model(tiny_san_config(tmp_path, "MODEL.WEIGHTS", str(tmp_path / "part.pth")))
    assert not model.needs_clip
    assert torch.equal(model.state_dict()[missing], expected.state_dict()[missing])
