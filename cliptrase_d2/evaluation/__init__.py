"""Evaluation: evaluate.py runs the loop, confusion.py counts pixels, metrics.py computes scores, report/ shows them."""
