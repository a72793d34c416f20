"""Serves `detectron2.engine.launch`: one process per GPU, or several on the CPU over gloo."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.multiprocessing as mp

from cliptrase_d2.d2.fallback import comm
from cliptrase_d2.d2.processes import TIMEOUT, Place, run_in_group


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
    timeout: timedelta = TIMEOUT,
) -> None:
    """Run `main_func(*args)` in `num_gpus_per_machine` new processes, or in this one where one is enough.

    Args:
        dist_url: where the processes meet, such as "tcp://127.0.0.1:8686"; "auto" finds a free port of this machine.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        if num_machines > 1:
            raise AssertionError("dist_url=auto not supported in multi-machine jobs.")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            dist_url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    places = [
        Place(machine_rank * num_gpus_per_machine + local_rank, world_size, local_rank, num_gpus_per_machine)
        for local_rank in range(num_gpus_per_machine)
    ]
    mp.start_processes(_worker, nprocs=len(places), args=(places, dist_url, main_func, args, timeout))


def _worker(index: int, places: list[Place], *work: Any) -> None:
    run_in_group(comm, places[index], *work)
