"""SAN's side network (https://arxiv.org/abs/2302.12242): masks and attention biases from an image and CLIP's features.

Reading order: network.py, with fusion.py and mask_decoder.py; warm_start.py and query_init.py give its queries what
CLIPtrase's masks know.
"""
