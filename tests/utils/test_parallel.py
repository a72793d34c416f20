from __future__ import annotations

import os
import signal
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.parallel import map_parallel


def _square(value: int) -> int:
    if value < 0:
        raise InputError("value", value, "Correct it.")
    return value * value


def _kill(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return value


def _record(path: Path) -> None:
    time.sleep(0.05)
    path.touch()


@pytest.mark.parametrize(("workers", "count"), [(0, 3), (1, 200), (2, 200), (2, 0)])
def test_results_are_in_the_order_of_the_items(workers: int, count: int) -> None:
    squares = list(map_parallel(_square, range(count), workers, title="squares", unit="number"))
    assert squares == [value * value for value in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_function_is_raised(workers: int) -> None:
    values = [*range(150), -1]
    with pytest.raises(InputError, match="value: -1"):
        list(map_parallel(_square, values, workers, title="squares", unit="number"))


def test_a_killed_worker_process_is_reported() -> None:
    with pytest.raises(InputError, match=r"--workers: .*killed"):
        list(map_parallel(_kill, range(4), 2, title="killed", unit="number", min_per_worker=1))


def test_an_interruption_cancels_the_remaining_items(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(400)]
    results = map_parallel(_record, paths, 2, title="interrupted", unit="file")
    next(results)
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)
    assert len(list(tmp_path.iterdir())) < 100
    assert not active_children()
