from __future__ import annotations

import pickle
from pathlib import Path

from cliptrase_d2.utils.errors import InputError, WriteError


def test_the_message_answers_where_what_came_what_is_allowed_and_what_to_do() -> None:
    error = InputError("a.png", "16 bits", "Convert it.", allowed="8 bits")
    assert str(error) == "a.png: 16 bits. Allowed: 8 bits. Convert it."


def test_it_is_a_value_error_with_its_parts() -> None:
    error = InputError(Path("a.png"), 16, "Convert it.", allowed=8)
    assert isinstance(error, ValueError)
    assert (error.where, error.got, error.allowed, error.fix) == (Path("a.png"), 16, 8, "Convert it.")


def test_it_survives_the_way_out_of_a_worker_process() -> None:
    error = InputError("a.png", "16 bits", "Convert it.", allowed="8 bits")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is InputError
    assert str(copy) == str(error)


def test_a_disk_that_refuses_is_an_error_of_the_system_too() -> None:
    error = WriteError.of(Path("a.png"), OSError(28, "No space left on device"))
    copy = pickle.loads(pickle.dumps(error))
    for found in (error, copy):
        assert isinstance(found, OSError)
        assert isinstance(found, InputError)
        assert str(found).startswith("a.png: cannot be written (No space left on device). Allowed: a place")
