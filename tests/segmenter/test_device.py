"""Which device a run uses."""

from __future__ import annotations

import pytest
import torch

from cliptrase_d2.config import load_config
from cliptrase_d2.segmenter.device import resolve_device
from cliptrase_d2.utils.errors import InputError


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_gives_way_where_there_is_none(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = load_config(options=["MODEL.DEVICE", device])
    assert resolve_device(cfg)
    assert cfg.MODEL.DEVICE == "cpu"


def test_a_device_that_is_there_stays() -> None:
    cfg = load_config(options=["MODEL.DEVICE", "cpu"])
    assert not resolve_device(cfg)
    assert cfg.MODEL.DEVICE == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "", "hpu"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=r"MODEL\.DEVICE") as caught:
        resolve_device(load_config(options=["MODEL.DEVICE", device]))
    assert "cpu" in str(caught.value.allowed)
