"""Training of Emoji CLIP: learning, resumption and weights."""

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cliptrase_d2.clip.embedded import NAME
from cliptrase_d2.clip.load import load_clip
from cliptrase_d2.clip.tokenizer import get_tokenizer
from cliptrase_d2.data.emoji_scenes.names import HELD_OUT, SEEN_THINGS, STUFF
from cliptrase_d2.utils.errors import InputError
from tools.emoji_clip import train as tool
from tools.emoji_clip.batches import Canvases, Window

SMALL = (Window(14, 4, 0.5, 0.5, 1, 0), Window(4, 16, 0.8, 1, 1, 1))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "WINDOWS", SMALL)


def arguments(output: Path, *more: str) -> argparse.Namespace:
    words = ["--output", str(output), "--canvases", "6", "--steps", "6", "--device", "cpu", *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *words])
        return tool.parse_arguments()


def test_resumed_training_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.main(arguments(tmp_path / "uninterrupted"))
    save = tool.Training.save

    def save_and_stop(training: tool.Training) -> None:
        save(training)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tool.Training, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            tool.main(arguments(tmp_path / "resumed", "--save-every", "4"))
    tool.main(arguments(tmp_path / "resumed", "--save-every", "4"))
    expected, resumed = (load_file(tmp_path / name / f"{NAME}.safetensors") for name in ("uninterrupted", "resumed"))
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    steps = [json.loads(line)["step"] for line in (tmp_path / "resumed" / "log.jsonl").read_text().splitlines()]
    assert steps == [4, 6]


def test_other_settings_are_rejected(tmp_path: Path) -> None:
    tool.main(arguments(tmp_path, "--steps", "1"))
    with pytest.raises(InputError, match=r"checkpoint\.pt: .*'seed': 0.*'seed': 5"):
        tool.main(arguments(tmp_path, "--steps", "1", "--seed", "5"))


def test_weights_fit_the_packaged_model(tmp_path: Path) -> None:
    tool.main(arguments(tmp_path, "--steps", "1"))
    file = tmp_path / f"{NAME}.safetensors"
    dtypes = {name: value.dtype for name, value in load_file(file).items()}
    assert dtypes.pop("token_embedding.token_ids") == torch.int32
    assert set(dtypes.values()) == {torch.float16}
    model, report = load_clip(NAME, str(file))
    assert report.missing == report.unexpected == report.random == ()
    tokens = get_tokenizer(NAME)(["a photo of a fox on grass."])
    training = tool.Training(arguments(tmp_path, "--steps", "1"), rank=0, world=1)
    training.resume()
    expected = training.model.encode_text(training.tokenizer(["a photo of a fox on grass."]))
    torch.testing.assert_close(model.encode_text(tokens), expected.detach(), atol=2e-2, rtol=0)


def test_loss_decreases_on_one_batch(tmp_path: Path) -> None:
    training = tool.Training(arguments(tmp_path, "--steps", "1000", "--from-patch", "0"), rank=0, world=1)
    canvases = Canvases(6, 0, SMALL, tool.TEMPLATES)
    batch = next(b for b in (canvases.batch(step, 1.0, 8) for step in range(9)) if len(b.captions) > 8)
    canvases.batch = lambda *_: batch  # type: ignore[method-assign]
    losses = [training.advance(canvases)[1] for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_compact_tokenizer_covers_all_texts_of_the_training() -> None:
    tokenizer = tool.CompactTokenizer(get_tokenizer(NAME))
    full = get_tokenizer(NAME)
    texts = [template.format(f"{thing} and a {thing} on {stuff} and {stuff}") for template in set(tool.TEMPLATES)
             for thing, stuff in zip(SEEN_THINGS, STUFF, strict=False)]  # fmt: skip
    assert torch.equal(tokenizer.token_ids[tokenizer(texts)], full(texts))
    known = set(tokenizer.token_ids.tolist())
    assert known >= {token for name in HELD_OUT for token in full.encode(name)}, "other words contain these tokens"
