"""`cliptrase warm-start`: what it writes, what it says, and that a training starts from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from cliptrase_d2.cli.main import main
from cliptrase_d2.segmenter.build import build_segmenter
from tests.drawn_scenes import CLASSES, write_scenes
from tests.pipeline.tiny_segmenter import tiny_options
from tests.san.tiny_san import TINY_SAN, tiny_san_config
from tests.san.tiny_training import OPTIONS


def warm_start(folder: Path, *words: str) -> Path:
    """The command on five drawn scenes; returns what it writes."""
    write_scenes(folder, 5)
    description = {"name": f"warm_{folder.name}", "images": "images", "classes": list(CLASSES)}
    (folder / "scenes.yaml").write_text(yaml.safe_dump(description))
    (folder / "san.yaml").write_text("MODEL: {META_ARCHITECTURE: SAN}\n")
    output = folder / "init.pth"
    options = [*tiny_options(folder), *TINY_SAN, *OPTIONS]
    files = ["--config-file", str(folder / "san.yaml"), "--dataset", str(folder / "scenes.yaml")]
    with pytest.raises(SystemExit) as done:
        main(["warm-start", *files, "--output", str(output), *words, "--", *options])
    assert done.value.code == 0
    return output


def test_it_writes_queries_and_says_what_made_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(warm_start(tmp_path), weights_only=True)
    assert list(content) == ["model"]
    assert {name: list(value.shape) for name, value in content["model"].items()} == {
        "side_adapter_network.query_embed": [1, 6, 24]
    }
    said = capsys.readouterr().out
    assert "6 queries of width 24 from " in said
    assert "masks of 5 images" in said
    assert "MODEL.WEIGHTS" in said


def test_a_model_takes_it(tmp_path: Path) -> None:
    path = warm_start(tmp_path)
    queries = torch.load(path, weights_only=True)["model"]["side_adapter_network.query_embed"]
    model = build_segmenter(tiny_san_config(tmp_path, "MODEL.WEIGHTS", str(path)))
    assert torch.equal(model.side_adapter_network.query_embed.data, queries)  # type: ignore[union-attr, operator]


def test_twice_it_writes_the_same(tmp_path: Path) -> None:
    first = torch.load(warm_start(tmp_path), weights_only=True)["model"]
    second = torch.load(warm_start(tmp_path), weights_only=True)["model"]
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "init.txt"], "ends with .pth"),
        (["--output", "init.pth"], "Give --dataset"),
        (["--output", "init.pth", "--dataset", "unheard_of"], "unheard_of"),
        (["--output", "init.pth", "--dataset", "missing.yaml"], "missing.yaml"),
    ],
)
def test_what_it_cannot_do_ends_in_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "san.yaml").write_text("MODEL: {META_ARCHITECTURE: SAN}\n")
    with pytest.raises(SystemExit, match=r"^error: ") as done:
        main(["warm-start", "--config-file", str(tmp_path / "san.yaml"), *words, "--", *tiny_options(tmp_path)])
    assert message in str(done.value)
