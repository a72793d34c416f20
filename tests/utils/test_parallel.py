from __future__ import annotations

import os
import signal

import pytest

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.parallel import in_parallel


def _square(value: int) -> int:
    if value < 0:
        raise InputError("value", value, "Correct it.", allowed="0 or more")
    return value * value


def _end(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return value


@pytest.mark.parametrize(("workers", "count"), [(0, 3), (1, 200), (2, 200), (2, 0)])
def test_results_come_in_the_order_of_the_items(workers: int, count: int) -> None:
    found = list(in_parallel(_square, range(count), workers, title="squares", unit="number"))
    assert found == [value * value for value in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_error_of_the_function_comes_through(workers: int) -> None:
    values = [*range(150), -1]
    with pytest.raises(InputError, match="value: -1"):
        list(in_parallel(_square, values, workers, title="squares", unit="number"))


def test_process_that_is_killed_ends_in_one_sentence() -> None:
    with pytest.raises(InputError, match=r"ended from outside.*fewer --workers"):
        list(in_parallel(_end, range(4), 2, title="killed", unit="number", worth_a_process=1))
