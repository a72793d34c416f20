from __future__ import annotations

import torch

from cliptrase_d2.d2.fallback.config import get_cfg


def test_the_device_is_one_that_this_machine_has() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert expected == get_cfg().MODEL.DEVICE


def test_each_config_is_a_new_one() -> None:
    first = get_cfg()
    first.INPUT.CROP.SIZE[0] = 0.1
    first.SOLVER.BASE_LR = 7.0
    assert get_cfg().INPUT.CROP.SIZE == [0.9, 0.9]
    assert get_cfg().SOLVER.BASE_LR == 0.001
