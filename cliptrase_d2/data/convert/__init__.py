"""Conversion of other tools' labels to index PNG files, one module for each format."""
