"""Serves `detectron2.utils.comm`: what the processes of one job tell each other."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_local_group: Any = None


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
    """Group the processes of each machine; all processes call it once, after the process group was made."""
    global _local_group
    for first in range(0, get_world_size(), num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)
        if get_rank() in ranks:
            _local_group = group


def get_local_rank() -> int:
    """The number of this process on its machine, from 0."""
    if _is_distributed() and _local_group is None:
        raise AssertionError("The local process group is missing: start the processes with launch().")
    return dist.get_rank(group=_local_group) if _is_distributed() else 0


def synchronize() -> None:
    """Wait until every process is here."""
    if get_world_size() > 1:
        on_gpu = dist.get_backend() == dist.Backend.NCCL
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


@functools.lru_cache
def _cpu_group() -> Any:
    """All processes, over gloo, so that gathered objects need no GPU memory."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD


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
    names = sorted(input_dict)  # the same order on every process
    with torch.no_grad():
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average and is_main_process():
            values /= get_world_size()
    return dict(zip(names, values, strict=True))
