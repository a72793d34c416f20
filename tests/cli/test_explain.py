"""`cliptrase explain`: pictures, options and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.cli.explain import select_layers
from cliptrase_d2.data.emoji_scenes.names import CLASSES
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.segmenter.explanation import explain
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.overlay import labels_at_size
from tests.cli.commands import fail, run
from tests.command_line import ROOT
from tests.pipeline.tiny_segmenter import tiny_options

EMOJI = ROOT / "configs" / "emoji_scenes_whole.yaml"
SCENE = ROOT / "datasets" / "emoji_scenes" / "images" / "seen_008.webp"


@pytest.fixture
def image(tmp_path: Path) -> str:
    """A file of 70x50 pixels."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of ``draw_correlation``, which is replaced."""
    calls: list[dict[str, Any]] = []

    def draw(picture: np.ndarray, patch: tuple[int, int], *_: np.ndarray, **options: Any) -> np.ndarray:
        calls.append({"shape": picture.shape, "patch": patch, **options})
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("cliptrase_d2.visualization.explanation.draw_correlation", draw)
    return calls


def test_two_pictures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "folder"
    assert run("explain", str(SCENE), "--point", "215,60", "--model", "emoji", "--output", str(folder)) == 0
    correlation, clusters = folder / "seen_008_correlation.png", folder / "seen_008_clusters.png"
    assert set(folder.iterdir()) == {correlation, clusters}
    assert f"{correlation}: patch in row 4, column 14, 3 layers" in capsys.readouterr().out
    for path in (correlation, clusters):
        with Image.open(path) as picture:
            assert picture.width > picture.height > 500


def test_recovered_correlation_follows_the_object_and_attention_does_not() -> None:
    """The embedded model shows the effect of Figure 2: the point lies on stripes, a quarter of the picture."""
    explanation = explain(Segmenter.from_config(EMOJI), SCENE, (215, 60))
    labels = read_label(SCENE.parents[1] / "annotations" / "seen_008.png")
    stripes = (labels_at_size(labels, (14, 14)) == CLASSES.index("stripes")).ravel()
    assert 0.1 < stripes.mean() < 0.5

    def precision(maps: np.ndarray) -> float:
        """The share of stripes among as many of the highest patches as there are stripes."""
        return stripes[np.argsort(-maps[explanation.block].ravel())[: stripes.sum()]].mean()

    assert precision(explanation.recovered) > 0.8
    assert precision(explanation.attention) < 0.2
    assert (explanation.clusters < 0).mean() < (explanation.clusters_before < 0).mean() / 2


def test_the_default_point_is_the_image_centre(
    image: str, tmp_path: Path, drawn: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("explain", image, "--output", str(tmp_path), "--opts", *tiny_options(tmp_path)) == 0
    assert "35,25" in capsys.readouterr().out
    # The model sees 70x50 pixels as 6x4 patches: the centre of pixel 35 is in column 3, that of pixel 25 in row 2.
    assert drawn == [
        {"shape": (50, 70, 3), "patch": (2, 3), "layers": range(3), "clustered": 1, "note": "tiny-vit, random weights"}
    ]


def test_layers_and_protocol_can_be_chosen(image: str, tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    options = ("--output", str(tmp_path), "--point", "20,49", "--protocol", "center_crop", "--layers", "3,1-2,2")
    assert run("explain", image, *options, "--opts", *tiny_options(tmp_path)) == 0
    assert (drawn[0]["shape"], drawn[0]["patch"], drawn[0]["layers"]) == ((64, 64, 3), (3, 0), [2, 0, 1])


def test_layers_must_exist_and_default_to_the_last_twelve() -> None:
    assert select_layers(None, 24) == range(12, 24)
    assert select_layers([24, 1], 24) == [23, 0]
    for numbers in ([0, 1], [1, 25], []):
        with pytest.raises(InputError, match=r"--layers.*1 to 24"):
            select_layers(numbers, 24)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["missing.jpg"], "missing.jpg"),
        (["notes.txt"], "notes.txt"),
        (["a.png", "--point", "70,0"], "70,0 in an image of 70x50 pixels"),
        (["a.png", "--point", "3;4"], "--point: '3;4'"),
        (["a.png", "--point", "0,0", "--protocol", "center_crop"], "0,0 in an image of 70x50 pixels"),
        (["a.png", "--layers", "1-"], "--layers: '1-'"),
        (["a.png", "--layers", "4"], "--layers: 4"),
        (["a.png", "--output", "notes.txt"], "--output"),
        (["a.png", "--output", "taken"], "a_correlation.png"),
        (["a.png", "--opts", "INPUT.MAX_PIXELS", "9"], "a.png: 70 x 50 = 3,500 pixels"),
    ],
)
def test_input_errors_name_the_argument(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str
) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "taken" / "a_correlation.png").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    options = [] if "--opts" in argv else ["--opts"]
    assert message in fail("explain", *argv, *options, *tiny_options(tmp_path))
