"""Data sets: from image and label files to the inputs of the model.

Reading order: custom.py describes a data set, files.py lists its files and register.py registers it. images.py reads
images and label files, labels.py decodes labels, protocol.py resizes, mapper.py does both for a record and loader.py
batches. builtin.py registers the benchmarks in benchmarks.py and the emoji scenes in emoji_scenes/.
"""
