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
)
from cliptrase_d2.methods.base import DENSE_METHODS, DenseMethod, LastBlockAttention, get_method, register_method

__all__ = [
    "DENSE_METHODS",
    "DenseMethod",
    "LastBlockAttention",
    "clearclip",
    "clip",
    "cliptrase",
    "dihclip",
    "gem",
    "get_method",
    "maskclip",
    "naclip",
    "register_method",
    "resclip",
    "scclip",
    "sclip",
    "table1",
]
