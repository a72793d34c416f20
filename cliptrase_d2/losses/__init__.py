"""The losses of mask classification (MaskFormer, Mask2Former), as SAN is trained with them."""
