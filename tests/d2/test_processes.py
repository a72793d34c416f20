from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.utils.distributed import get_free_port

from cliptrase_d2.d2 import comm, launch
from cliptrase_d2.utils.errors import InputError
from tests import forked

needs_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would share the GPUs of this machine")


def _communicate(folder: str) -> None:
    """Use every collective call, and write the results of this process to a file."""
    rank = comm.get_rank()
    comm.synchronize()
    results = [comm.get_world_size(), comm.get_local_rank(), sum(comm.all_gather(rank + 1)), comm.gather(rank + 1)]
    Path(folder, str(rank)).write_text(str(results))


def _assert_communicated(folder: Path) -> None:
    assert (folder / "0").read_text() == "[2, 0, 3, [1, 2]]"
    assert (folder / "1").read_text() == "[2, 1, 3, []]"


def _fail() -> None:
    raise ValueError("of process " + str(comm.get_rank()))


def _raise_input_error() -> None:
    raise InputError("photo.jpg", "nothing", "Bring one.")


def test_a_single_process_runs_in_place_and_gathers_its_own_data(tmp_path: Path) -> None:
    launch(_communicate, 1, args=(str(tmp_path),))
    assert (tmp_path / "0").read_text() == "[1, 0, 1, [1]]"


@pytest.mark.slow
@needs_cpu
def test_two_processes_on_the_cpu_communicate(tmp_path: Path) -> None:
    launch(_communicate, 2, dist_url=f"tcp://127.0.0.1:{get_free_port()}", args=(str(tmp_path),))
    _assert_communicated(tmp_path)


@pytest.mark.slow
@needs_cpu
def test_an_error_in_a_process_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    start = partial(torch.multiprocessing.start_processes, start_method="forkserver")  # with PyTorch imported
    monkeypatch.setattr(torch.multiprocessing, "start_processes", start)
    with pytest.raises(Exception, match="of process"):
        launch(_fail, 2, dist_url="auto")


@pytest.mark.slow
@needs_cpu
def test_an_input_error_ends_all_processes_with_its_message(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from cliptrase_d2.d2 import launch\nfrom tests.d2.test_processes import _raise_input_error\n"
        "launch(_raise_input_error, 2, dist_url='auto')\n"
    )
    result = forked.run([str(script)], tmp_path)
    assert result.returncode == 1
    assert "error: photo.jpg: nothing. Bring one." in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@needs_cpu
def test_launch_joins_the_processes_of_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom cliptrase_d2.d2 import launch\nfrom tests.d2.test_processes import _communicate\n"
        "launch(_communicate, 1, args=(sys.argv[1],))\n"
    )
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(get_free_port())]
    result = forked.run([*torchrun, *forked.FORKING, str(script), str(tmp_path)], tmp_path)
    assert result.returncode == 0, result.stderr
    _assert_communicated(tmp_path)


def test_more_processes_than_gpus_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"--num-gpus: 3.*2"):
        launch(_fail, 3, dist_url="auto")


def test_an_automatic_address_is_rejected_for_several_machines() -> None:
    with pytest.raises(InputError, match="--dist-url: 'auto'"):
        launch(_fail, 1, num_machines=2, dist_url="auto")
