"""`cliptrase export`: the files it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cliptrase_d2.cli.main import main
from cliptrase_d2.export.formats import METADATA
from cliptrase_d2.segmenter.segmenter import Segmenter
from tests.command_line import ROOT

SCENE = ROOT / "datasets" / "emoji_scenes" / "images" / "seen_010.webp"
CLASSES = ("soccer ball", "red book", "water")


def run(*words: str) -> object:
    """The command; its exit code or last line."""
    with pytest.raises(SystemExit) as end:
        main(["export", *words])
    return end.value.code


def test_file_and_words_name_patches_without_this_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "emoji.pt2"
    words = ("--model", "emoji", "--classes", "soccer ball, red book, water", "--opts", "MODEL.DEVICE", "cpu")
    assert run("--output", str(file), *words) == 0
    printed = capsys.readouterr()
    said = printed.out.splitlines()
    assert said[0].startswith(f"{file}: ")
    assert said[2].split() == ["images", "patches", "class_token", "correlation", "logits"]
    assert said[4].startswith("[1,3,112,112]")
    assert said[-1] == f"{tmp_path / 'emoji_words.npz'}: the text features of 3 classes, in 3 words"

    extra = {METADATA: ""}
    module: Any = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra[METADATA])["model"] == "emoji-clip, emoji_scenes"
    image = Image.open(SCENE).convert("RGB").resize((112, 112), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image).transpose(2, 0, 1)[None])
    with np.load(tmp_path / "emoji_words.npz") as stored:
        logits = module(pixels, torch.from_numpy(stored["words"]))["logits"].numpy()
        assert tuple(stored["classes"]) == CLASSES
        named = stored["class_index"][logits[0].argmax(-1)].reshape(14, 14)

    opts = ["MODEL.DEVICE", "cpu", "MODEL.CLIPTRASE.CLUSTERING", "none"]  # patch by patch, as this is
    segmenter = Segmenter.from_config(ROOT / "configs" / "emoji_scenes.yaml", opts)
    expected = segmenter(SCENE, CLASSES).label_map[8::16, 8::16]  # about the middle of every patch of 16 pixels
    assert len(np.unique(named)) == 3
    assert (named == expected).mean() > 0.95


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "tower.pb"], r"a file that ends with .onnx (ONNX) or .pt2 (torch.export)"),
        (["--size", "224"], "--size: '224'"),
        (
            ["--size", "112x113", "--model", "emoji"],
            "112x113 pixels. Allowed: height and width in multiples of 8",
        ),
        (["--classes", "a, a"], "--classes: the word 'a' twice"),
        (["--background", "wall"], "--background: words without classes"),
        (["--model", "emoji", "--attention", "cosine_oracle"], "an oracle, which asks for labels"),
    ],
)
def test_what_cannot_be_ends_in_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    given = words if "--output" in words else ["--output", str(tmp_path / "tower.onnx"), *words]
    said = str(run(*given))
    assert said.startswith("error: ")
    assert message in said
    assert not list(tmp_path.iterdir())
