"""What the scripts in ``datasets/`` share: from the official archives to the folders that the benchmarks read."""
