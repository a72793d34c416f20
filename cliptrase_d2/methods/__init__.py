"""Training-free methods that read dense features out of CLIP, one file a method. Read `cliptrase` first."""

from cliptrase_d2.methods import (
    clearclip,
    clip,
    cliptrase,
    dihclip,
    gem,
    maskclip,
    naclip,
    resclip,
    scclip,
    sclip,
    table1,
    textregion,
)
from cliptrase_d2.methods.base import (
    DENSE_METHODS,
    IMAGE_METHODS,
    METHOD_CLASSES,
    DenseMethod,
    ImageMethod,
    LastBlockAttention,
    Method,
    get_dense_method,
    get_method,
    register_method,
)
from cliptrase_d2.methods.whole_image import WholeImage
from cliptrase_d2.methods.word_maps import WordMaps, WordValues

__all__ = [
    "DENSE_METHODS",
    "IMAGE_METHODS",
    "METHOD_CLASSES",
    "DenseMethod",
    "ImageMethod",
    "LastBlockAttention",
    "Method",
    "WholeImage",
    "WordMaps",
    "WordValues",
    "clearclip",
    "clip",
    "cliptrase",
    "dihclip",
    "gem",
    "get_dense_method",
    "get_method",
    "maskclip",
    "naclip",
    "register_method",
    "resclip",
    "scclip",
    "sclip",
    "table1",
    "textregion",
]
