from __future__ import annotations

import os
import socket
from functools import partial
from pathlib import Path

import pytest
import torch

from cliptrase_d2.d2 import comm, launch
from cliptrase_d2.utils.errors import InputError
from tests import forked

needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would share the GPUs of this machine")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _meet(folder: str) -> None:
    """Add up a number of each process in every way there is, and write down what this process knows."""
    rank = comm.get_rank()
    comm.synchronize()
    reduced = comm.reduce_dict({"b": torch.tensor(10.0 * rank), "a": torch.tensor(1.0 + rank)}, average=False)
    known = [comm.get_world_size(), comm.get_local_rank(), sum(comm.all_gather(rank + 1)), comm.gather(rank + 1)]
    if comm.is_main_process():
        known += [reduced["a"].item(), reduced["b"].item()]
    Path(folder, str(rank)).write_text(str(known))


def _check(folder: Path) -> None:
    assert (folder / "0").read_text() == "[2, 0, 3, [1, 2], 3.0, 10.0]"
    assert (folder / "1").read_text() == "[2, 1, 3, []]"


def _fail() -> None:
    raise ValueError("of process " + str(comm.get_rank()))


def _refuse() -> None:
    raise InputError("photo.jpg", "nothing", "Bring one.", allowed="a photograph")


@pytest.fixture
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """New processes find PyTorch imported."""
    start = partial(torch.multiprocessing.start_processes, start_method="forkserver")
    monkeypatch.setattr(torch.multiprocessing, "start_processes", start)


def test_one_process_runs_here(tmp_path: Path) -> None:
    launch(lambda folder: (folder / "pid").write_text(str(os.getpid())), 1, args=(tmp_path,))
    assert (tmp_path / "pid").read_text() == str(os.getpid())


@pytest.mark.slow
@needs_cpu
def test_two_processes_on_the_cpu_sum_their_numbers(tmp_path: Path) -> None:
    launch(_meet, 2, dist_url=f"tcp://127.0.0.1:{_free_port()}", args=(str(tmp_path),))
    _check(tmp_path)


@pytest.mark.slow
@needs_cpu
def test_an_error_in_a_process_reaches_the_caller(quick_start: None) -> None:
    with pytest.raises(Exception, match="of process"):
        launch(_fail, 2, dist_url="auto")


@pytest.mark.slow
@needs_cpu
def test_an_input_error_ends_all_processes_with_its_message(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from cliptrase_d2.d2 import launch\nfrom tests.d2.test_processes import _refuse\n"
        "launch(_refuse, 2, dist_url='auto')\n"
    )
    result = forked.run([str(script)], tmp_path)
    assert result.returncode == 1
    assert "error: photo.jpg: nothing. Allowed: a photograph. Bring one." in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@needs_cpu
def test_launch_joins_the_processes_of_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom cliptrase_d2.d2 import launch\nfrom tests.d2.test_processes import _meet\n"
        "launch(_meet, 1, args=(sys.argv[1],))\n"
    )
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(_free_port())]
    result = forked.run([*torchrun, *forked.FORKING, str(script), str(tmp_path)], tmp_path)
    assert result.returncode == 0, result.stderr
    _check(tmp_path)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"--num-gpus: 3. Allowed: up to 2, the GPUs found"):
        launch(_fail, 3, dist_url="auto")
