"""Targets and mutators of `experiments/fuzz.py`."""
