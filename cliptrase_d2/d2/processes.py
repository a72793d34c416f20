"""Start the worker processes, on either side of the door, or join those that `torchrun` has started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import INTERRUPTED, Interrupted

TIMEOUT = timedelta(minutes=30)
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Place(NamedTuple):
    """Where one process stands in the job: its number and how many there are, in all and on its machine."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def run_in_group(
    comm: ModuleType, place: Place, url: str, main_func: Callable[..., Any], args: tuple[Any, ...], timeout: timedelta
) -> None:
    """Meet the other processes at `url`, over NCCL where there are GPUs and else over gloo, and run `main_func`."""
    use_cuda = torch.cuda.is_available()
    if use_cuda:
        torch.cuda.set_device(place.local_rank)
    dist.init_process_group(
        "nccl" if use_cuda else "gloo", url, timeout=timeout, world_size=place.world_size, rank=place.rank
    )
    comm.create_local_process_group(place.local_size)
    comm.synchronize()  # else the first collective call may time out while others still start
    main_func(*args)


def run_and_leave(comm_name: str, local_size: int, main_func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Run `main_func` in a process of the group, then end the group and all references to it.

    On the CPU the processes of a machine share its cores, unless OMP_NUM_THREADS says how many each may take.

    An `InputError` ends the process with its message alone: the process that waits for this one would only get text.
    So does an interruption, which the first process tells of.
    The process aborts now and then (about one time in ten) if its gloo group lives until the interpreter exits.
    """
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
    try:
        main_func(*args)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        if isinstance(stop, Interrupted) and dist.get_rank() == 0:
            print(f"interrupted. {stop}. --resume goes on.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        for value in vars(sys.modules[comm_name]).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
        dist.destroy_process_group()


def make_launch(spawn: Callable[..., None], comm: ModuleType) -> Callable[..., None]:
    """A `launch` with the interface of `spawn` that also works inside `torchrun`, and ends its process groups.

    Args:
        spawn: `launch` of the side in use.
        comm: the side's communication module, which must learn of the process group.
    """

    def launch(
        main_func: Callable[..., Any],
        num_gpus_per_machine: int,
        num_machines: int = 1,
        machine_rank: int = 0,
        dist_url: str | None = None,
        args: tuple[Any, ...] = (),
        timeout: timedelta = TIMEOUT,
    ) -> None:
        """Run `main_func(*args)` in `num_gpus_per_machine` processes: on GPUs where there are any, else on the CPU."""
        available = torch.cuda.device_count()
        if all(name in os.environ for name in _TORCHRUN):
            rank, local_rank, world_size, local_size = (int(os.environ[name]) for name in _TORCHRUN[:4])
            place = Place(rank, world_size, local_rank, local_size)
            work = (comm.__name__, local_size, main_func, args)
            run_in_group(comm, place, "env://", run_and_leave, work, timeout)
        elif torch.cuda.is_available() and num_gpus_per_machine > available:
            raise InputError(
                "--num-gpus", num_gpus_per_machine, "Lower it.", allowed=f"up to {available}, the GPUs found"
            )
        elif num_gpus_per_machine * num_machines <= 1:
            main_func(*args)
        else:
            work = (comm.__name__, num_gpus_per_machine, main_func, args)
            try:
                spawn(run_and_leave, num_gpus_per_machine, num_machines, machine_rank, dist_url, work, timeout)
            except ProcessExitedException as error:
                if error.signal_name:
                    sys.exit(f"error: process {error.error_index} was ended by {error.signal_name}, so all others were")
                sys.exit(error.exit_code)  # the process has said why

    return launch
