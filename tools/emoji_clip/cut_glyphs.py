"""Cut the things of the emoji scenes from the font Noto Color Emoji, and write them to one image.

    python tools/emoji_clip/cut_glyphs.py /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf OUTPUT

The package contains the glyphs of version 2.042 of the font (Debian: fonts-noto-color-emoji). Other versions have other
glyphs, which would change every scene. See GLYPHS_LICENSE.txt in the folder of the image.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cliptrase_d2.data.emoji_scenes.names import GLYPHS
from cliptrase_d2.data.emoji_scenes.scene import GLYPH_SIDE, SHEET_COLUMNS
from cliptrase_d2.utils.errors import InputError

FONT_SIZE = 109  # the only size of the font's bitmaps
WIDTH, HEIGHT = 136, 128  # of the bitmaps, in pixels
_FIX = "Pass NotoColorEmoji.ttf of the package fonts-noto-color-emoji."


def cut_glyphs(font_file: Path) -> Image.Image:
    """Draw the glyphs in one image: RGBA, in the order of `GLYPHS`.

    Raises:
        InputError: no such file, or another font.
    """
    try:
        font = ImageFont.truetype(font_file, FONT_SIZE)
    except OSError as error:
        raise InputError(font_file, f"not a readable bitmap font ({error})", _FIX) from error
    if font.getname()[0] != "Noto Color Emoji":
        raise InputError(font_file, f"the font {font.getname()[0]}", _FIX)
    rows = -(-len(GLYPHS) // SHEET_COLUMNS)
    sheet = Image.new("RGBA", (SHEET_COLUMNS * GLYPH_SIDE, rows * GLYPH_SIDE))
    margin = (WIDTH - GLYPH_SIDE) // 2
    for index, character in enumerate(GLYPHS.values()):
        glyph = Image.new("RGBA", (WIDTH, HEIGHT))
        ImageDraw.Draw(glyph).text((0, 0), character, font=font, embedded_color=True)
        row, column = divmod(index, SHEET_COLUMNS)
        sheet.paste(glyph.crop((margin, 0, WIDTH - margin, HEIGHT)), (column * GLYPH_SIDE, row * GLYPH_SIDE))
    return sheet


def main() -> None:
    """Write the image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("font", type=Path, help="NotoColorEmoji.ttf")
    parser.add_argument("output", type=Path, help="PNG file; data/emoji_scenes/glyphs.png in the package")
    args = parser.parse_args()
    try:
        cut_glyphs(args.font).save(args.output, "PNG", optimize=True)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{len(GLYPHS)} glyphs: {args.output}")


if __name__ == "__main__":
    main()
