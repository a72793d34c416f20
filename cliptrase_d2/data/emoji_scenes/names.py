"""The words of the emoji scenes: things, stuff, and which of them training never sees, alone or together."""

from __future__ import annotations

# Every thing and its character in Noto Color Emoji; the order is that of the sheet of glyphs.
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
# No picture of training shows these and no caption names them, but their colours and shapes occur in others.
HELD_OUT = ("blue heart", "orange heart", "green book", "green circle", "purple circle")
SEEN_THINGS = tuple(name for name in THINGS if name not in HELD_OUT)
STUFF = (
    "grass", "sand", "water", "sky", "brick wall", "snow", "wood", "lava", "gravel", "autumn leaves", "tiles",
    "checkerboard", "stripes", "polka dots", "night sky",
)  # fmt: skip
CLASSES = STUFF + THINGS


def is_unseen_combination(thing: str, stuff: str) -> bool:
    """Whether training never shows this thing in a picture with this stuff; true of every fifth pair."""
    return (THINGS.index(thing) + 3 * STUFF.index(stuff)) % 5 == 0
