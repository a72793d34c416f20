"""One process; tests/d2/test_processes.py has two."""

from __future__ import annotations

import torch

from cliptrase_d2.d2.fallback import comm


def test_one_process_is_the_whole_job() -> None:
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank()) == (1, 0, 0)
    assert comm.is_main_process()
    comm.synchronize()  # returns at once


def test_one_process_gathers_its_own() -> None:
    assert comm.gather({"a": 1}) == [{"a": 1}]
    assert comm.all_gather("b") == ["b"]
    assert comm.reduce_dict({"a": torch.tensor(2.0)}) == {"a": torch.tensor(2.0)}
