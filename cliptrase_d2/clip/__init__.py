"""Images and words into CLIP's joint space.

Reading order: load (weights), visual (images to `VisualTokens`), text (words to `TextFeatures`).
"""
