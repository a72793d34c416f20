"""The training of Emoji CLIP: it learns, it goes on where it stopped, and its weights are a model of the package."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cliptrase_d2.clip.embedded import NAME
from cliptrase_d2.clip.load import get_tokenizer, load_clip
from cliptrase_d2.data.emoji_scenes.names import HELD_OUT, SEEN_THINGS, STUFF
from cliptrase_d2.utils.errors import InputError
from tools.emoji_clip import train as tool
from tools.emoji_clip.batches import Canvases, Window

SMALL = (Window(14, 4, 0.5, 0.5, 1, 0), Window(4, 16, 0.8, 1, 1, 1))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "WINDOWS", SMALL)


def arguments(output: Path, *more: str) -> argparse.Namespace:
    words = [
        "train_emoji_clip.py",
        "--output",
        str(output),
        "--canvases",
        "6",
        "--steps",
        "6",
        "--device",
        "cpu",
        *more,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        return tool.parse_arguments()


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool.main(arguments(tmp_path / "whole"))

    save = tool.Training.save

    def save_and_stop(training: tool.Training) -> None:
        save(training)
        raise KeyboardInterrupt

    again = arguments(tmp_path / "parts", "--save-every", "4")
    with monkeypatch.context() as patch:
        patch.setattr(tool.Training, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            tool.main(again)
    tool.main(again)
    whole, parts = (load_file(tmp_path / name / f"{NAME}.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert steps == [4, 6]


def test_a_run_does_not_go_on_with_other_settings(tmp_path: Path) -> None:
    tool.main(arguments(tmp_path, "--steps", "1"))
    with pytest.raises(InputError, match="Repeat the first command"):
        tool.main(arguments(tmp_path, "--steps", "1", "--seed", "5"))


def test_the_weights_are_those_of_the_named_model(tmp_path: Path) -> None:
    tool.main(arguments(tmp_path, "--steps", "1"))
    model, report = load_clip(NAME, str(tmp_path / f"{NAME}.safetensors"))
    assert report.missing == report.unexpected == report.random == ()
    tokens = get_tokenizer(NAME)(["a photo of a fox on grass."])
    training = tool.Training(arguments(tmp_path, "--steps", "1"), rank=0, world=1)
    training.resume()
    inside = training.model.encode_text(training.tokenizer(["a photo of a fox on grass."]))
    torch.testing.assert_close(model.encode_text(tokens), inside.detach(), atol=2e-2, rtol=0)


def test_the_loss_falls_on_one_batch(tmp_path: Path) -> None:
    training = tool.Training(arguments(tmp_path, "--steps", "1000", "--from-patch", "0"), rank=0, world=1)
    canvases = Canvases(6, 0, SMALL, tool.TEMPLATES)
    batch = next(b for b in (canvases.batch(step, 1.0, 8) for step in range(9)) if len(b.captions) > 8)
    canvases.batch = lambda *_: batch  # type: ignore[method-assign]
    losses = [training.advance(canvases)[1] for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_every_word_of_training_has_a_token_and_keeps_its_text() -> None:
    tokenizer = tool.CompactTokenizer(get_tokenizer(NAME))
    full = get_tokenizer(NAME)
    texts = [template.format(f"{thing} and a {thing} on {stuff} and {stuff}") for template in set(tool.TEMPLATES)
             for thing, stuff in zip(SEEN_THINGS, STUFF, strict=False)]  # fmt: skip
    assert torch.equal(tokenizer.token_ids[tokenizer(texts)], full(texts))
    known = set(tokenizer.token_ids.tolist())
    assert known >= {token for name in HELD_OUT for token in full.encode(name)}, "other words have taught each token"
