from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cliptrase_d2.utils.errors import InputError, WriteError, name_arguments


@pytest.mark.parametrize(
    "error",
    [
        InputError("a.png", "16 bits", "Convert it.", allowed="8 bits"),
        InputError(Path("a.png"), 16, "Convert it."),
        WriteError.of(Path("a.png"), OSError(28, "No space left on device")),
    ],
)
def test_errors_survive_the_way_out_of_a_worker_process(error: InputError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.where, copy.got, copy.fix, copy.allowed) == (error.where, error.got, error.fix, error.allowed)


def test_the_message_has_place_fault_choices_and_remedy() -> None:
    assert str(InputError("a.png", "16 bits", "Convert it.")) == "a.png: 16 bits. Convert it."
    assert str(InputError("a.png", "16 bits", "Convert it.", "8")) == "a.png: 16 bits. Allowed: 8. Convert it."
    error = WriteError.of("a.png", OSError(28, "No space left on device"))
    assert isinstance(error, OSError)
    assert str(error).startswith("a.png: cannot be written (No space left on device). ")


KEYS = {"eps": "MODEL.CLIPTRASE.EPS"}


@pytest.mark.parametrize("kind", [InputError, WriteError])
def test_an_argument_is_replaced_by_its_configuration_key(kind: type[InputError]) -> None:
    with pytest.raises(kind) as caught, name_arguments(KEYS):
        raise kind("eps", -1, "Raise it.", allowed="more than 0")
    assert type(caught.value) is kind
    assert str(caught.value) == "MODEL.CLIPTRASE.EPS: -1. Allowed: more than 0. Raise it."
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("error", [InputError(Path("a.png"), "16 bits", "Convert it."), ValueError("eps")])
def test_errors_of_other_places_and_types_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, name_arguments(KEYS):
        raise error
    assert caught.value is error
