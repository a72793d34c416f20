"""The picture of the stages has four panels, and says where it cannot be drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from tests.pipeline.tiny_segmenter import scene, tiny_options, tiny_segmenter
from tools import make_picture

CLASSES = ["sky", "grass", "brick wall", "circle"]


@pytest.fixture
def image(tmp_path: Path) -> str:
    """A drawn scene, 128 pixels wide and 96 high."""
    path = tmp_path / "scene.png"
    Image.fromarray(scene().permute(1, 2, 0).numpy()).save(path)
    return str(path)


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(model=tiny_segmenter(), protocol="whole", short_side=96, max_size=256)


def test_the_first_panel_is_the_image_and_a_frame(segmenter: Segmenter, image: str) -> None:
    picture = make_picture.stages(segmenter, image, CLASSES, (70, 20), 96)
    caption = len(picture) - 96
    assert caption > 0
    first, given = picture[caption:, :128], np.asarray(Image.open(image))
    changed = (first != given).any(2)
    # The patch of 16 pixels under (70, 20) begins at (64, 16); its frame is two pixels wide.
    assert np.argwhere(changed).min(0).tolist() == [14, 62]
    assert np.argwhere(changed).max(0).tolist() == [33, 81]
    assert not changed[16:32, 64:80].any()


def test_four_panels_and_a_legend_stand_in_a_row(segmenter: Segmenter, image: str) -> None:
    picture = make_picture.stages(segmenter, image, CLASSES, (0, 0), 192)
    gaps = [256 * count + 12 * (count - 1) for count in (1, 2, 3)]
    assert picture.shape[1] > 4 * 256 + 3 * 12
    for left in gaps:
        assert (picture[:, left : left + 12] == 255).all()


def test_a_crop_is_explained_as_it_is_seen(image: str) -> None:
    segmenter = Segmenter(model=tiny_segmenter(), protocol="center_crop", short_side=64, max_size=256)
    picture = make_picture.stages(segmenter, image, CLASSES, (63, 63), 192)
    assert (picture[:, 192:204] == 255).all()  # the first panel is square
    assert (picture[-192:, 191] < 255).any()


@pytest.mark.parametrize("point", [(128, 0), (0, 96), (-1, 0)])
def test_a_point_outside_the_image_is_refused(segmenter: Segmenter, image: str, point: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="128x96 pixels"):
        make_picture.stages(segmenter, image, CLASSES, point, 96)


def test_main_writes_the_picture(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, output = tmp_path / "empty.yaml", tmp_path / "new" / "stages.png"
    config.write_text("{}")
    words = ["--config-file", str(config), "--image", image, "--classes", *CLASSES, "--point", "5,5"]
    words += ["--output", str(output), "--", *tiny_options(tmp_path), "TEST.PROTOCOL", "whole"]
    monkeypatch.setattr(sys, "argv", ["make_picture.py", *words])
    make_picture.main()
    with Image.open(output) as written:
        assert f"{output}: {written.width}x{written.height} pixels" in capsys.readouterr().out


def test_main_ends_a_bad_input_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--config-file", str(tmp_path / "none.yaml"), "--output", str(tmp_path / "a.png")]
    monkeypatch.setattr(sys, "argv", ["make_picture.py", *words])
    with pytest.raises(SystemExit, match=r"^error: .*none\.yaml"):
        make_picture.main()
