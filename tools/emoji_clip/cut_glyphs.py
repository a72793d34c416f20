"""Cut the things of the emoji scenes from the font Noto Color Emoji, and put them on one sheet.

    python tools/emoji_clip/cut_glyphs.py /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf OUTPUT

The sheet in the package is cut from version 2.042 of the font (Debian: fonts-noto-color-emoji); other versions have
other pictures, and every scene would change with them. See GLYPHS_LICENSE.txt beside the sheet.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cliptrase_d2.data.emoji_scenes.names import GLYPHS
from cliptrase_d2.data.emoji_scenes.scene import GLYPH_SIDE, SHEET_COLUMNS
from cliptrase_d2.utils.errors import InputError

FONT_SIZE = 109  # the one size that the font has pictures of
WIDTH, HEIGHT = 136, 128  # of those, in pixels


def cut_glyphs(font_file: Path) -> Image.Image:
    """The sheet of glyphs: RGBA, in the order of `GLYPHS`.

    Raises:
        InputError: no such file, or another font.
    """
    font = _read_font(font_file)
    rows = -(-len(GLYPHS) // SHEET_COLUMNS)
    sheet = Image.new("RGBA", (SHEET_COLUMNS * GLYPH_SIDE, rows * GLYPH_SIDE))
    margin = (WIDTH - GLYPH_SIDE) // 2
    for index, character in enumerate(GLYPHS.values()):
        glyph = Image.new("RGBA", (WIDTH, HEIGHT))
        ImageDraw.Draw(glyph).text((0, 0), character, font=font, embedded_color=True)
        row, column = divmod(index, SHEET_COLUMNS)
        sheet.paste(glyph.crop((margin, 0, WIDTH - margin, HEIGHT)), (column * GLYPH_SIDE, row * GLYPH_SIDE))
    return sheet


def _read_font(path: Path) -> ImageFont.FreeTypeFont:
    allowed, fix = (
        "NotoColorEmoji.ttf, with pictures of 136x128 pixels",
        "Install fonts-noto-color-emoji.",
    )
    try:
        font = ImageFont.truetype(path, FONT_SIZE)
    except OSError as error:
        raise InputError(path, f"unreadable as a font of pictures ({error})", fix, allowed=allowed) from error
    family, _ = font.getname()
    if family != "Noto Color Emoji":
        raise InputError(path, f"the font {family}", fix, allowed=allowed)
    return font


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("font", type=Path, help="NotoColorEmoji.ttf")
    parser.add_argument("output", type=Path, help="PNG file; the package's is data/emoji_scenes/glyphs.png")
    args = parser.parse_args()
    try:
        cut_glyphs(args.font).save(args.output, "PNG", optimize=True)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{len(GLYPHS)} glyphs: {args.output}")


if __name__ == "__main__":
    main()
