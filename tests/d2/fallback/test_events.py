from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from cliptrase_d2.d2.fallback.events import CommonMetricPrinter, EventStorage


def test_the_innermost_open_storage_is_in_use(backend: SimpleNamespace) -> None:
    events = backend.events
    with events.EventStorage() as outer:
        with events.EventStorage(3) as inner:
            assert events.get_event_storage() is inner
            assert inner.iter == 3
        assert events.get_event_storage() is outer
    with pytest.raises(AssertionError, match="EventStorage"):
        events.get_event_storage()


def test_smoothing_takes_the_median_over_the_last_iterations(backend: SimpleNamespace) -> None:
    storage = backend.events.EventStorage()
    for storage.iter, value in enumerate([100.0, 1.0, 2.0, 9.0]):
        storage.put_scalar("loss", value)
        storage.put_scalar("lr", value, smoothing_hint=False)
    assert storage.latest_with_smoothing_hint(3) == {"loss": (2.0, 3), "lr": (9.0, 3)}  # of 1, 2, 9


def test_a_scalar_is_smoothed_always_or_never(backend: SimpleNamespace) -> None:
    storage = backend.events.EventStorage()
    storage.put_scalar("loss", 1.0)
    with pytest.raises(AssertionError, match="loss"):
        storage.put_scalar("loss", 1.0, smoothing_hint=False)


def test_the_json_file_grows_by_one_line_per_iteration(backend: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    for start in (0, 2):  # the second is a resumed training
        with backend.events.EventStorage(start) as storage:
            writer = backend.events.JSONWriter(str(path))
            for storage.iter in (start, start + 1):
                storage.put_scalar("loss", float(storage.iter), smoothing_hint=False)
                writer.write()
            writer.write()  # nothing new
            writer.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"iteration": i, "loss": float(i)} for i in range(4)]


def test_the_log_line_has_losses_learning_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    with EventStorage(9) as storage, caplog.at_level(logging.INFO):
        logging.getLogger("cliptrase_d2").propagate = True
        scalars = {"total_loss": 0.5, "loss_mask": 0.25, "time": 2.0, "data_time": 0.125, "other": 1.0}
        for name, value in scalars.items():
            storage.put_scalar(name, value)
        storage.put_scalar("lr", 1e-4, smoothing_hint=False)
        CommonMetricPrinter(max_iter=40).write()
        storage.iter = 40
        CommonMetricPrinter(max_iter=40).write()  # the training is over
    assert len(caplog.records) == 1
    expected = "eta: 0:01:00  iter: 9  total_loss: 0.5  loss_mask: 0.25  time: 2.0000  data_time: 0.1250  lr: 0.0001"
    assert caplog.records[0].getMessage().startswith(expected)


def test_tensorboard_gets_every_scalar_once(backend: SimpleNamespace, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = backend.events.TensorboardXWriter(str(tmp_path))
    with backend.events.EventStorage() as storage:
        for storage.iter in range(3):
            storage.put_scalar("loss", 4.0 - storage.iter, smoothing_hint=False)
            writer.write()
            writer.write()
    writer.close()
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    scalars = [(event.step, event.value) for event in accumulator.Scalars("loss")]
    assert scalars == [(0, 4.0), (1, 3.0), (2, 2.0)]
