"""`cliptrase explain`: what it writes and says, and how it says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.cli import explain
from cliptrase_d2.cli.main import main
from cliptrase_d2.data.emoji_scenes.names import CLASSES
from cliptrase_d2.data.images import read_label
from cliptrase_d2.segmenter import explanation
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.overlay import labels_at_size
from tests.command_line import ROOT
from tests.pipeline.tiny_segmenter import tiny_options

EMOJI = ROOT / "configs" / "emoji_scenes.yaml"
SCENE = ROOT / "datasets" / "emoji_scenes" / "images" / "seen_008.webp"


def run(*words: str) -> object:
    """The command; its exit code or last line."""
    with pytest.raises(SystemExit) as end:
        main(["explain", *words])
    return end.value.code


@pytest.fixture
def image(tmp_path: Path) -> str:
    """A file of 70x50 pixels."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the picture of the correlation is drawn of, and an empty picture in its place."""
    found: list[dict[str, Any]] = []

    def draw(picture: np.ndarray, patch: tuple[int, int], *_: np.ndarray, **named: Any) -> np.ndarray:
        found.append({"shape": picture.shape, "patch": patch, **named})
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("cliptrase_d2.visualization.explanation.correlation_picture", draw)
    return found


def test_two_pictures_of_a_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "folder"
    assert run(str(SCENE), "--point", "215,60", "--model", "emoji", "--output", str(folder)) == 0
    correlation, clusters = folder / "seen_008_correlation.png", folder / "seen_008_clusters.png"
    assert set(folder.iterdir()) == {correlation, clusters}
    assert capsys.readouterr().out.splitlines() == [
        f"{correlation}: patch in row 4, column 14, 3 layers",
        f"{clusters}: clusters and masks before and after denoising",
    ]
    for path in (correlation, clusters):
        with Image.open(path) as picture:
            assert picture.width > picture.height > 500


def test_a_striped_corner_is_alike_to_all_stripes_and_looks_elsewhere() -> None:
    """The embedded model has meaning: what Figure 2 shows of CLIP holds of it."""
    found = explanation.explain(Segmenter.from_config(EMOJI), SCENE, (215, 60))
    labels = read_label(SCENE.parents[1] / "annotations" / "seen_008.png")
    stripes = labels_at_size(labels, (14, 14)) == CLASSES.index("stripes")
    assert 0.1 < stripes.mean() < 0.5
    attended, recovered = (maps[found.block] for maps in (found.attention, found.recovered))
    count = int(stripes.sum())
    best = {
        name: np.argsort(-values.ravel())[:count] for name, values in (("attended", attended), ("recovered", recovered))
    }
    share = {name: float(stripes.ravel()[places].mean()) for name, places in best.items()}
    assert share["recovered"] > 0.8
    assert share["attended"] < 0.2
    assert (found.clusters < 0).mean() < (found.clusters_before < 0).mean() / 2


def test_without_a_point_the_middle_is_explained_and_said(
    image: str, tmp_path: Path, drawn: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(image, "--output", str(tmp_path), "--opts", *tiny_options(tmp_path)) == 0
    assert "No --point: the middle of the image, 35,25." in capsys.readouterr().out
    # 70x50 pixels are seen as 6x4 patches, of which the middle of pixel 35 lies in number 3, that of 25 in number 2.
    assert drawn == [
        {"shape": (50, 70, 3), "patch": (2, 3), "layers": range(3), "clustered": 1, "note": "tiny-vit, random weights"}
    ]


def test_layers_and_protocol_of_ones_own(image: str, tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    words = ("--output", str(tmp_path), "--point", "20,49", "--protocol", "center_crop", "--layers", "3,1-2,2")
    assert run(image, *words, "--opts", *tiny_options(tmp_path)) == 0
    assert drawn[0]["shape"] == (64, 64, 3)
    assert drawn[0]["patch"] == (3, 0)
    assert drawn[0]["layers"] == [2, 0, 1]


def test_of_a_deep_model_the_last_twelve_layers_are_drawn() -> None:
    assert explain._layers(None, 24) == range(12, 24)
    assert explain._layers([24, 1], 24) == [23, 0]


@pytest.mark.parametrize("numbers", [[0, 1], [1, 25], []])
def test_layers_that_a_model_has_not_are_refused(numbers: list[int]) -> None:
    with pytest.raises(InputError, match=r"--layers: .* 1 to 24, for the model has 24 layers"):
        explain._layers(numbers, 24)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.jpg"], "missing.jpg: no such file"),
        (["notes.txt"], "notes.txt: unreadable"),
        (
            ["a.png", "--point", "70,0"],
            "point: 70,0 in an image of 70x50 pixels. Allowed: x of 0 to 69 and y of 0 to 49",
        ),
        (["a.png", "--point", "3;4"], "--point: '3;4'"),
        (["a.png", "--point", "0,0", "--protocol", "center_crop"], "the square in its middle"),
        (["a.png", "--layers", "1-"], "--layers: '1-'"),
        (["a.png", "--layers", "4"], "--layers: 4. Allowed: 1 to 3"),
        (["a.png", "--output", "notes.txt"], "--output"),
    ],
)
def test_what_cannot_be_ends_in_one_line(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    said = str(run(*words, "--opts", *tiny_options(tmp_path)))
    assert said.startswith("error: ")
    assert message in said


def test_an_image_of_more_pixels_than_allowed_is_named(image: str, tmp_path: Path) -> None:
    said = str(run(image, "--output", str(tmp_path), "--opts", *tiny_options(tmp_path), "INPUT.MAX_PIXELS", "9"))
    assert "Allowed: at most 9 pixels" in said


def test_a_picture_that_cannot_be_written_is_named(image: str, tmp_path: Path) -> None:
    (tmp_path / "a_correlation.png").mkdir()
    said = str(run(image, "--output", str(tmp_path), "--opts", *tiny_options(tmp_path)))
    assert "a_correlation.png: cannot be written (Is a directory)" in said
