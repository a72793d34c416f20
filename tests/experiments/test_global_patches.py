"""Measurement of global patches: every layer, files, and refused arguments."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from cliptrase_d2.data.protocol import Protocol
from cliptrase_d2.pipeline.settings import CLIPtraseSettings
from cliptrase_d2.utils.errors import InputError
from experiments import global_patches
from tests.clip.tiny import register_tiny
from tests.drawn_scenes import write_scenes
from tests.pipeline.tiny_segmenter import tiny_options, tiny_segmenter


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a command line with the tiny model of three layers on two scenes. Tests append to it."""
    (tmp_path / "empty.yaml").write_text("{}")
    images = write_scenes(tmp_path / "scenes", 2).parent / "images"
    argv = ["global_patches.py", "--config-file", str(tmp_path / "empty.yaml"), "--images", str(images)]
    argv += ["--output", str(tmp_path / "out"), "--model", register_tiny(tmp_path), "--pretrained", ""]
    monkeypatch.setattr(sys, "argv", argv)
    return argv


def run(words: list[str], tmp_path: Path) -> None:
    words += ["--", *tiny_options(tmp_path)]
    global_patches.main()


def test_main_writes_table_numbers_and_picture(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    run(words, tmp_path)
    text = (tmp_path / "out" / "global_patches.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    assert "2 images, short side 64" in text
    with (tmp_path / "out" / "global_patches.csv").open(encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["layer"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert 0 < row["to_class_token"] < 100
        for kind in global_patches.KINDS:
            assert row["uniform_top_share"] <= row[f"{kind}_top_share"] < 100
    with Image.open(tmp_path / "out" / "global_patches.png") as picture:
        assert picture.width > picture.height > 300


def test_without_matplotlib_it_needs_no_plot(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"matplotlib.*--no-plot"):
        global_patches.main()
    words.append("--no-plot")
    run(words, tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["global_patches.csv", "global_patches.md"]


def test_numbers_are_means_over_the_images(tmp_path: Path) -> None:
    files = sorted(str(path) for path in (write_scenes(tmp_path, 2).parent / "images").iterdir())
    protocol, tower = Protocol("whole", 64, 128, 16), tiny_segmenter().tower
    both = global_patches.measure_layers(tower, CLIPtraseSettings(), protocol, files)
    alone = [global_patches.measure_layers(tower, CLIPtraseSettings(), protocol, [file]) for file in files]
    for layer, (first, second) in enumerate(zip(*alone, strict=True)):
        for name in first:
            assert both[layer][name] == pytest.approx((first[name] + second[name]) / 2)


def test_a_global_patch_stands_out_in_the_attention_and_not_in_the_correlation() -> None:
    # Every query matches the key of token 5; q, k and v are random otherwise.
    generator = torch.Generator().manual_seed(0)
    query, key, value = (0.1 * torch.randn(1, 2, 41, 8, generator=generator) for _ in range(3))
    query[..., 0], key[:, :, 5, 0] = 5.0, 5.0
    numbers = global_patches.measure_layer(query, key, value, CLIPtraseSettings())
    assert numbers["attention_top_share"] > 90
    assert numbers["attention_global"] == 1
    assert numbers["correlation_global"] == 0
    assert numbers["uniform_top_share"] == pytest.approx(5)  # 2 of 40


def test_top_share_and_number_of_global_patches() -> None:
    received = torch.full((2, 20), 1 / 20)
    received[0] = 0.6 / 19
    received[0, 7] = 0.4  # eight times the uniform share
    torch.testing.assert_close(global_patches.top_share(received), torch.tensor([0.4, 1 / 20]))  # k = 1 of 20
    torch.testing.assert_close(global_patches.top_share(received, 0.11)[1], torch.tensor(3 / 20))
    assert global_patches.global_count(received).tolist() == [1, 0]
    counts = {patches: global_patches.top_count(patches) for patches in (20, 21, 100, 196, 1)}
    assert counts == {20: 1, 21: 2, 100: 5, 196: 10, 1: 1}  # a twentieth, rounded up


def test_class_token_share_is_the_mean_over_patches() -> None:
    attention = torch.tensor([[[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]]])
    assert float(global_patches.class_token_share(attention)) == pytest.approx(0.4)


@pytest.mark.parametrize("flags", [["--model", "ViT-B-16"], ["--pretrained", "openai"], ["--limit", "0"]])
def test_incomplete_arguments_are_refused(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["global_patches.py", *flags])
    with pytest.raises(SystemExit):
        global_patches.parse_arguments()


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        global_patches.image_files(None, tmp_path, 5)  # type: ignore[arg-type]
