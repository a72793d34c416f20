"""Segmenting one image from Python: predictor.py takes it, result.py is what comes back."""
