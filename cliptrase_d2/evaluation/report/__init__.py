"""A page for every run, which opens from disk and loads nothing: numbers, classes, confusions and pictures.

It is made only of files that an evaluation leaves behind, so it can be made again at any time.
"""
