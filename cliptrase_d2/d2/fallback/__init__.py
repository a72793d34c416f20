"""The Detectron2 interfaces that this project uses, on fvcore, iopath and torch, for machines without Detectron2.

Names, arguments and file formats are Detectron2's. Detection, and options that the project does not use, are left out.
Import the names from `cliptrase_d2.d2`.
"""
