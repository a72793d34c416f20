"""Shared code of the scripts in ``datasets/``: from official archives to the folders that the benchmarks read."""
