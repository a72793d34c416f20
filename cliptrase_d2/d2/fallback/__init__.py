"""The few Detectron2 interfaces that this project uses, on fvcore, iopath and torch, for machines without Detectron2.

Same names, call signatures and file formats; no detection. Use them through `cliptrase_d2.d2`.
"""
