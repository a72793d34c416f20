"""`cliptrase warm-start`: the checkpoint, its use as weights, and errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from cliptrase_d2.segmenter.build import build_segmenter
from tests.cli.commands import fail, run
from tests.drawn_scenes import CLASSES, write_scenes
from tests.pipeline.tiny_segmenter import tiny_options
from tests.san.tiny_san import TINY_SAN, TRAINING_OPTIONS, tiny_san_config


def warm_start(folder: Path) -> torch.Tensor:
    """Run the command on five drawn scenes and return the queries that it writes to ``init.pth``."""
    write_scenes(folder, 5)
    description = {"name": f"warm_{folder.name}", "images": "images", "classes": list(CLASSES)}
    (folder / "scenes.yaml").write_text(yaml.safe_dump(description))
    (folder / "san.yaml").write_text("MODEL: {META_ARCHITECTURE: SAN}\n")
    files = ["--config-file", str(folder / "san.yaml"), "--dataset", str(folder / "scenes.yaml")]
    options = [*tiny_options(folder), *TINY_SAN, *TRAINING_OPTIONS]
    assert run("warm-start", *files, "--output", str(folder / "init.pth"), "--overwrite", "--", *options) == 0
    content = torch.load(folder / "init.pth", weights_only=True)
    assert list(content) == ["model"]
    assert list(content["model"]) == ["side_adapter_network.query_embed"]
    return content["model"]["side_adapter_network.query_embed"]


def test_the_checkpoint_initialises_the_queries_of_a_san(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queries = warm_start(tmp_path)
    assert torch.equal(warm_start(tmp_path), queries)
    assert queries.shape == (1, 6, 24)
    output = capsys.readouterr().out
    assert "6 queries of width 24 from " in output
    assert "masks of 5 images" in output
    model = build_segmenter(tiny_san_config(tmp_path, "MODEL.WEIGHTS", str(tmp_path / "init.pth")))
    assert torch.equal(model.side_adapter_network.query_embed.data, queries)  # type: ignore[union-attr, operator]


def test_the_closed_form_segments_without_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path, 5)
    description = {"name": f"closed_{tmp_path.name}", "images": "images", "classes": list(CLASSES)}
    (tmp_path / "scenes.yaml").write_text(yaml.safe_dump(description))
    (tmp_path / "san.yaml").write_text("MODEL: {META_ARCHITECTURE: SAN, SAN: {QUERY_INIT: closed_form}}\n")
    files = ["--config-file", str(tmp_path / "san.yaml"), "--dataset", str(tmp_path / "scenes.yaml")]
    options = [*tiny_options(tmp_path), *TINY_SAN, *TRAINING_OPTIONS]
    assert run("warm-start", *files, "--output", str(tmp_path / "init.pth"), "--", *options) == 0
    assert "masks of 5 images" in capsys.readouterr().out
    content = torch.load(tmp_path / "init.pth", weights_only=True)["model"]
    cfg = tiny_san_config(tmp_path, "MODEL.WEIGHTS", str(tmp_path / "init.pth"), "MODEL.SAN.ALLOW_UNTRAINED", "False")
    weights = build_segmenter(cfg).state_dict()  # an error if it counted as untrained
    assert all(torch.equal(weights[name], value) for name, value in content.items())
    names = {name for name in weights if name.startswith("side_adapter_network.")}
    assert content.keys() == names | {"ov_classifier.bg_embed"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--output", "init.txt"], "--output: init.txt"),
        (["--output", "init.pth"], "--dataset"),
        (["--output", "init.pth", "--dataset", "unknown_name"], "--dataset: unknown data set 'unknown_name'"),
        (["--output", "init.pth", "DATASETS.TRAIN", "('unknown',)"], "DATASETS.TRAIN: unknown data set 'unknown'"),
        (["--output", "init.pth", "--dataset", "missing.yaml"], "missing.yaml"),
    ],
)
def test_input_errors_name_the_argument(tmp_path: Path, argv: list[str], message: str) -> None:
    (tmp_path / "san.yaml").write_text("MODEL: {META_ARCHITECTURE: SAN}\n")
    options = tiny_options(tmp_path)
    assert message in fail("warm-start", "--config-file", str(tmp_path / "san.yaml"), *argv, "--", *options)
