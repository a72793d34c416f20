"""What `experiments/fuzz.py` spoils, and how."""
