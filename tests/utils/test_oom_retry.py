from __future__ import annotations

import logging
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.oom_retry import OOMRetry
from tests.pipeline.tiny_segmenter import tiny_segmenter

Batch = list[dict[str, Any]]


class SmallMemory(nn.Module):
    """Sums each image, records its batch sizes, and runs out of memory above a number of pixels."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.batch_sizes: list[int] = []

    def forward(self, batch: Batch) -> list[dict[str, Tensor]]:
        self.batch_sizes.append(len(batch))
        if sum(item["image"][0].numel() for item in batch) > self.pixels:
            self.fail()
        return [{"sum": item["image"].sum()} for item in batch]

    def fail(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def make_images(*sides: int) -> Batch:
    return [{"image": torch.full((3, side, side), i), "file_name": f"{i}.png"} for i, side in enumerate(sides)]


def sum_images(oom_retry: OOMRetry, inputs: Batch) -> dict[int, int]:
    """Return the sum of each image by its index."""
    sums = {}
    for indices, outputs in oom_retry(inputs):
        assert not isinstance(outputs, InputError)
        sums |= {index: int(output["sum"]) for index, output in zip(indices, outputs, strict=True)}
    return sums


@pytest.mark.parametrize(
    ("sides", "sums", "batch_sizes"), [((10, 10), [0, 300], [2]), ((10, 20, 10), [0, 1200, 600], [2, 1])]
)
def test_images_of_one_size_are_run_at_once(sides: tuple[int, ...], sums: list[int], batch_sizes: list[int]) -> None:
    model = SmallMemory(10_000)
    assert sum_images(OOMRetry(model), make_images(*sides)) == dict(enumerate(sums))
    assert model.batch_sizes == batch_sizes


def test_a_batch_that_does_not_fit_is_run_image_by_image_and_so_are_later_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = SmallMemory(250)
    oom_retry = OOMRetry(model)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert sum_images(oom_retry, make_images(10, 10, 10)) == {0: 0, 1: 300, 2: 600}
        assert sum_images(oom_retry, make_images(10, 10)) == {0: 0, 1: 300}
    assert model.batch_sizes == [3, 1, 1, 1, 1, 1, 1, 2]  # the second batch is not tried, a smaller one is
    assert ["3 images" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("pixels", [100, 200, 10_000])
def test_outputs_are_released_before_the_next_part(pixels: int) -> None:
    references: list[weakref.ref[Tensor]] = []

    class Watching(SmallMemory):
        def forward(self, batch: Batch) -> list[dict[str, Tensor]]:
            assert all(reference() is None for reference in references)
            outputs = super().forward(batch)
            references.extend(weakref.ref(output["sum"]) for output in outputs)
            return outputs

    oom_retry = OOMRetry(Watching(pixels))
    for inputs in (make_images(10, 10, 5), make_images(10, 10)):
        for _, outputs in oom_retry(inputs):
            assert not isinstance(outputs, InputError)
            del outputs
    assert len(references) == 5


def test_an_image_that_does_not_fit_is_named_and_the_others_are_processed() -> None:
    inputs = make_images(10, 20, 10)
    inputs[1] |= {"width": 640, "height": 480}
    results = {tuple(indices): outputs for indices, outputs in OOMRetry(SmallMemory(250))(inputs)}
    assert list(results) == [(0, 2), (1,)]
    error = results[1,]
    assert isinstance(error, InputError)
    assert error.where == "1.png"
    assert "640x480" in error.got
    assert "20x20" in error.got


def test_an_image_that_does_not_fit_is_described_by_its_largest_view() -> None:
    views = [torch.zeros(3, 20, 30), torch.zeros(3, 40, 10)]
    ((_, error),) = OOMRetry(SmallMemory(0))([{**make_images(10)[0], "views": views}])
    assert isinstance(error, InputError)
    assert "processed at 30x20" in error.got
    assert "TEST.AUG" in error.fix


@pytest.mark.parametrize(
    "message",
    [
        "",
        "CUDA error: out of memory",
        "MPS backend out of memory (MPS allocated: 8.00 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
    ids=["main memory", "CUDA", "MPS", "cuBLAS"],
)
def test_memory_errors_without_a_class_are_recognised(message: str) -> None:
    class Huge(SmallMemory):
        def fail(self) -> None:
            if message:
                raise RuntimeError(message)
            torch.empty(2**55)  # PyTorch's own error on a CPU

    assert sum_images(OOMRetry(Huge(100)), make_images(10, 10)) == {0: 0, 1: 300}


def test_other_errors_pass_unchanged() -> None:
    class Broken(SmallMemory):
        def fail(self) -> None:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        list(OOMRetry(Broken(0))(make_images(10, 10)))


@pytest.mark.gpu
def test_a_gpu_with_too_little_memory_gives_the_same_results(caplog: pytest.LogCaptureFixture) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = tiny_segmenter().cuda()
    images = [torch.randint(256, (3, 512, 512)).to(torch.uint8) for _ in range(12)]
    inputs = [{"image": image, "file_name": f"{index}.png"} for index, image in enumerate(images)]
    expected = [model([item])[0]["label_map"].cpu() for item in inputs]
    model(inputs)  # measures the memory of the batch
    peak, (_, total) = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(peak / 2 / total)
    try:
        label_maps = {
            index: output["label_map"].cpu()
            for indices, outputs in OOMRetry(model)(inputs)
            for index, output in zip(indices, outputs, strict=True)
        }
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "12 images" in caplog.text
    assert all(torch.equal(label_maps[index], label_map) for index, label_map in enumerate(expected))
