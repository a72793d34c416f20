"""Launching of a job: starts its worker processes, or joins those that `torchrun` has started."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.elastic.utils.distributed import get_free_port

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import INTERRUPTED, Interrupted

_TIMEOUT = timedelta(minutes=30)  # of collective calls
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launch(
    comm: ModuleType,
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
) -> None:
    """Run `main_func(*args)` in `num_gpus_per_machine` processes, on GPUs if available, otherwise on the CPU.

    The interface is Detectron2's. One process runs in place; under `torchrun` its processes are used.

    Args:
        comm: communication module of the backend.
        dist_url: where the processes meet, such as "tcp://127.0.0.1:8686"; "auto" picks a free port of this machine.
    Raises:
        InputError: more processes than GPUs.
        SystemExit: a process was killed, or ended with an error that it has already printed.
    """
    available = torch.cuda.device_count()
    if all(name in os.environ for name in _TORCHRUN):
        rank, local_rank, world_size, local_size = (int(os.environ[name]) for name in _TORCHRUN[:4])
        _run_worker(local_rank, comm.__name__, rank - local_rank, world_size, local_size, "env://", main_func, args)
    elif torch.cuda.is_available() and num_gpus_per_machine > available:
        raise InputError("--num-gpus", num_gpus_per_machine, "Lower it.", allowed=f"up to {available}, the GPUs found")
    elif num_gpus_per_machine * num_machines <= 1:
        main_func(*args)
    elif dist_url == "auto" and num_machines > 1:
        raise InputError("--dist-url", "'auto' with several machines", "Give the first machine's tcp://HOST:PORT.")
    else:
        url = f"tcp://127.0.0.1:{get_free_port()}" if dist_url == "auto" else dist_url
        first_rank, world_size = machine_rank * num_gpus_per_machine, num_machines * num_gpus_per_machine
        job = (comm.__name__, first_rank, world_size, num_gpus_per_machine, url, main_func, args)
        try:
            mp.start_processes(_run_worker, job, num_gpus_per_machine)
        except mp.ProcessExitedException as error:
            if error.signal_name:
                sys.exit(f"error: process {error.error_index} was killed by {error.signal_name}; the others were ended")
            sys.exit(error.exit_code)  # the process has printed why


def _run_worker(
    local_rank: int, comm_name: str, first_rank: int, world_size: int, local_size: int, url: str | None, *work: Any
) -> None:
    """Join the process group, over NCCL if there are GPUs and over gloo otherwise, run `main_func`, and leave it.

    An `InputError` ends the process with its message alone, because the parent process would only receive its text.
    After an interruption, only the first process reports the progress.

    Args:
        local_rank: number of this process on its machine, from 0.
        comm_name: full name of the communication module.
        first_rank: rank of this machine's first process in the job.
        world_size: processes of the job.
        local_size: processes of this machine.
        url: where the processes meet.
        work: `main_func` and its arguments.
    """
    main_func, args = work
    comm = sys.modules[comm_name]
    use_cuda = torch.cuda.is_available()
    if use_cuda:
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:  # the processes of a machine share its cores
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))
    rank = first_rank + local_rank
    dist.init_process_group("nccl" if use_cuda else "gloo", url, _TIMEOUT, world_size, rank)
    comm.create_local_process_group(local_size)
    comm.synchronize()  # otherwise the first collective call may time out while other processes still start
    try:
        main_func(*args)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        if isinstance(stop, Interrupted) and rank == 0:
            print(f"interrupted. {stop}. --resume continues the run.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        # A gloo group that lives until the interpreter exits aborts about one process in ten.
        for value in vars(comm).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
        dist.destroy_process_group()
