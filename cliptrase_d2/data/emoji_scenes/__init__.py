"""Emoji scenes: drawn pictures of things on textures, with the class of every pixel and with captions.

Reading order: names.py says which classes there are, splits.py which scenes; textures.py and scene.py draw them.
Then files.py makes a data set to evaluate on; pairs.py and batches.py the pictures with captions that Emoji CLIP learns
from.
"""
