"""A memory that is too small for a batch, or for an image."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.oom_retry import OOMRetry
from tests.pipeline.tiny_segmenter import scene, tiny_segmenter


class SmallMemory(nn.Module):
    """Adds up an image; runs out of memory above so many pixels, and remembers how many images it was asked for."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.asked: list[int] = []

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        self.asked.append(len(batched_inputs))
        if sum(given["image"][0].numel() for given in batched_inputs) > self.pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return [{"sum": given["image"].sum()} for given in batched_inputs]


def images(*sides: int) -> list[dict[str, Any]]:
    return [
        {"image": torch.full((3, side, side), index), "file_name": f"{index}.png"} for index, side in enumerate(sides)
    ]


def outputs(oom_retry: OOMRetry, inputs: list[dict[str, Any]]) -> dict[int, int]:
    """Sum by the number of the image."""
    found = {}
    for members, results in oom_retry(inputs):
        assert not isinstance(results, InputError)
        found |= {member: int(result["sum"]) for member, result in zip(members, results, strict=True)}
    return found


def test_a_batch_that_fits_goes_as_one() -> None:
    model = SmallMemory(300)
    assert outputs(OOMRetry(model), images(10, 10, 10)) == {0: 0, 1: 300, 2: 600}
    assert model.asked == [3]


def test_a_batch_that_does_not_fit_goes_image_by_image_and_so_do_those_like_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = SmallMemory(250)
    oom_retry = OOMRetry(model)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert outputs(oom_retry, images(10, 10, 10)) == {0: 0, 1: 300, 2: 600}
        assert outputs(oom_retry, images(10, 10)) == {0: 0, 1: 300}
    assert model.asked == [3, 1, 1, 1, 1, 1, 1, 2]  # the second batch is not tried, a smaller one is
    assert [record.message.split(":")[0] for record in caplog.records] == ["Out of memory with 3 images at a time"]


def test_images_of_other_sizes_go_by_themselves() -> None:
    model = SmallMemory(10_000)
    assert outputs(OOMRetry(model), images(10, 20, 10)) == {0: 0, 1: 1200, 2: 600}
    assert model.asked == [2, 1]


@pytest.mark.parametrize("pixels", [100, 200, 10_000])
def test_outputs_of_one_part_are_gone_when_the_next_is_made(pixels: int) -> None:
    made: list[weakref.ref[Tensor]] = []

    class Watching(SmallMemory):
        def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
            assert all(output() is None for output in made)
            outputs = super().forward(batched_inputs)
            made.extend(weakref.ref(output["sum"]) for output in outputs)
            return outputs

    oom_retry = OOMRetry(Watching(pixels))
    for inputs in (images(10, 10, 5), images(10, 10)):
        for _, outputs in oom_retry(inputs):
            assert not isinstance(outputs, InputError)
            del outputs
    assert len(made) == 5


def test_an_image_that_does_not_fit_is_named_and_the_others_come() -> None:
    inputs = images(10, 20, 10)
    inputs[1] |= {"width": 640, "height": 480}
    found = {tuple(members): results for members, results in OOMRetry(SmallMemory(250))(inputs)}
    assert list(found) == [(0, 2), (1,)]
    error = found[1,]
    assert isinstance(error, InputError)
    assert str(error).startswith("1.png: an image of 640x480 pixels, seen at 20x20, for which the memory is too small.")
    assert "Lower INPUT.MIN_SIZE_TEST" in str(error)


def _refused_by_the_system() -> None:
    torch.empty(2**55)  # what PyTorch itself says on a CPU


def _said(text: str) -> Callable[[], None]:
    def fail() -> None:
        raise RuntimeError(text)

    return fail


@pytest.mark.parametrize(
    "fail",
    [
        _refused_by_the_system,
        _said("CUDA error: out of memory"),
        _said("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        _said("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["main memory", "CUDA", "MPS", "cuBLAS"],
)
def test_a_memory_without_an_error_of_its_own_counts_as_well(fail: Callable[[], None]) -> None:
    class Huge(SmallMemory):
        def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
            if len(batched_inputs) > 1:
                fail()
            return super().forward(batched_inputs)

    assert outputs(OOMRetry(Huge(300)), images(10, 10)) == {0: 0, 1: 300}


def test_other_errors_come_through() -> None:
    class Broken(nn.Module):
        def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        list(OOMRetry(Broken())(images(10, 10)))


def test_the_results_are_those_of_the_batch() -> None:
    model = tiny_segmenter()
    inputs = [{"image": scene(index)} for index in range(3)]
    whole = model(inputs)
    forward = model.forward

    def short_of_memory(batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        if len(batched_inputs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(batched_inputs)

    model.forward = short_of_memory  # type: ignore[method-assign]
    for members, results in OOMRetry(model)(inputs):
        assert not isinstance(results, InputError)
        assert torch.equal(results[0]["label_map"], whole[members[0]]["label_map"])
        torch.testing.assert_close(results[0]["pred_masks"], whole[members[0]]["pred_masks"])


@pytest.mark.gpu
def test_a_gpu_whose_memory_is_too_small_gives_what_a_large_one_gives(caplog: pytest.LogCaptureFixture) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = tiny_segmenter().cuda()
    inputs = [
        {"image": torch.randint(256, (3, 512, 512)).to(torch.uint8), "file_name": f"{index}.png"} for index in range(12)
    ]
    expected = [model([given])[0]["label_map"].cpu() for given in inputs]
    model(inputs)  # all at once, which has to fit to be the better way
    most, (_, whole) = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(most / 2 / whole)
    try:
        found = {
            member: output["label_map"].cpu()
            for members, outputs in OOMRetry(model)(inputs)
            for member, output in zip(members, outputs, strict=True)
        }
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "Out of memory with 12 images at a time" in caplog.text
    for member, label_map in enumerate(expected):
        assert torch.equal(found[member], label_map)
