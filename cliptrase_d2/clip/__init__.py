"""CLIP: images and words to features in a joint space.

Reading order: load (models and weights), visual (images to `ImageTokens`), text (words to `TextFeatures`).
"""
