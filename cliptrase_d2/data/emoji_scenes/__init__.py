"""Emoji scenes: drawn images of emoji on textures, with pixel labels.

Reading order: names.py lists the classes, splits.py generates layouts, textures.py and scene.py draw them, and files.py
writes data sets. The captioned images that Emoji CLIP was trained on are in tools/emoji_clip.
"""
