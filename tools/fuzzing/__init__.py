"""What `tools/fuzz.py` spoils, and how."""
