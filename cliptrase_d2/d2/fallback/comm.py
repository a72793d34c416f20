"""Serves `detectron2.utils.comm`: what the processes of one job tell each other."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_local_rank = 0


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """The number of processes of the job."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """The number of this process in the job, from 0."""
    return dist.get_rank() if _is_distributed() else 0


def is_main_process() -> bool:
    """Whether this process writes files and logs."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Tell this process how many there are on each machine, after the process group was made."""
    global _local_rank
    _local_rank = get_rank() % num_workers_per_machine


def get_local_rank() -> int:
    """The number of this process on its machine, from 0."""
    return _local_rank


def synchronize() -> None:
    """Wait until every process is here."""
    if get_world_size() > 1:
        on_gpu = dist.get_backend() == dist.Backend.NCCL
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


@functools.lru_cache
def _cpu_group() -> Any:
    """All processes, over gloo, so that gathered objects need no GPU memory; None is the default group."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else None


def all_gather(data: Any) -> list[Any]:
    """The `data` of each process, in order of rank, on every process."""
    gathered = [data] * get_world_size()
    if len(gathered) > 1:
        dist.all_gather_object(gathered, data, group=_cpu_group())
    return gathered


def gather(data: Any, dst: int = 0) -> list[Any]:
    """The `data` of each process, in order of rank, on process `dst`; an empty list on the others."""
    gathered = [data] * get_world_size() if get_rank() == dst else []
    if get_world_size() > 1:
        dist.gather_object(data, gathered or None, dst=dst, group=_cpu_group())
    return gathered


def reduce_dict(input_dict: dict[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Mean or sum of each scalar tensor over the processes, right on process 0 only."""
    if get_world_size() == 1:
        return input_dict
    values = torch.stack([value.detach() for _, value in sorted(input_dict.items())])  # one order on every process
    dist.reduce(values, dst=0)
    values = values / get_world_size() if average else values
    return dict(zip(sorted(input_dict), values, strict=True))
