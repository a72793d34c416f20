"""Communication between the processes of a job, as in `detectron2.utils.comm`."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist

_local_rank = 0


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Return the number of processes of the job."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Return the number of this process in the job, from 0."""
    return dist.get_rank() if _is_distributed() else 0


def is_main_process() -> bool:
    """Return whether this is the process that writes files and logs."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Set the number of processes per machine, after the process group was created."""
    global _local_rank
    _local_rank = get_rank() % num_workers_per_machine


def get_local_rank() -> int:
    """Return the number of this process on its machine, from 0."""
    return _local_rank


def synchronize() -> None:
    """Wait until every process has reached this call."""
    if get_world_size() > 1:
        on_gpu = dist.get_backend() == dist.Backend.NCCL
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


@functools.lru_cache
def _cpu_group() -> Any:
    """Return a gloo group of all processes, for gathering without GPU memory; None stands for the default group."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else None


def all_gather(data: Any) -> list[Any]:
    """Return the `data` of each process, in order of rank, on every process."""
    gathered = [data] * get_world_size()
    if len(gathered) > 1:
        dist.all_gather_object(gathered, data, group=_cpu_group())
    return gathered


def gather(data: Any, dst: int = 0) -> list[Any]:
    """Return the `data` of each process, in order of rank, on process `dst`, and an empty list on the others."""
    gathered = all_gather(data)
    return gathered if get_rank() == dst else []
