"""From label maps to numbers: confusion.py counts, metrics.py divides, evaluator.py and table.py report."""
