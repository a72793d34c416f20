"""Classes of the emoji scenes: things, stuff, and those that training never shows, alone or together."""

from __future__ import annotations

# Things and their characters in Noto Color Emoji, in the order of the glyph sheet.
GLYPHS = {
    "elephant": "🐘", "lion": "🦁", "panda": "🐼", "frog": "🐸", "pig": "🐷", "monkey": "🐵", "chicken": "🐔",
    "penguin": "🐧", "owl": "🦉", "butterfly": "🦋", "turtle": "🐢", "octopus": "🐙", "dolphin": "🐬", "crab": "🦀",
    "bee": "🐝", "ladybug": "🐞", "zebra": "🦓", "giraffe": "🦒", "fox": "🦊", "koala": "🐨", "banana": "🍌",
    "strawberry": "🍓", "grapes": "🍇", "watermelon": "🍉", "pineapple": "🍍", "carrot": "🥕", "pizza": "🍕",
    "doughnut": "🍩", "mushroom": "🍄", "hamburger": "🍔", "soccer ball": "⚽", "basketball": "🏀", "bus": "🚌",
    "rocket": "🚀", "alarm clock": "⏰", "guitar": "🎸", "sunflower": "🌻", "cactus": "🌵", "christmas tree": "🎄",
    "red apple": "🍎", "green apple": "🍏", "red heart": "❤", "yellow heart": "💛", "green heart": "💚",
    "purple heart": "💜", "red book": "📕", "blue book": "📘", "orange book": "📙", "red circle": "🔴",
    "blue circle": "🔵", "yellow circle": "🟡", "orange circle": "🟠", "blue heart": "💙", "orange heart": "🧡",
    "green book": "📗", "green circle": "🟢", "purple circle": "🟣",
}  # fmt: skip
THINGS = tuple(GLYPHS)
# In no training image and no caption, but their colours and shapes occur in other things.
HELD_OUT = ("blue heart", "orange heart", "green book", "green circle", "purple circle")
SEEN_THINGS = tuple(name for name in THINGS if name not in HELD_OUT)
STUFF = (
    "grass", "sand", "water", "sky", "brick wall", "snow", "wood", "lava", "gravel", "autumn leaves", "tiles",
    "checkerboard", "stripes", "polka dots", "night sky",
)  # fmt: skip
CLASSES = STUFF + THINGS


def is_unseen_combination(thing: str, stuff: str) -> bool:
    """Return whether training never shows a thing together with a stuff: every fifth pair."""
    return (THINGS.index(thing) + 3 * STUFF.index(stuff)) % 5 == 0
