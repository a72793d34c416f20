"""`cliptrase export`: the exported file, its text features, and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.export.formats import METADATA
from cliptrase_d2.segmenter.segmenter import Segmenter
from tests.cli.commands import fail, run
from tests.command_line import ROOT

SCENE = ROOT / "datasets" / "emoji_scenes" / "images" / "seen_010.webp"
CLASSES = ("soccer ball", "red book", "water")


def test_exported_file_labels_patches_without_this_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "emoji.pt2"
    argv = ("--model", "emoji", "--classes", ", ".join(CLASSES), "--opts", "MODEL.DEVICE", "cpu")
    assert run("export", "--output", str(file), *argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{file}: ")
    assert lines[2].split() == ["images", "patches", "class_token", "correlation", "logits"]
    assert lines[4].startswith("[1,3,112,112]")
    assert lines[-1].startswith(f"{tmp_path / 'emoji_words.npz'}: ")

    extra = {METADATA: ""}
    module: Any = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra[METADATA])["model"] == "emoji-clip, emoji_scenes"
    image = Image.open(SCENE).convert("RGB").resize((112, 112), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image).transpose(2, 0, 1)[None])
    with np.load(tmp_path / "emoji_words.npz") as stored:
        logits = module(pixels, torch.from_numpy(stored["words"]))["logits"].numpy()
        assert tuple(stored["classes"]) == CLASSES
        labels = stored["class_index"][logits[0].argmax(-1)].reshape(14, 14)

    opts = ["MODEL.DEVICE", "cpu", "MODEL.CLIPTRASE.CLUSTERING", "none"]  # labels patches one by one, too
    segmenter = Segmenter.from_config(ROOT / "configs" / "emoji_scenes_whole.yaml", opts)
    expected = segmenter(SCENE, CLASSES).label_map[8::16, 8::16]  # near the centre of each patch of 16 pixels
    assert len(np.unique(labels)) == 3
    assert (labels == expected).mean() > 0.95


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--output", "encoder.pb"], "encoder.pb"),
        (["--size", "224"], "--size: '224'"),
        (["--size", "112x113", "--model", "emoji"], "112x113"),
        (["--classes", "a, a"], "--classes"),
        (["--background", "wall"], "--background"),
        (["--model", "emoji", "--method", "cosine_oracle"], "cosine_oracle"),
    ],
)
def test_input_errors_name_the_argument_and_leave_no_file(tmp_path: Path, argv: list[str], message: str) -> None:
    output = [] if "--output" in argv else ["--output", str(tmp_path / "encoder.onnx")]
    assert message in fail("export", *argv, *output)
    assert not list(tmp_path.iterdir())
