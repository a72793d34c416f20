"""Report page of a run: one HTML file with scores, classes, confusions and pictures that loads nothing.

It is made only of files that an evaluation leaves on disk, so it can be made again at any time.
"""
