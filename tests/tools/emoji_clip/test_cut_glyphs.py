from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from cliptrase_d2.data.emoji_scenes.scene import read_glyph_sheet
from cliptrase_d2.utils.errors import InputError
from tools.emoji_clip import cut_glyphs

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


def test_sheet_of_the_package_is_cut_from_the_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not FONT.is_file() or b"Version 2.042" not in FONT.read_bytes().replace(b"\0", b""):
        pytest.skip(f"{FONT} of version 2.042 is not on this machine")
    monkeypatch.setattr(sys, "argv", ["cut_glyphs.py", str(FONT), str(tmp_path / "sheet.png")])
    cut_glyphs.main()
    assert np.array_equal(read_glyph_sheet(tmp_path / "sheet.png"), read_glyph_sheet())


def test_no_such_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["cut_glyphs.py", str(tmp_path / "none.ttf"), str(tmp_path / "sheet.png")])
    with pytest.raises(SystemExit, match=r"error: .*none\.ttf: unreadable as a font of pictures"):
        cut_glyphs.main()
    assert not (tmp_path / "sheet.png").exists()


def test_file_that_is_no_font(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "picture.png")
    with pytest.raises(InputError, match="unreadable"):
        cut_glyphs.cut_glyphs(tmp_path / "picture.png")


def test_font_of_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Letters:
        def getname(self) -> tuple[str, str]:
            return "DejaVu Sans", "Book"

    monkeypatch.setattr(ImageFont, "truetype", lambda path, size: Letters())
    with pytest.raises(InputError, match="the font DejaVu Sans"):
        cut_glyphs.cut_glyphs(tmp_path / "letters.ttf")
