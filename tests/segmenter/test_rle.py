"""Run lengths say what the mask does, however it is cut up."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from cliptrase_d2.segmenter.rle import area, compress, decode, encode

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(MASKS)
def test_a_mask_comes_back(mask: np.ndarray) -> None:
    encoded = encode(mask)
    assert np.array_equal(decode(encoded), mask)
    assert area(encoded["counts"]) == mask.sum()
    assert sum(encoded["counts"]) == mask.size


@given(MASKS)
def test_the_compressed_form_is_that_of_coco_to_the_letter(mask: np.ndarray) -> None:
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert compress(encode(mask)) == {"size": theirs["size"], "counts": theirs["counts"].decode()}
