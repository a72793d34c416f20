"""The picture of the stages: its panels and its errors."""

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


def test_first_panel_is_the_image_with_a_frame(segmenter: Segmenter, image: str) -> None:
    picture = make_picture.draw(segmenter, image, CLASSES, (70, 20), 96)
    caption = len(picture) - 96
    assert caption > 0
    changed = (picture[caption:, :128] != np.asarray(Image.open(image))).any(2)
    # The patch of 16 pixels under (70, 20) begins at (64, 16); its frame is two pixels wide.
    assert np.argwhere(changed).min(0).tolist() == [14, 62]
    assert np.argwhere(changed).max(0).tolist() == [33, 81]
    assert not changed[16:32, 64:80].any()


@pytest.mark.parametrize(("protocol", "short_side", "width"), [("whole", 96, 256), ("center_crop", 64, 192)])
def test_four_panels_and_a_legend_form_a_row(image: str, protocol: str, short_side: int, width: int) -> None:
    segmenter = Segmenter(model=tiny_segmenter(), protocol=protocol, short_side=short_side, max_size=256)
    picture = make_picture.draw(segmenter, image, CLASSES, (0, 0) if protocol == "whole" else (63, 63), 192)
    assert picture.shape[1] > 4 * width + 3 * 12
    for left in (width * count + 12 * (count - 1) for count in (1, 2, 3)):
        assert (picture[:, left : left + 12] == 255).all()
        assert (picture[-192:, left - 1] < 255).any()


@pytest.mark.parametrize("point", [(128, 0), (0, 96), (-1, 0)])
def test_point_outside_the_image_is_rejected(segmenter: Segmenter, image: str, point: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"128.*96"):
        make_picture.draw(segmenter, image, CLASSES, point, 96)


def test_main_writes_the_picture_or_an_error(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, output = tmp_path / "empty.yaml", tmp_path / "new" / "stages.png"
    words = ["make_picture.py", "--config-file", str(config), "--image", image, "--classes", *CLASSES, "--point", "5,5"]
    words += ["--output", str(output), "--", *tiny_options(tmp_path), "TEST.PROTOCOL", "whole"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match=r"^error: .*empty\.yaml"):
        make_picture.main()
    config.write_text("{}")
    make_picture.main()
    with Image.open(output) as written:
        assert f"{output}: {written.width}x{written.height} pixels" in capsys.readouterr().out
