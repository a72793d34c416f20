import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFont

from cliptrase_d2.data.emoji_scenes.scene import read_glyph_sheet
from cliptrase_d2.utils.errors import InputError
from tools.emoji_clip import cut_glyphs

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


def test_glyphs_of_the_package_are_those_of_the_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not FONT.is_file() or b"Version 2.042" not in FONT.read_bytes().replace(b"\0", b""):
        pytest.skip(f"{FONT} of version 2.042 is not installed")
    monkeypatch.setattr(sys, "argv", ["cut_glyphs.py", str(FONT), str(tmp_path / "sheet.png")])
    cut_glyphs.main()
    assert np.array_equal(read_glyph_sheet(tmp_path / "sheet.png"), read_glyph_sheet())


def test_missing_font_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["cut_glyphs.py", str(tmp_path / "none.ttf"), str(tmp_path / "sheet.png")])
    with pytest.raises(SystemExit, match=r"error: .*none\.ttf"):
        cut_glyphs.main()
    assert not (tmp_path / "sheet.png").exists()


def test_other_files_and_fonts_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "picture.png")
    with pytest.raises(InputError, match=r"picture\.png"):
        cut_glyphs.cut_glyphs(tmp_path / "picture.png")
    letters = SimpleNamespace(getname=lambda: ("DejaVu Sans", "Book"))
    monkeypatch.setattr(ImageFont, "truetype", lambda path, size: letters)
    with pytest.raises(InputError, match="DejaVu Sans"):
        cut_glyphs.cut_glyphs(tmp_path / "letters.ttf")
