"""Results of a second model, computed once for each image."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from cliptrase_d2.utils.oom_retry import OOMRetry
from cliptrase_d2.utils.shared_results import (
    SharedResults,
    collect_parts,
    compute_once,
    count_saved_seconds,
    share_results,
)

IMAGES = torch.arange(12.0).view(1, 3, 2, 2)


class Counting:
    """Applies a layer and counts the calls."""

    def __init__(self) -> None:
        self.model, self.calls = nn.Conv2d(3, 4, 1), 0

    def __call__(self, images: Tensor = IMAGES, kind: object = "maps", model: nn.Module | None = None) -> Tensor:
        def compute() -> Tensor:
            self.calls += 1
            result: Tensor = self.model(images)
            return result

        return compute_once(model or self.model, kind, images, compute)


def test_results_are_computed_once_within_the_context_and_every_time_outside() -> None:
    layer = Counting()
    layer()
    layer()
    assert layer.calls == 2
    with share_results():
        first = layer()
        assert layer(IMAGES.clone()) is first
        assert layer.calls == 3
        torch.testing.assert_close(first, layer.model(IMAGES), rtol=0, atol=0)
    layer()
    assert layer.calls == 4


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda layer: layer(IMAGES + torch.eye(2) * 1e-6), id="one pixel"),
        pytest.param(lambda layer: layer(IMAGES.view(3, 1, 2, 2).transpose(0, 1)[:, :, :1]), id="size"),
        pytest.param(lambda layer: layer(IMAGES.transpose(2, 3)), id="order of the pixels"),
        pytest.param(lambda layer: layer(kind="keys"), id="kind"),
        pytest.param(lambda layer: layer(model=nn.Conv2d(3, 4, 1)), id="model"),
        pytest.param(lambda layer: nn.init.zeros_(layer.model.weight) is not None and layer(), id="weights"),
        pytest.param(
            lambda layer: layer.model.load_state_dict(nn.Conv2d(3, 4, 1).state_dict()) and layer(), id="loaded weights"
        ),
        pytest.param(lambda layer: layer.model.to(torch.float64) and layer(IMAGES.double()), id="precision"),
    ],
)
def test_another_input_or_model_has_another_result(change: Callable[[Counting], object]) -> None:
    layer = Counting()
    with share_results():
        layer()
        change(layer)
        assert layer.calls == 2


def test_mixed_precision_has_results_of_its_own() -> None:
    layer = Counting()
    with share_results():
        full = layer()
        with torch.autocast("cpu", torch.bfloat16):
            half = layer()
    assert (full.dtype, half.dtype) == (torch.float32, torch.bfloat16)


def test_a_model_at_the_address_of_a_deleted_one_is_another_model() -> None:
    results, seen = SharedResults(), []
    for number in range(20):
        seen.append(results.get(nn.Identity(), "kind", IMAGES, lambda number=number: torch.tensor(number)))  # type: ignore[misc]
    assert [int(one) for one in seen] == list(range(20))


@dataclass
class _Pair:
    left: Tensor
    right: list[dict[str, Tensor]]


def test_the_oldest_results_go_first_and_views_count_once() -> None:
    results, model = SharedResults(limit=100), nn.Identity()
    whole = torch.zeros(10)  # 40 bytes
    for kind in ("a", "b"):
        results.get(model, kind, IMAGES, lambda: whole.clone())
    assert results.size == 80
    results.get(model, "a", IMAGES, lambda: pytest.fail("it is kept"))
    base = torch.zeros(5)  # 20 bytes
    results.get(model, "c", IMAGES, lambda: _Pair(base[:2], [{"x": base[2:]}]))
    assert results.size == 100
    results.get(model, "d", IMAGES, lambda: torch.zeros(1))
    assert results.size == 64  # without "b", the oldest
    results.get(model, "a", IMAGES, lambda: pytest.fail("it is kept"))
    results.get(model, "too large", IMAGES, lambda: torch.zeros(26))
    assert results.size == 64


def test_results_are_forgotten_when_memory_runs_out() -> None:
    layer, sizes = Counting(), []

    def segment(inputs: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        layer()
        sizes.append(len(inputs))
        if len(inputs) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return [{} for _ in inputs]

    with share_results():
        list(OOMRetry(segment)([{"image": IMAGES[0]}, {"image": IMAGES[0]}]))  # type: ignore[arg-type]
    assert sizes == [2, 1, 1]
    assert layer.calls == 2


def test_parts_are_collected_by_model_and_kind_until_the_context_ends() -> None:
    model, other = nn.Identity(), nn.Identity()
    assert collect_parts(model, "states", frozenset({1})) == {1}
    with share_results():
        assert collect_parts(model, "states", frozenset({1})) == {1}
        assert collect_parts(model, "states", frozenset({2, 3})) == {1, 2, 3}
        assert collect_parts(model, "states", frozenset()) == {1, 2, 3}
        assert collect_parts(model, "qkv", frozenset()) == set()
        assert collect_parts(other, "states", frozenset({4})) == {4}
    assert collect_parts(model, "states", frozenset({2})) == {2}


def test_saved_seconds_are_those_of_every_computation_that_was_not_repeated() -> None:
    def compute() -> Tensor:
        time.sleep(0.02)
        return IMAGES

    model = nn.Identity()
    assert count_saved_seconds() == 0
    with share_results():
        compute_once(model, "kind", IMAGES, compute)
        assert count_saved_seconds() == 0
        compute_once(model, "kind", IMAGES, compute)
        once = count_saved_seconds()
        assert once >= 0.02
        compute_once(model, "kind", IMAGES, compute)
        assert count_saved_seconds() == 2 * once
    assert count_saved_seconds() == 0
