"""The Python API: `segmenter.py` segments images, `result.py` holds the result, `explanation.py` explains it."""
